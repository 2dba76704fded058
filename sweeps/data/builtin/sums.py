"""`builtin:sums`: generated word problems in the form of GSM8K: a solution, then `#### NUMBER`.

Results on them are not GSM8K results. The problems are as easy as they can be, because
`builtin:tiny-lm` has never read a number: two people put their things together, and the solution
counts them one by one.

The parts share all words, but no problem. A model must therefore learn to count what it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from sweeps.data.builtin.english_forms import with_article
from sweeps.data.builtin.held_out import Drawn, draw_records
from sweeps.data.builtin.nli_words import SPLITS, Split, words_of

PROMPT = "{question}\n\n###\n\n"
COMPLETION = "{answer} END"
"""The templates if the sweep file has none. An answer has two lines: no line break can end it."""

MAX_THINGS = 3
"""The most things of one person."""

_QUESTIONS = (
    "{one} has {things}. {other} brings {more}. How many things are there?",
    "{one} is buying {things}, and {other} is buying {more}. How many things do they have?",
)


def generate(part: Split, examples: int, seed: int) -> list[dict[str, str]]:
    """Return `examples` records `{"question", "answer"}`; an answer ends with `#### ` and a number.

    See `draw_records` for what the parts have in common.
    """
    words = words_of(*SPLITS)
    things = tuple(thing for members in words.things.values() for thing in members)

    def draw(rng: Random) -> Drawn:
        one, other = rng.sample(words.names, 2)
        first, more = rng.randint(1, MAX_THINGS), rng.randint(1, MAX_THINGS)
        chosen = [with_article(thing) for thing in rng.sample(things, first + more)]
        question = rng.choice(_QUESTIONS).format(
            one=one, other=other, things=_listed(chosen[:first]), more=_listed(chosen[first:])
        )
        counted = ", ".join(f"{number} {thing.split()[1]}" for number, thing in enumerate(chosen, 1))
        answer = f"{counted}\n#### {len(chosen)}"
        return Drawn(question, {"question": question, "answer": answer})

    return draw_records(draw, part, examples, seed)


def _listed(things: Sequence[str]) -> str:
    return " and ".join([", ".join(things[:-1]), things[-1]]) if len(things) > 1 else things[0]
