"""The input of a preparation: files -> rows, and what could not be read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sweeps.data.examples import ChatRecipe, Recipe, choose_recipe
from sweeps.data.findings import Finding, capped, errors_as_problems, nearest_hint
from sweeps.data.loading import SAMPLE
from sweeps.data.readers.record import Record, RecordStream
from sweeps.data.repairs import delimiters
from sweeps.data.repairs.repair import Change
from sweeps.data.repairs.rows import Row
from sweeps.data.templates import FieldError, Template, optional_text
from sweeps.errors import Problem, UserInputError

LINE_FAULTS = frozenset({"json", "csv", "cells"})
"""Codes of findings about single lines, which can be left out. Others concern the whole file."""

MOST_UNREADABLE = 0.5
"""If more of the lines cannot be used, the file or the templates are wrong, not the lines."""


@dataclass(frozen=True)
class Loaded:
    """The rows of an input by part, and what its files and columns are.

    `unreadable` are the lines that were left out. `unused` are the columns that no template names.
    `digests` are those of the files, by their names, or of the records if no file lies on this
    machine.
    """

    parts: Mapping[str, Sequence[Row]]
    recipe: Recipe
    unreadable: Sequence[Change]
    notes: Sequence[Finding]
    columns: tuple[str, ...]
    unused: tuple[str, ...]
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Keys:
    """What the user asks for about the columns; None means not asked."""

    prompt: str | None = None
    completion: str | None = None
    separator: str | None = None
    stop: str | None = None
    group_by: str | None = None
    keep_columns: bool = False


def load(readers: Mapping[str, Callable[[], RecordStream]], base: Path, keys: Keys, description: str) -> Loaded:
    """Read all parts. The names of the files are relative to `base`.

    Raises UserInputError if a whole file cannot be read, if no recipe fits, if the templates name a
    column that is not there, or if most lines cannot be used.
    """
    recipe, columns = _recipe(readers["train"], keys, description)
    reading = _Reading(recipe, keys, base)
    parts: dict[str, Sequence[Row]] = {part: list(reading.rows(stream())) for part, stream in readers.items()}
    if reading.fatal:
        raise UserInputError(errors_as_problems(capped(reading.fatal)))
    unreadable = sum(change.rows for change in reading.unreadable)
    lines = sum(map(len, parts.values())) + unreadable
    if unreadable > MOST_UNREADABLE * lines:
        first = reading.problems[0]
        share = f"{unreadable:,} of {lines:,} lines cannot be used"
        raise UserInputError([Problem(first.place, f"{share}; the first: {first.message}", first.hint)])
    if not isinstance(recipe, ChatRecipe):
        parts = dict(delimiters.without_delimiters(parts, recipe))
    unused = tuple(name for name in columns if name not in {*_used(recipe), keys.group_by})
    digests = _digests({description: Path(description).name, **reading.files})
    digests = digests or {"records": reading.digest.hexdigest()}
    return Loaded(parts, recipe, reading.unreadable, reading.notes, tuple(columns), unused, digests)


def _recipe(read: Callable[[], RecordStream], keys: Keys, description: str) -> tuple[Recipe, list[str]]:
    """Return the recipe that fits the first records, and their columns."""
    stream = read()
    head = list(islice(stream, SAMPLE))
    sample = [item for item in head if isinstance(item, Record)]
    if not sample:
        findings = [item for item in chain(head, stream) if isinstance(item, Finding)]
        nothing = Problem(description, "there are no examples", "name a file with one example per line")
        raise UserInputError(errors_as_problems(capped(findings)) or [nothing])
    recipe = choose_recipe(sample, keys.prompt, keys.completion, keys.separator, keys.stop)
    columns = list(dict.fromkeys(name for record in sample for name in record.fields))
    if isinstance(recipe, Finding):
        raise UserInputError([Problem(recipe.place, recipe.message, recipe.hint)])
    for name in (*_template_fields(recipe), *filter(None, [keys.group_by])):
        _check_column(name, sample, columns)
    return recipe, columns


def _check_column(name: str, sample: Sequence[Record], columns: Sequence[str]) -> None:
    """Raise UserInputError if no record of the sample has the field."""
    for record in sample:
        try:
            optional_text(record.fields, name)
        except FieldError as fault:
            if fault.missing:
                continue
        return
    raise UserInputError([Problem(sample[0].file, f"no record has the field {name!r}", nearest_hint(name, columns))])


def _template_fields(recipe: Recipe) -> tuple[str, ...]:
    return () if isinstance(recipe, ChatRecipe) else (*recipe.prompt.fields, *recipe.completion.fields)


def _used(recipe: Recipe) -> tuple[str, ...]:
    """Return the columns that examples are made of; `a.b` uses the column `a`."""
    if isinstance(recipe, ChatRecipe):
        return (recipe.source.column, "tools", "system", "input", "output", "instruction", "history")
    fields = _template_fields(recipe)
    return (*fields, *(field.partition(".")[0] for field in fields))


class _Reading:
    """Makes rows of records, and remembers what it met."""

    def __init__(self, recipe: Recipe, keys: Keys, base: Path) -> None:
        self._recipe = recipe
        self._keys = keys
        self._base = base
        self._used = frozenset(_used(recipe))
        self.unreadable: list[Change] = []
        self.problems: list[Finding] = []
        self.fatal: list[Finding] = []
        self.notes: list[Finding] = []
        self.files: dict[str, str] = {}
        self.digest = hashlib.sha256()

    def rows(self, stream: Iterable[Record | Finding]) -> Iterator[Row]:
        """Yield the rows of one part."""
        for item in stream:
            if isinstance(item, Record):
                self.digest.update(json.dumps(item.fields, sort_keys=True, default=str).encode() + b"\n")
                try:
                    yield self._row(item)
                except FieldError as fault:
                    self._leave_out(Finding("error", "field", fault.message, self._place(item), fault.hint), item)
            elif item.severity == "warning":
                self.notes.append(item)
            elif _is_about_lines(item):
                self._leave_out(item, None)
            else:
                self.fatal.append(item)

    def _row(self, record: Record) -> Row:
        recipe, fields = self._recipe, record.fields
        file = self._name(record.file)
        group = None
        if self._keys.group_by is not None:
            group = optional_text(fields, self._keys.group_by).strip() or None
        others = None
        if self._keys.keep_columns:
            others = {name: value for name, value in fields.items() if name not in self._used}
        if isinstance(recipe, ChatRecipe):
            example = recipe.example(record)
            messages = example.messages or ()
            contents = [str(message["content"]) for message in messages]
            return Row(
                tuple(contents[:-1]), (contents[-1],), file, record.line, group,
                messages=messages, tools=example.tools, others=others,
            )  # fmt: skip
        inputs, answers = _values(recipe.prompt, fields), _values(recipe.completion, fields)
        return Row(inputs, answers, file, record.line, group, others=others)

    def _leave_out(self, finding: Finding, record: Record | None) -> None:
        self.problems.append(finding)
        text = "" if record is None else json.dumps(record.fields, ensure_ascii=False, default=str)
        places = finding.places or (finding.place,)
        reason = finding.message.partition("; the same on ")[0]  # each place has a change of its own
        for number, place in enumerate(places):
            name, _, line = place.rpartition(":")
            more = finding.count - len(places) if number + 1 == len(places) else 0
            self.unreadable.append(Change(f"{self._name(name)}:{line}", text, None, reason, 1 + more))

    def _place(self, record: Record) -> str:
        return f"{record.file}:{record.line}"

    def _name(self, file: str) -> str:
        if file not in self.files:
            path = Path(file)
            self.files[file] = path.relative_to(self._base).as_posix() if path.is_relative_to(self._base) else path.name
        return self.files[file]


def _is_about_lines(finding: Finding) -> bool:
    """Return whether the rest of the file was read nevertheless."""
    if finding.code not in LINE_FAULTS:
        return False
    file = finding.place.rpartition(":")[0].lower().removesuffix(".gz")
    swallows_the_rest = "never closed" in finding.hint or (finding.code == "json" and file.endswith(".json"))
    return not swallows_the_rest


def _values(template: Template, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the texts of the columns: empty for a missing value, but not for a missing column."""
    return tuple(optional_text(fields, name) for name in template.fields)


def _digests(files: Mapping[str, str]) -> dict[str, str]:
    """Return the SHA-256 of the files that exist on this machine, by name.

    Those inside an archive do not; its own name is among them.
    """
    found = {}
    for file, name in sorted(files.items(), key=lambda pair: pair[1]):
        if Path(file).is_file():
            with Path(file).open("rb") as content:
                found[name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found
