"""The course of a preparation: load, repair until nothing is left to repair, split, delimit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from sweeps.data.checks import is_classification
from sweeps.data.checks.texts import LONG_EXAMPLE_CHARACTERS
from sweeps.data.examples import ChatRecipe, PairRecipe
from sweeps.data.repairs import REPAIRS, delimiters
from sweeps.data.repairs.delimiters import Delimiters
from sweeps.data.repairs.duplicates import belonging_together
from sweeps.data.repairs.labels import label_key
from sweeps.data.repairs.loading import Loaded
from sweeps.data.repairs.repair import Change, Facts, Repair, Repaired
from sweeps.data.repairs.rows import Parts, Row, Texts, all_rows
from sweeps.data.split import split
from sweeps.errors import Problem, UserInputError

MAX_ROUNDS = 50
"""Every round leaves out rows or joins labels, so a few are enough."""


class Decide(Protocol):
    """Decides whether to make a repair, knowing the changes that it would make."""

    def __call__(self, repair: Repair, changes: Sequence[Change]) -> bool: ...


@dataclass(frozen=True)
class Made:
    """A repair and all its changes."""

    repair: Repair
    changes: Sequence[Change]

    @property
    def count(self) -> int:
        """The number of rows that it changed or left out."""
        return sum(change.rows for change in self.changes)


@dataclass(frozen=True)
class Preparation:
    """What comes out: the parts with their final texts, what was done, and what was declined.

    `delimiters` is None for conversations. `fractions` are the parts taken from the training rows.
    """

    parts: Parts
    texts: Texts
    delimiters: Delimiters | None
    is_classification: bool
    made: Sequence[Made]
    declined: Sequence[Made]
    fractions: Mapping[str, float] = field(default_factory=dict)

    def label_counts(self, part: str) -> dict[str, int]:
        """Return how often each label occurs in a part; empty without labels."""
        if not self.is_classification:
            return {}
        counts = Counter(self.texts.answer(row) for row in self.parts[part])
        return dict(sorted(counts.items(), key=lambda label: (-label[1], label[0])))


def _not_of_rows(parts: Parts, facts: Facts) -> Repaired:
    raise AssertionError("this repair is made while reading or writing")


UNREADABLE = Repair(
    "unreadable",
    "Leave out lines that cannot be read",
    "They are not valid JSON or CSV, or lack a column that the templates name.",
    ("json", "csv", "cells", "field", "missing-field"),
    _not_of_rows,
    "required",
)

SEPARATOR = Repair(
    "separator",
    "End every prompt with the same separator, once",
    "The model recognises the end of the prompt by it, and inference must end its prompts the same way.",
    ("doubled-separator", "separator-inside"),
    _not_of_rows,
    "required",
)

STOP = Repair(
    "stop",
    "End every completion with the same stop sequence, once",
    "Generation ends there, so it must end every completion and occur nowhere else.",
    ("doubled-stop", "stop-inside", "stop-in-prompt"),
    _not_of_rows,
    "required",
)

LEADING_SPACE = Repair(
    "leading-space",
    "Begin every completion with one space",
    "Most tokenizers have a token for a word with the space before it.",
    ("leading-space",),
    _not_of_rows,
    "required",
)

ALL_REPAIRS = (UNREADABLE, *REPAIRS, SEPARATOR, STOP, LEADING_SPACE)
"""Every repair that a preparation may make: those of lines, of rows, and of the format."""


def repair_and_split(
    loaded: Loaded,
    repairs: Sequence[Repair],
    decide: Decide,
    fractions: Mapping[str, float],
    seed: int,
    separator: str | None = None,
    stop: str | None = None,
    max_characters: int | None = None,
) -> Preparation:
    """Make the repairs that `decide` accepts, split, and give every text its delimiters.

    The repairs are repeated until none finds anything, so that a second preparation of the result
    finds nothing either. `fractions` are the parts to take from the training rows. Raises
    UserInputError if nothing is left to train on, or a delimiter that was asked for is in a text.
    """
    made: dict[str, list[Change]] = {}
    declined: dict[str, Sequence[Change]] = {}
    if loaded.unreadable and decide(UNREADABLE, loaded.unreadable):
        made["unreadable"] = list(loaded.unreadable)
    texts = Texts(loaded.recipe)
    parts: Parts = loaded.parts
    facts = _facts(parts, texts, max_characters)
    for _ in range(MAX_ROUNDS):
        is_done = True
        if isinstance(loaded.recipe, PairRecipe):
            parts = delimiters.without_delimiters(parts, loaded.recipe)
        for repair in repairs:
            if repair.code in declined:
                continue
            repaired = repair.apply(parts, facts)
            if not repaired.changes:
                continue
            if repair.code not in made and not decide(repair, repaired.changes):
                declined[repair.code] = repaired.changes
                continue
            made.setdefault(repair.code, []).extend(repaired.changes)
            parts, is_done = repaired.parts, False
        facts = replace(_facts(parts, texts, max_characters), known_clusters=facts.known_clusters)
        if is_done:
            break
    _refuse_empty(parts)
    parts = _split(parts, facts, fractions, seed)
    ends = None
    if isinstance(loaded.recipe, PairRecipe):
        ends = delimiters.choose(parts, texts, separator, stop)
        _refuse_inside(parts, texts, ends)
        for repair, changes in (
            (SEPARATOR, delimiters.separator_changes(parts, texts, ends)),
            (STOP, delimiters.stop_changes(parts, texts, ends)),
            (LEADING_SPACE, delimiters.lead_changes(parts, texts, ends)),
        ):
            if changes and decide(repair, changes):
                made[repair.code] = changes
    by_code = {repair.code: repair for repair in ALL_REPAIRS}
    return Preparation(
        parts,
        texts,
        ends,
        facts.is_classification,
        [Made(by_code[code], changes) for code, changes in made.items()],
        [Made(by_code[code], changes) for code, changes in declined.items()],
        fractions,
    )


def _facts(parts: Parts, texts: Texts, max_characters: int | None) -> Facts:
    """Look at the rows again: whether the answers are labels depends on how many are left.

    All spellings of one answer count as one, so that bad spelling hides no classification.
    """
    answers = (texts.answer(row) for _, row in all_rows(parts))
    several = isinstance(texts.recipe, ChatRecipe) and any(_answers(row) > 1 for _, row in all_rows(parts))
    labelled = not several and is_classification(
        label_key(answer) if len(answer) < 100 else answer for answer in answers
    )
    return Facts(texts, labelled, max_characters or LONG_EXAMPLE_CHARACTERS)


def _answers(row: Row) -> int:
    return sum(message["role"] == "assistant" for message in row.messages or ())


def _split(parts: Parts, facts: Facts, fractions: Mapping[str, float], seed: int) -> Parts:
    """Take the missing parts from the training rows."""
    if not fractions:
        return parts
    rows = parts["train"]
    prompts = [facts.texts.prompt(row) for row in rows]
    labels = [facts.texts.answer(row) if facts.is_classification else "" for row in rows]
    groups = [row.group for row in rows]
    indices = split(prompts, labels, fractions, seed, groups=groups, clusters=belonging_together(rows, facts))
    for part in fractions:
        if not indices[part]:
            option = "--validation" if part == "valid" else "--test"
            hint = f"add examples, or give the part a file of its own: {option} FILE"
            raise UserInputError([Problem(option, "too few examples to hold some out", hint)])
    taken: dict[str, Sequence[Row]] = {part: [rows[index] for index in members] for part, members in indices.items()}
    taken |= {part: rows for part, rows in parts.items() if part != "train"}
    return {part: taken[part] for part in ("train", "valid", "test") if part in taken}


def _refuse_empty(parts: Parts) -> None:
    for part, rows in parts.items():
        if not rows:
            name = {"train": "training", "valid": "validation"}.get(part, part)
            hint = "--skip CODE leaves a repair out; without --yes each one is shown first"
            raise UserInputError([Problem(name, "no example is left after the repairs", hint)])


def _refuse_inside(parts: Parts, texts: Texts, ends: Delimiters) -> None:
    """Raise UserInputError if the stop sequence would cut a completion."""
    inside = next((row for _, row in all_rows(parts) if ends.stop in texts.answer(row)), None)
    if inside is not None:
        message = f"the stop sequence {ends.stop!r} occurs inside this completion and would cut it"
        raise UserInputError([Problem(inside.place, message, "leave out --stop: one that occurs nowhere is chosen")])
