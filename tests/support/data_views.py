"""Small data sets as the thorough checks see them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from sweeps.data.checks import DataView
from sweeps.data.examples import Example, PairRecipe
from sweeps.data.templates import Template

RECIPE = PairRecipe(Template.parse("{text}"), Template.parse(" {label}"), "\n##\n", "\n")

SUBJECTS = ("the gardener", "a tired nurse", "my neighbour", "the new pilot", "an old sailor", "the young teacher")
VERBS = ("repaired", "painted", "sold", "borrowed", "photographed", "described", "hid", "measured")
OBJECTS = ("a wooden bridge", "the broken clock", "seven green bottles", "an expensive violin", "the tall ladder")
PLACES = ("behind the library", "near the harbour", "during the storm", "before breakfast", "in a quiet village")


def sentences(count: int, seed: int = 1) -> list[str]:
    """Return different sentences of about sixty characters, with random words at their end."""
    random = Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        words = [random.choice(kind) for kind in (SUBJECTS, VERBS, OBJECTS, PLACES)]
        tail = " ".join("".join(random.choices("abcdefghiklmnoprstuvw", k=6)) for _ in range(5))
        found[f"{' '.join(words)} {tail}.".capitalize()] = None
    return list(found)


def example(text: str, label: str, line: int = 1, file: str = "train.csv", group: str | None = None) -> Example:
    return Example(f"{text}\n##\n", f" {label}\n", (text,), file, line, group=group)


def rows(pairs: Iterable[tuple[str, str]], file: str = "train.csv") -> list[Example]:
    """Return examples of (text, label); the first is on line 2, below the header."""
    return [example(text, label, line, file) for line, (text, label) in enumerate(pairs, 2)]


def view(
    train: Sequence[Example],
    valid: Sequence[Example] = (),
    test: Sequence[Example] = (),
    *,
    labels: bool = True,
    published: bool = False,
) -> DataView:
    parts = {"train": train, "valid": valid, "test": test}
    names = sorted({item.completion for item in train}) if labels else ()
    return DataView({part: items for part, items in parts.items() if items}, RECIPE, tuple(names), published, 7)


def clean_view(labels: bool = True) -> DataView:
    """Return a set without faults: 300 training examples, and 60 of each other part."""
    texts = sentences(420)
    answers = [("science", "sports", "politics")[number % 3] for number in range(420)]
    if not labels:
        answers = [f"{text[:30].capitalize()}." for text in sentences(420, seed=2)]
    pairs = list(zip(texts, answers, strict=True))
    return view(rows(pairs[:300]), rows(pairs[300:360], "valid.csv"), rows(pairs[360:], "test.csv"), labels=labels)
