"""`builtin:nli`: generated pairs of sentences, shaped as SNLI's but of our own writing. They are never SNLI results.

A premise tells that somebody does something with a thing, perhaps somewhere; a hypothesis tells it again with one
aspect changed: a kind for its member (entailed), a member for its kind (neutral), an opposite or another kind
(contradicted).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Literal, TypeAlias
from zlib import crc32

from sweeps.data.nli_words import Split, Words, words_of

Label: TypeAlias = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = ("entailment", "neutral", "contradiction")

ANY_THING, ANY_ACT = "thing", "seeing"
"""A thing of no known kind; an act that says nothing about any other one."""

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
    """Draw a premise and a hypothesis that stand in the relation `label`.

    One aspect decides. The hypothesis alone does not tell the label: each of its forms occurs with all three.
    """
    told = Event(
        rng.choice(words.names), rng.choice(words.acts), rng.choice(words.things[rng.choice(list(words.things))])
    )
    aspect = rng.choice(("thing", "thing", "act", "place", "quality"))
    if aspect != "place" and rng.random() < 0.3:
        told = replace(told, place=_place(rng, words))
    if aspect != "quality" and rng.random() < 0.3:
        told = replace(told, quality=rng.choice(words.qualities))
    if aspect != "thing" and rng.random() < 0.2:
        told = replace(told, thing=ANY_THING)
    if aspect != "act" and rng.random() < 0.2:
        told = replace(told, act=ANY_ACT)
    decide = {"thing": _about_thing, "act": _about_act, "place": _about_place, "quality": _about_quality}[aspect]
    told, claimed = decide(rng, words, label, told)
    # What does not decide is left out of the hypothesis, or told again.
    if aspect != "place" and claimed.place and rng.random() < 0.65:
        claimed = replace(claimed, place="")
    if aspect != "quality" and claimed.quality and rng.random() < 0.65:
        claimed = replace(claimed, quality="")
    return told.sentence(rng.choice(words.patterns)), claimed.sentence()


def _about_thing(rng: Random, words: Words, label: Label, told: Event) -> tuple[Event, Event]:
    kind = next(each for each, members in words.things.items() if told.thing in members)
    says_kind = rng.random() < 0.5
    if label == "contradiction":
        other = rng.choice([each for each in words.things if each != kind])
        siblings = [each for each in words.things[kind] if each != told.thing]
        return told, replace(told, thing=other if says_kind else rng.choice([*words.things[other], *siblings]))
    if label == "neutral":
        return replace(told, thing=ANY_THING if says_kind else kind), replace(
            told, thing=kind if says_kind else told.thing
        )
    return _with_more(rng, words, told), replace(told, thing=kind) if says_kind else told


def _about_act(rng: Random, words: Words, label: Label, told: Event) -> tuple[Event, Event]:
    if label == "contradiction":
        return told, replace(told, act=words.opposite[told.act])
    if label == "neutral":
        return replace(told, act=ANY_ACT), told
    return _with_more(rng, words, told), told


def _about_place(rng: Random, words: Words, label: Label, told: Event) -> tuple[Event, Event]:
    kind = rng.choice(list(words.places))
    place = rng.choice(words.places[kind])
    says_kind = rng.random() < 0.5
    claimed = replace(told, place=kind if says_kind else place)
    if label == "contradiction":
        return replace(told, place=_place(rng, words, but=kind)), claimed
    if label == "neutral":
        return (told if says_kind or rng.random() < 0.5 else replace(told, place=kind)), claimed
    return replace(told, place=place), claimed


def _about_quality(rng: Random, words: Words, label: Label, told: Event) -> tuple[Event, Event]:
    quality = rng.choice(words.qualities)
    claimed = replace(told, quality=quality)
    if label == "contradiction":
        return replace(told, quality=words.opposite[quality]), claimed
    if label == "neutral":
        return told, claimed
    return _with_more(rng, words, claimed), claimed


def _with_more(rng: Random, words: Words, told: Event) -> Event:
    """Tell more than the hypothesis will, where it would be the same sentence otherwise."""
    return told if told.place else replace(told, place=_place(rng, words))


def _place(rng: Random, words: Words, but: str = "") -> str:
    return rng.choice(words.places[rng.choice([each for each in words.places if each != but])])


def _new_pair(rng: Random, words: Words, label: Label, known: dict[tuple[str, str], Label]) -> tuple[str, str]:
    for _ in range(_ATTEMPTS):
        premise, hypothesis = found = pair(rng, words, label)
        if premise != hypothesis and found not in known and reserved(premise):
            return found
    raise ValueError(f"there are no more than about {len(known)} different pairs; ask for fewer examples")
