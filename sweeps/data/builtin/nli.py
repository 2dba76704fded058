"""`builtin:nli`: generated sentence pairs in the form of SNLI.

Results on them are not SNLI results.

A premise says that a person does something with a thing, perhaps at a place. A hypothesis describes
the same event: it follows from the premise (entailment), adds something that the premise leaves
open (neutral), or cannot be true at the same time (contradiction).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias, TypeVar
from zlib import crc32

from sweeps.data.builtin.english_forms import with_article
from sweeps.data.builtin.nli_words import Split, Words, words_of

Label: TypeAlias = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = ("entailment", "neutral", "contradiction")

Aspect: TypeAlias = Literal["thing", "act", "place", "quality"]

ANY_THING, ANY_ACT = "thing", "seeing"
"""A thing of unknown kind, and an act that neither implies nor contradicts another one."""

DECIDING_SIGN: Mapping[Label, str] = {"entailment": ">", "neutral": "?", "contradiction": "!"}
"""The sign of the one aspect that decides a label. All other aspects have a sign that does not."""

RELATION_WEIGHTS: Mapping[Aspect, Mapping[Label, str]] = {
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
"""How specific premise and hypothesis are about an aspect, and how often, in twentieths.

`2>1:4` means: in four of twenty pairs the premise has an apple and the hypothesis a fruit. The
levels are 0: nothing (or ANY_THING, ANY_ACT), 1: a kind (or an act, a quality), 2: a member of the
kind. The sign is the relation of the hypothesis to the premise: `=` the same, `>` less specific,
`?` something that the premise leaves open, `!` a contradiction.

