"""`builtin:nli`: generated pairs of sentences, shaped as SNLI's but of our own writing. They are never SNLI results.

A premise tells that somebody does something with a thing, perhaps somewhere; a hypothesis tells it again. It follows
(entailment), says something that the premise leaves open (neutral), or cannot be true as well (contradiction).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias, TypeVar
from zlib import crc32

from sweeps.data.nli_words import Split, Words, words_of

Label: TypeAlias = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = ("entailment", "neutral", "contradiction")

Aspect: TypeAlias = Literal["thing", "act", "place", "quality"]

ANY_THING, ANY_ACT = "thing", "seeing"
"""A thing of no known kind; an act that says nothing about any other one."""

DECIDES: Mapping[Label, str] = {"entailment": ">", "neutral": "?", "contradiction": "!"}
"""The sign of the one aspect that decides a label. The other aspects have one of the signs that do not."""

TOLD: Mapping[Aspect, Mapping[Label, str]] = {
    "thing": {
        "entailment": "2=2:6 1=1:4 0=0:3 2>1:5 2>0:1 1>0:1",
        "neutral": "2=2:4 1=1:3 0=0:2 2>1:3 2>0:1 1?2:4 0?2:2 0?1:1",
        "contradiction": "2=2:4 1=1:4 0=0:2 2>1:3 2!2:3 2!1:2 1!2:1 1!1:1",
    },
    "act": {
        "entailment": "1=1:16 0=0:4",
        "neutral": "1=1:13 0=0:2 0?1:5",
        "contradiction": "1=1:12 0=0:3 1!1:5",
    },
    "place": {
        "entailment": "2=2:3 1=1:1 0=0:8 2>1:4 2>0:3 1>0:1",
        "neutral": "2=2:3 1=1:1 0=0:6 2>1:2 2>0:3 1?2:2 0?2:2 0?1:1",
        "contradiction": "2=2:2 1=1:1 0=0:7 2>1:2 2>0:3 2!2:2 2!1:1 1!2:1 1!1:1",
    },
    "quality": {
        "entailment": "1=1:5 0=0:10 1>0:5",
        "neutral": "1=1:4 0=0:9 1>0:4 0?1:3",
        "contradiction": "1=1:4 0=0:9 1>0:4 1!1:3",
    },
}
"""How exactly premise and hypothesis tell an aspect, and how often, in twentieths.

`2>1:4` is four times in twenty an apple in the premise and a fruit in the hypothesis: 0 is nothing (or ANY_THING,
ANY_ACT), 1 a kind (or an act, a quality), 2 a member of the kind. The sign says what the hypothesis does: `=` the same
again, `>` less, `?` something that the premise leaves open, `!` something that contradicts.

