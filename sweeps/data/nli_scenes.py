"""Sentence pairs of the small world: a hypothesis about a scene, and a premise that makes it true, false or open.

The hypothesis is drawn first, without a look at the label; only the premise is fitted to the label. So a hypothesis by
itself tells nothing about its label, by construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

from sweeps.data.nli_words import Opposition, Words

Label: TypeAlias = Literal["entailment", "neutral", "contradiction"]
LABELS: tuple[Label, ...] = ("entailment", "neutral", "contradiction")

_DENIED: Mapping[Label, Label] = {
    "entailment": "contradiction",
    "neutral": "neutral",
    "contradiction": "entailment",
}
"""Where the premise makes a statement so, it makes its denial that."""

Scene: TypeAlias = dict[str, str]
"""What is said of one event: aspect -> value. `who`, `act` and `thing` always, the other aspects where mentioned."""

ASIDES = ("quality", "place", "time")


@dataclass(frozen=True)
class Pair:
    """A premise and a hypothesis, with what the premise says of the hypothesis."""

    premise: str
    hypothesis: str
    label: Label


@dataclass(frozen=True)
class Taxonomy:
    """An aspect whose values are members of kinds; `top` is the word for anything (None: say nothing instead)."""

    kinds: Mapping[str, tuple[str, ...]]
    top: str | None

    def draw(self, rng: Random) -> str:
        """Return a kind, or somewhat more rarely a member."""
        kind = rng.choice(list(self.kinds))
        return kind if rng.random() < 0.5 else rng.choice(self.kinds[kind])

    def fitting(self, value: str, label: Label, rng: Random) -> str | None:
        """Return what a premise says of this aspect where a hypothesis says `value`."""
        kind = next((each for each, members in self.kinds.items() if value == each or value in members), value)
        if label == "entailment":
            return rng.choice(self.kinds[kind]) if value == kind and rng.random() < 0.85 else value
        if label == "neutral":
            return kind if value != kind and rng.random() < 0.6 else self.top
        if value != kind and rng.random() < 0.5 and len(self.kinds[kind]) > 1:
            return rng.choice([each for each in self.kinds[kind] if each != value])
        others = [each for each in self.kinds if each != kind]
        if not others:
            return rng.choice([each for each in self.kinds[kind] if each != value])
        other = rng.choice(others)
        return other if rng.random() < 0.25 else rng.choice(self.kinds[other])


@dataclass(frozen=True)
class Opposites:
    """An aspect whose values have synonyms and opposites; `plain` values say nothing about any of them."""

    pairs: Sequence[Opposition]
    plain: tuple[str, ...] = ()

    def draw(self, rng: Random) -> str:
        """Return a word of one side of a pair."""
        return rng.choice(rng.choice(rng.choice(self.pairs)))

    def fitting(self, value: str, label: Label, rng: Random) -> str | None:
        """Return what a premise says of this aspect where a hypothesis says `value`."""
        if value in self.plain:
            return value
        own = next(pair for pair in self.pairs if value in pair[0] or value in pair[1])
        same, opposite = own if value in own[0] else own[::-1]
        if label == "entailment":
            return rng.choice(same)
        if label == "contradiction":
            return rng.choice(opposite)
        if rng.random() < 0.5:
            return rng.choice(self.plain) if self.plain else None
        return rng.choice(rng.choice(rng.choice([pair for pair in self.pairs if pair is not own])))


def aspects_of(words: Words) -> Mapping[str, Taxonomy | Opposites]:
    """Return how the values of each aspect of a scene relate to each other."""
    return {
        "who": Taxonomy(words.people, "person"),
        "act": Opposites(words.acts, words.plain_acts),
        "thing": Taxonomy(words.things, "thing"),
        "number": Taxonomy(words.numbers, "some"),
        "quality": Opposites(words.qualities),
        "place": Taxonomy(words.places, None),
        "time": Taxonomy(words.seasons, None),
    }


# ----------------------------------------------------------------------------------------------------------- sentences
def plural(noun: str) -> str:
    """Return the regular English plural; the world has no other, but for scarves and sheep."""
    irregular = {"scarf": "scarves", "sheep": "sheep"}
    if noun in irregular:
        return irregular[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh", "mango")) else "s")


def with_article(phrase: str) -> str:
    """Return the phrase after `a` or `an`."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _who(scene: Scene, article: str) -> str:
    who = scene["who"]
    if who[0].isupper():
        return who
    return f"the {who}" if article == "the" else with_article(who)


def _thing(scene: Scene) -> str:
    quality = scene.get("quality", "")
    if "number" in scene:
        return " ".join(f"{scene['number']} {quality} {plural(scene['thing'])}".split())
    return with_article(f"{quality} {scene['thing']}".strip())


_PATTERNS = {
    "plain": "{who} is {no} {acting} {thing} {place} {time}.",
    "passive": "{thing} {be} {no} being {acted} by {who} {place} {time}.",
    "time_first": "{time}, {who} is {no} {acting} {thing} {place}.",
    "place_first": "{place}, {who} is {no} {acting} {thing} {time}.",
    "there": "there {be} {thing} that {who} is {acting} {place} {time}.",
    "cleft": "it is {who} who is {acting} {thing} {place} {time}.",
    "seen": "people can see {who} {acting} {thing} {place} {time}.",
    "one_who": "the one who is {acting} {thing} {place} {time} is {who}.",
}


