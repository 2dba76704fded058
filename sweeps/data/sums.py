"""`builtin:sums`: generated word problems with one calculation, in the form of GSM8K.

Results on them are not GSM8K results.

The numbers have one digit, and the parts share all words and all calculations. They share no
combination of person, thing and calculation. A model must therefore find the numbers and know
whether to add or to subtract; the sums themselves it may learn by heart.
"""

from __future__ import annotations

from random import Random

from sweeps.data.english_forms import plural
from sweeps.data.held_out import Drawn, draw_records
from sweeps.data.nli_words import SPLITS, Split, words_of

PROMPT = "{question}\n\n###\n\n"
COMPLETION = "{answer}"
"""The templates if the sweep file has none."""

MAX_NUMBER = 9

_MORE = (
    "{name} has {a} {things}. {other} brings {b} more. How many {things} are there?",
    "There are {a} {things} here and {b} {things} there. How many {things} can {name} see?",
)
_LESS = (
    "{name} has {a} {things}. {other} takes {b} of them. How many {things} are left?",
    "Of {a} {things}, {name} is selling {b}. How many {things} are left?",
)


def generate(part: Split, examples: int, seed: int) -> list[dict[str, str]]:
    """Return `examples` records `{"question", "answer"}`; an answer ends with `#### ` and a number.

    See `draw_records` for what the parts have in common.
    """
    words = words_of(*SPLITS)
    things = tuple(thing for members in words.things.values() for thing in members)

    def draw(rng: Random) -> Drawn:
        name, other = rng.sample(words.names, 2)
        thing, adds = rng.choice(things), rng.random() < 0.5
        a, b = sorted((rng.randint(2, MAX_NUMBER), rng.randint(2, MAX_NUMBER)), reverse=True)
        if adds:
            a, b = rng.sample((a, b), 2)
        result = a + b if adds else a - b
        question = rng.choice(_MORE if adds else _LESS).format(name=name, other=other, things=plural(thing), a=a, b=b)
        calculation = f"{a}{'+' if adds else '-'}{b}"
        answer = f"{calculation} = <<{calculation}={result}>>{result}\n#### {result}"
        return Drawn(f"{name} {thing} {calculation}", {"question": question, "answer": answer})

    return draw_records(draw, part, examples, seed)