The deciding relations of a label add up to twenty twentieths over all aspects. Under every label,
hypotheses leave something out about equally often, and each sentence mentions an aspect about
equally often. Therefore a linear model of the words of each sentence learns little: only the
relation between the sentences decides. (With exactly equal margins such a model learns nothing, but
a small language model hardly learns the task either: see docs/log.md, 2026-11-25.)
"""

_MAX_ATTEMPTS = 10_000
"""Draws for one new pair before `generate` gives up."""


@dataclass(frozen=True)
class Event:
    """The content of a sentence. An empty place or quality is not mentioned."""

    name: str
    act: str
    thing: str
    place: str = ""
    quality: str = ""

    def sentence(self, pattern: str = "plain") -> str:
        """Write the event as a sentence."""
        thing = with_article(f"{self.quality} {self.thing}".strip())
        place = f" {self.place}" if self.place else ""
        if pattern == "place_first":
            first = f"{self.place[0].upper()}{self.place[1:]}," if self.place else "Now"
            return f"{first} {self.name} is {self.act} {thing}."
        if pattern == "there_is":
            return f"There is {thing} that {self.name} is {self.act}{place}."
        return f"{self.name} is {self.act} {thing}{place}."


@dataclass(frozen=True)
class AspectRelation:
    """How specific two sentences are about an aspect, and the sign of their relation."""

    premise: int
    sign: str
    hypothesis: int


def aspect_relations(aspect: Aspect, label: Label) -> dict[AspectRelation, int]:
    """Return the relations of an aspect under a label, with their weights in twentieths."""
    written = (text.split(":") for text in RELATION_WEIGHTS[aspect][label].split())
    return {
        AspectRelation(int(relation[0]), relation[1], int(relation[2])): int(weight) for relation, weight in written
    }


def _with_sign(aspect: Aspect, label: Label, decides: bool) -> dict[AspectRelation, int]:
    weights = aspect_relations(aspect, label)
    return {
        relation: weight for relation, weight in weights.items() if (relation.sign == DECIDING_SIGN[label]) is decides
    }


_DECIDING = {label: {aspect: _with_sign(aspect, label, True) for aspect in RELATION_WEIGHTS} for label in LABELS}
_OTHER = {label: {aspect: _with_sign(aspect, label, False) for aspect in RELATION_WEIGHTS} for label in LABELS}


def generate(split: Split, examples: int, seed: int, label_noise: float = 0.0) -> list[dict[str, str]]:
    """Return `examples` records `{"premise", "hypothesis", "label"}` with a label of `LABELS`.

    The same arguments give the same records, and fewer examples give the beginning of the larger
    set. Before noise the counts of the labels differ by at most 1. No pair occurs twice in a split
    or in two splits, whatever the seeds: each split has its own names, words and premise pattern.
    `label_noise` (0 to 1) is the share of records whose label is replaced by another one; the
    sentences stay. Raises ValueError for a number out of range.
    """
    if examples < 0:
        raise ValueError(f"examples must not be negative: {examples}")
    if not 0.0 <= label_noise <= 1.0:
        raise ValueError(f"label_noise must lie between 0 and 1: {label_noise}")
    words, rng = words_of(split), Random(f"{split} {seed}")
    pairs: dict[tuple[str, str], Label] = {}
    while len(pairs) < examples:
        for label in rng.sample(LABELS, len(LABELS)):
            pairs[_new_pair(rng, words, label, pairs)] = label
    records = [
        {"premise": premise, "hypothesis": hypothesis, "label": label}
        for (premise, hypothesis), label in list(pairs.items())[:examples]
    ]
    noise = Random(f"noise {split} {seed}")
    for record in noise.sample(records, round(label_noise * examples)):
        record["label"] = noise.choice([label for label in LABELS if label != record["label"]])
    return records


def is_reserved(premise: str) -> bool:
    """Return whether this premise is for labelled pairs only; pre-training text uses the others."""
    return crc32(premise.encode()) % 2 == 0


def draw_pair(rng: Random, words: Words, label: Label) -> tuple[str, str]:
    """Draw a premise and a hypothesis whose relation is `label`."""
    premise, hypothesis, _ = draw_events(rng, words, label)
    return premise.sentence(rng.choice(words.patterns)), hypothesis.sentence()


def draw_events(rng: Random, words: Words, label: Label) -> tuple[Event, Event, Aspect]:
    """Draw the events of a premise and a hypothesis under `label`, and the aspect that decides."""
    deciding = _draw(rng, {aspect: sum(weights.values()) for aspect, weights in _DECIDING[label].items()})
    name = rng.choice(words.names)
    premise, hypothesis = {}, {}
    for aspect in RELATION_WEIGHTS:
        relation = _draw(rng, (_DECIDING if aspect == deciding else _OTHER)[label][aspect])
        premise[aspect], hypothesis[aspect] = _draw_words(rng, words, aspect, relation)
    return Event(name, **premise), Event(name, **hypothesis), deciding


def _draw_words(rng: Random, words: Words, aspect: Aspect, relation: AspectRelation) -> tuple[str, str]:
    """Draw the words for an aspect in the premise and in the hypothesis."""
    true_words: tuple[str, ...]
    false_words: tuple[str, ...]
    if aspect == "act":
        act = rng.choice(words.acts)
        true_words, false_words = (ANY_ACT, act), (ANY_ACT, words.opposite[act])
    elif aspect == "quality":
        quality = rng.choice(words.qualities)
        true_words, false_words = ("", quality), ("", words.opposite[quality])
    else:
        nothing, kinds = (ANY_THING, words.things) if aspect == "thing" else ("", words.places)
        kind, other = rng.sample(list(kinds), 2)
        member, another = rng.choice(kinds[kind]), rng.choice(kinds[other])
        # Somebody may be by the river and by the lake, but an apple is not a pear, though both are
        # fruit.
        siblings = [sibling for sibling in kinds[kind] if sibling != member]
        if aspect == "thing" and relation.premise == relation.hypothesis == 2:
            another = rng.choice([*kinds[other], *siblings])
        true_words, false_words = (nothing, kind, member), (nothing, other, another)
    hypothesis_words = false_words if relation.sign == "!" else true_words
    return true_words[relation.premise], hypothesis_words[relation.hypothesis]


_Drawn = TypeVar("_Drawn")


def _draw(rng: Random, weights: Mapping[_Drawn, int]) -> _Drawn:
    return rng.choices(list(weights), list(weights.values()))[0]


def _new_pair(rng: Random, words: Words, label: Label, known: dict[tuple[str, str], Label]) -> tuple[str, str]:
    for _ in range(_MAX_ATTEMPTS):
        premise, hypothesis = drawn = draw_pair(rng, words, label)
        if premise != hypothesis and drawn not in known and is_reserved(premise):
            return drawn
    raise ValueError(f"only about {len(known)} different pairs exist; request fewer examples")