A label's deciding cells are twenty twentieths in all aspects together. Hypotheses of every label leave something out
about as often, and each side tells an aspect about as often: a linear model of the words that each sentence holds sees
little, and only what the two say of each other decides. (With exactly equal margins such a model sees nothing, but a
small language model hardly learns the task: see docs/log.md, 2026-11-25.)
"""

_ATTEMPTS = 10_000
"""Draws in search of one new pair before the world counts as told."""


@dataclass(frozen=True)
class Event:
    """What a sentence tells. An empty place or quality is not told."""

    name: str
    act: str
    thing: str
    place: str = ""
    quality: str = ""

    def sentence(self, pattern: str = "plain") -> str:
        """Write the event as a sentence."""
        thing = f"{self.quality} {self.thing}".strip()
        thing = f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"
        place = f" {self.place}" if self.place else ""
        if pattern == "place_first":
            first = f"{self.place[0].upper()}{self.place[1:]}," if self.place else "Now"
            return f"{first} {self.name} is {self.act} {thing}."
        if pattern == "there_is":
            return f"There is {thing} that {self.name} is {self.act}{place}."
        return f"{self.name} is {self.act} {thing}{place}."


@dataclass(frozen=True)
class Telling:
    """How exactly two sentences tell an aspect, and what the hypothesis does with it: a cell of TOLD."""

    premise: int
    sign: str
    hypothesis: int


def tellings(aspect: Aspect, label: Label) -> dict[Telling, int]:
    """Return the cells of TOLD for an aspect under a label, with their weights."""
    cells = (cell.split(":") for cell in TOLD[aspect][label].split())
    return {Telling(int(cell[0]), cell[1], int(cell[2])): int(weight) for cell, weight in cells}


def _of_sign(aspect: Aspect, label: Label, decides: bool) -> dict[Telling, int]:
    cells = tellings(aspect, label)
    return {each: weight for each, weight in cells.items() if (each.sign == DECIDES[label]) is decides}


_DECIDING = {label: {aspect: _of_sign(aspect, label, True) for aspect in TOLD} for label in LABELS}
_OTHER = {label: {aspect: _of_sign(aspect, label, False) for aspect in TOLD} for label in LABELS}


def generate(split: Split, examples: int, seed: int, label_noise: float = 0.0) -> list[dict[str, str]]:
    """Return `examples` records `{"premise", "hypothesis", "label"}`, label entailment, neutral or contradiction.

    The same arguments give the same records, and a smaller number of examples gives the beginning of the larger set.
    The labels' counts differ by at most 1 before noise. No pair occurs twice in a split, and none in two splits,
    whatever the seeds: each split has its own names, words and pattern of the premise. `label_noise` (0 to 1) is the
    share of records whose label is replaced by another one; the sentences stay. Raises ValueError for an unusable
    number.
    """
    if examples < 0:
        raise ValueError(f"examples must not be negative: {examples}")
    if not 0.0 <= label_noise <= 1.0:
        raise ValueError(f"label_noise must lie between 0 and 1: {label_noise}")
    words, rng = words_of(split), Random(f"{split} {seed}")
    found: dict[tuple[str, str], Label] = {}
    while len(found) < examples:
        for label in rng.sample(LABELS, len(LABELS)):
            found[_new_pair(rng, words, label, found)] = label
    records = [
        {"premise": premise, "hypothesis": hypothesis, "label": label}
        for (premise, hypothesis), label in list(found.items())[:examples]
    ]
    noise = Random(f"noise {split} {seed}")
    for record in noise.sample(records, round(label_noise * examples)):
        record["label"] = noise.choice([each for each in LABELS if each != record["label"]])
    return records


def reserved(premise: str) -> bool:
    """Say whether labelled pairs may use this premise; text for pre-training tells only the others."""
    return crc32(premise.encode()) % 2 == 0


def pair(rng: Random, words: Words, label: Label) -> tuple[str, str]:
    """Draw a premise and a hypothesis that stand in the relation `label`."""
    told, claimed, _ = events(rng, words, label)
    return told.sentence(rng.choice(words.patterns)), claimed.sentence()


def events(rng: Random, words: Words, label: Label) -> tuple[Event, Event, Aspect]:
    """Draw what a premise and a hypothesis tell under `label`, as TOLD says, and the aspect that decides."""
    deciding = _draw(rng, {aspect: sum(cells.values()) for aspect, cells in _DECIDING[label].items()})
    name = rng.choice(words.names)
    told, claimed = {}, {}
    for aspect in TOLD:
        telling = _draw(rng, (_DECIDING if aspect == deciding else _OTHER)[label][aspect])
        told[aspect], claimed[aspect] = _tell(rng, words, aspect, telling)
    return Event(name, **told), Event(name, **claimed), deciding


def _tell(rng: Random, words: Words, aspect: Aspect, telling: Telling) -> tuple[str, str]:
    """Draw the words for an aspect in the premise and in the hypothesis."""
    truth: tuple[str, ...]
    lie: tuple[str, ...]
    if aspect == "act":
        act = rng.choice(words.acts)
        truth, lie = (ANY_ACT, act), (ANY_ACT, words.opposite[act])
    elif aspect == "quality":
        quality = rng.choice(words.qualities)
        truth, lie = ("", quality), ("", words.opposite[quality])
    else:
        nothing, kinds = (ANY_THING, words.things) if aspect == "thing" else ("", words.places)
        kind, other = rng.sample(list(kinds), 2)
        member, another = rng.choice(kinds[kind]), rng.choice(kinds[other])
        # Both by the river and by the lake may be true; an apple is no pear, though both are fruit.
        siblings = [each for each in kinds[kind] if each != member]
        if aspect == "thing" and telling.premise == telling.hypothesis == 2:
            another = rng.choice([*kinds[other], *siblings])
        truth, lie = (nothing, kind, member), (nothing, other, another)
    return truth[telling.premise], (lie if telling.sign == "!" else truth)[telling.hypothesis]


_Drawn = TypeVar("_Drawn")


def _draw(rng: Random, weights: Mapping[_Drawn, int]) -> _Drawn:
    return rng.choices(list(weights), list(weights.values()))[0]


def _new_pair(rng: Random, words: Words, label: Label, known: dict[tuple[str, str], Label]) -> tuple[str, str]:
    for _ in range(_ATTEMPTS):
        premise, hypothesis = found = pair(rng, words, label)
        if premise != hypothesis and found not in known and reserved(premise):
            return found
    raise ValueError(f"there are no more than about {len(known)} different pairs; ask for fewer examples")
