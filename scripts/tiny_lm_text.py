"""The pre-training text of `builtin:tiny-lm`: unlabelled text about the world of `builtin:nli`.

A passage is a statement about a word, or an event with a claim about it. Words such as `So`,
`Maybe` and `It is wrong that` join the claim to the event, or a remark such as `Of course.` follows
it. The text contains no label of the task and no premise that a labelled pair may use
(`is_reserved`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random

from sweeps.data.builtin.nli import LABELS, Label, draw_events, is_reserved
from sweeps.data.builtin.nli_words import SPLITS, Words, words_of

SECTION_BREAK = "\n\n###\n\n"

JOINING_WORDS: Mapping[Label, tuple[str, ...]] = {
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
"""Pairs: the end of a claim and the beginning of the remark after it."""

STATEMENT_SHARE = 0.12
"""The share of passages that are statements about words."""

REMARK_SHARE = 0.78
"""The share of passages that are claims with a remark.

In the remaining passages the claim is joined.
"""

PLAIN_SHARE = 0.5
"""The share of claims that repeat the premise except for the deciding aspect.

The model learns them first.
"""


@dataclass(frozen=True)
class Passage:
    """A text and the remark that follows it; the remark may be empty."""

    text: str
    remark: str = ""


def passages(seed: int) -> Iterator[Passage]:
    """Yield short passages without end. The same seed gives the same passages."""
    rng, words = Random(f"text {seed}"), words_of(*SPLITS)
    statements = sorted(_statements(words))
    while True:
        kind, relation = rng.random(), rng.choice(LABELS)
        if kind < STATEMENT_SHARE:
            yield Passage(rng.choice(statements))
            continue
        event, claimed, deciding = draw_events(rng, words, relation)
        if rng.random() < PLAIN_SHARE:
            claimed = replace(event, **{deciding: getattr(claimed, deciding)})
        premise, claim = event.sentence(rng.choice(words.patterns)), claimed.sentence()
        if is_reserved(premise):
            continue
        if kind < STATEMENT_SHARE + REMARK_SHARE:
            end, start = rng.choice(BREAKS)
            yield Passage(f"{premise}\n{claim}{end}", f"{start}{rng.choice(REMARKS[relation])}")
        else:
            yield Passage(f"{premise}\n{rng.choice(JOINING_WORDS[relation])} {claim}")


def _statements(words: Words) -> Iterator[str]:
    for kind, members in words.things.items():
        yield from (f"{'An' if thing[0] in 'aeiou' else 'A'} {thing} is a kind of {kind}." for thing in members)
    for kind, members in words.places.items():
        yield from (f"{place[0].upper()}{place[1:]} is {kind}." for place in members)
    for word, opposite in words.opposite.items():
        yield f"{word.capitalize()} is the opposite of {opposite}."
