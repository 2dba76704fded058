"""`builtin:rewrites`: generated instructions to change a short text, in the columns of Alpaca.

The parts share all words and instructions, but no text. A model must therefore learn what each
instruction does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from sweeps.data.builtin.english_forms import plural, with_article
from sweeps.data.builtin.held_out import Drawn, draw_records
from sweeps.data.builtin.nli_words import SPLITS, Split, Words, words_of


@dataclass(frozen=True)
class Rewrite:
    """A text and what becomes of it."""

    text: str
    result: str


def _capitals(rng: Random, words: Words) -> Rewrite:
    text = f"{rng.choice(words.names)} {rng.choice(_things(words))}"
    return Rewrite(text, text.upper())


def _reversed(rng: Random, words: Words) -> Rewrite:
    chosen = rng.sample((*words.names, *_things(words), *words.qualities), 3)
    return Rewrite(" ".join(chosen), " ".join(chosen[::-1]))


def _plural(rng: Random, words: Words) -> Rewrite:
    quality, thing = rng.choice(words.qualities), rng.choice(_things(words))
    return Rewrite(with_article(f"{quality} {thing}"), f"{quality} {plural(thing)}")


def _opposite(rng: Random, words: Words) -> Rewrite:
    quality, thing = rng.choice(words.qualities), rng.choice(_things(words))
    return Rewrite(with_article(f"{quality} {thing}"), with_article(f"{words.opposite[quality]} {thing}"))


def _past(rng: Random, words: Words) -> Rewrite:
    name, act, thing = rng.choice(words.names), rng.choice(words.acts), with_article(rng.choice(_things(words)))
    return Rewrite(f"{name} is {act} {thing}.", f"{name} was {act} {thing}.")


def _question(rng: Random, words: Words) -> Rewrite:
    name, act, thing = rng.choice(words.names), rng.choice(words.acts), with_article(rng.choice(_things(words)))
    return Rewrite(f"{name} is {act} {thing}.", f"Is {name} {act} {thing}?")


def _swapped(rng: Random, words: Words) -> Rewrite:
    (one, other), act = rng.sample(words.names, 2), rng.choice(words.acts)
    return Rewrite(f"{one} is {act} {other}.", f"{other} is {act} {one}.")


def _things(words: Words) -> tuple[str, ...]:
    return tuple(thing for members in words.things.values() for thing in members)


_Draw: TypeAlias = Callable[[Random, Words], Rewrite]

INSTRUCTIONS: Mapping[str, _Draw] = {
    "Write this in capital letters.": _capitals,
    "Reverse the order of the words.": _reversed,
    "Write the plural.": _plural,
    "Replace the adjective by its opposite.": _opposite,
    "Write this in the past tense.": _past,
    "Make this a question.": _question,
    "Swap the two names.": _swapped,
}
"""The instructions, and what draws a text for each."""


def generate(part: Split, examples: int, seed: int) -> list[dict[str, str]]:
    """Return `examples` records `{"instruction", "input", "output"}`.

    See `draw_records` for what the parts have in common.
    """
    words = words_of(*SPLITS)

    def draw(rng: Random) -> Drawn:
        instruction, draw_text = rng.choice(list(INSTRUCTIONS.items()))
        rewrite = draw_text(rng, words)
        return Drawn(rewrite.text, {"instruction": instruction, "input": rewrite.text, "output": rewrite.result})

    return draw_records(draw, part, examples, seed)