def sentence(scene: Scene, pattern: str, article: str = "a", denied: bool = False) -> str:
    """Say the whole scene in one sentence. A pattern that does not fit (no place to open with) gives way to `plain`."""
    front = {"time_first": "time", "place_first": "place"}.get(pattern)
    if (front and front not in scene) or (denied and "{no}" not in _PATTERNS[pattern]):
        pattern = "plain"
    acting, acted = scene["act"].split(":")
    text = _PATTERNS[pattern].format(
        who=_who(scene, article),
        be="are" if "number" in scene else "is",
        no="not" if denied else "",
        acting=acting,
        acted=acted,
        thing=_thing(scene),
        **{aspect: scene.get(aspect, "") for aspect in ("place", "time")},
    )
    return _tidy(text)


def remark(scene: Scene, aspect: str, denied: bool = False) -> str:
    """Say one aspect of the scene by itself: its quality, place or time."""
    no = "not" if denied else ""
    if aspect in ("place", "time"):
        subject = _who(scene, "the") if aspect == "place" else "this"
        return _tidy(f"{subject} is {no} {'' if aspect == 'place' else 'happening'} {scene[aspect]}.")
    noun, verb = (plural(scene["thing"]), "are") if "number" in scene else (scene["thing"], "is")
    return _tidy(f"the {noun} {verb} {no} {scene[aspect]}.")


def _tidy(text: str) -> str:
    text = " ".join(text.split()).replace(" ,", ",").replace(" .", ".")
    return text[0].upper() + text[1:]


# --------------------------------------------------------------------------------------------------------------- pairs
class World:
    """All scenes that can be told in some words."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self._aspects = aspects_of(words)

    def pair(self, rng: Random, label: Label) -> Pair:
        """Return a random pair with this label. Rarely, its sentences are the same."""
        return self._comparison(rng, label) if rng.random() < 0.1 else self._event(rng, label)

    def _event(self, rng: Random, label: Label) -> Pair:
        focus = rng.choice(["who", "act", "act", "thing", "thing", "number", *ASIDES])
        denied = rng.random() < 0.2
        claim = self._claim(rng, focus)
        if focus in ASIDES and rng.random() < 0.6:
            hypothesis = remark(claim, focus, denied)
        else:
            hypothesis = sentence(claim, rng.choice(self.words.patterns), "the", denied)

        scene: Scene = {}
        for aspect, value in claim.items():
            relation: Label = "entailment" if aspect != focus else _DENIED[label] if denied else label
            said = value if value in self.words.names else self._aspects[aspect].fitting(value, relation, rng)
            if said is not None:
                scene[aspect] = said
        # As many asides in the premise under each label, so that its length tells nothing.
        unclaimed = [each for each in ASIDES if each not in claim]
        missing = rng.choice((1, 2)) - sum(each in scene for each in ASIDES)
        for aspect in rng.sample(unclaimed, max(0, missing)):
            scene[aspect] = self._aspects[aspect].draw(rng)
        return Pair(sentence(scene, rng.choice(self.words.patterns)), hypothesis, label)

    def _claim(self, rng: Random, focus: str) -> Scene:
        """Return what a hypothesis says; the premise decides about its aspect `focus` and bears out all others."""
        words, aspects = self.words, self._aspects
        named = focus != "who" and rng.random() < 0.65
        acting = focus == "act" or rng.random() < 0.5
        claim = {
            "who": rng.choice(words.names) if named else aspects["who"].draw(rng),
            "act": aspects["act"].draw(rng) if acting else rng.choice(words.plain_acts),
            "thing": aspects["thing"].draw(rng),
        }
        if focus == "number":
            claim["number"] = rng.choice(words.numbers["some"])
        elif rng.random() < 0.2:
            claim["number"] = "some"
        spoken = [focus] if focus in ASIDES else []
        if rng.random() < 0.3:
            spoken.append(rng.choice([each for each in ASIDES if each != focus]))
        return claim | {aspect: aspects[aspect].draw(rng) for aspect in spoken}

    def _comparison(self, rng: Random, label: Label) -> Pair:
        one, other = rng.sample(self.words.names, 2)
        pair = rng.choice(self.words.comparisons)
        more, less = rng.sample([side[0] for side in pair], 2)
        denied = rng.random() < 0.2
        hypothesis = f"{one} is {'not ' if denied else ''}{more} than {other}."
        relation = _DENIED[label] if denied else label
        if relation == "neutral":
            unrelated = rng.choice([each for each in self.words.comparisons if each is not pair])
            more, less = rng.sample([side[0] for side in unrelated], 2)
        elif relation == "contradiction":
            more, less = less, more
        premise = f"{one} is {more} than {other}." if rng.random() < 0.5 else f"{other} is {less} than {one}."
        return Pair(premise, hypothesis, label)
