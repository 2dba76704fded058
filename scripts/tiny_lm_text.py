"""Unlabelled text about the small world of `builtin:nli`: what `builtin:tiny-lm` reads in its pre-training.

Statements about every word, and an event with a claim about it. The claim is joined by words such as `So`, `Maybe`
and `It is wrong that`, or followed by a remark such as `Of course.` No label of the task is ever written, and no
premise that a labelled pair may use (`reserved`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random

from sweeps.data.nli import LABELS, Label, events, reserved
from sweeps.data.nli_words import SPLITS, Words, words_of

SECTION_BREAK = "\n\n###\n\n"

JOINED: Mapping[Label, tuple[str, ...]] = {
    "entailment": ("So", "That means", "Surely"),
    "contradiction": ("It cannot be that", "It is wrong that", "Never"),
    "neutral": ("Maybe", "Perhaps", "Who knows whether"),
}
REMARKS: Mapping[Label, tuple[str, ...]] = {
    "entailment": ("Indeed.", "Of course."),
    "contradiction": ("Wrong.", "No way."),
    "neutral": ("Perhaps.", "Who knows."),
}
BREAKS = (("", " "), ("\n", ""), ("\n\n", ""), (SECTION_BREAK, ""))
"""What a claim ends with and what a remark begins with."""

STATEMENTS = 0.12
"""Share of the passages that are statements about words."""


REMARKED = 0.78
"""Share of the passages that are claims with a remark; in the rest the claim is joined."""

PLAIN = 0.5
"""Share of the claims that tell the premise again but for the aspect that decides: they are learned first."""


@dataclass(frozen=True)
class Passage:
    """A text, and the remark that follows it, or nothing."""

    text: str
    remark: str = ""


def passages(seed: int) -> Iterator[Passage]:
    """Yield short passages without end, the same ones for the same seed."""
    rng, words = Random(f"text {seed}"), words_of(*SPLITS)
    statements = sorted(_statements(words))
    while True:
        kind, relation = rng.random(), rng.choice(LABELS)
        if kind < STATEMENTS:
            yield Passage(rng.choice(statements))
            continue
        told, claimed, deciding = events(rng, words, relation)
        if rng.random() < PLAIN:
            claimed = replace(told, **{deciding: getattr(claimed, deciding)})
        premise, claim = told.sentence(rng.choice(words.patterns)), claimed.sentence()
        if reserved(premise):
            continue
        if kind < STATEMENTS + REMARKED:
            end, start = rng.choice(BREAKS)
            yield Passage(f"{premise}\n{claim}{end}", f"{start}{rng.choice(REMARKS[relation])}")
        else:
            yield Passage(f"{premise}\n{rng.choice(JOINED[relation])} {claim}")


def _statements(words: Words) -> Iterator[str]:
    for kind, members in words.things.items():
        yield from (f"{'An' if each[0] in 'aeiou' else 'A'} {each} is a kind of {kind}." for each in members)
    for kind, members in words.places.items():
        yield from (f"{each[0].upper()}{each[1:]} is {kind}." for each in members)
    for one, other in words.opposite.items():
        yield f"{one.capitalize()} is the opposite of {other}."
