"""`sweep predict`: a table of examples answered by a registered model, or by the best model of a sweep."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from backends.contract import Backend, BackendError, Placement, PredictOptions
from sweeps.data.findings import Finding, capped, error, errors_as_problems, nearest_hint
from sweeps.data.formats import Record, is_data_file, known_endings, read_records
from sweeps.data.templates import FieldError
from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.spec.loading import load
from sweeps.study import state
from sweeps.tracking import reachability
from sweeps.tracking.registry import Registry
from sweeps.tracking.served_card import Card
from sweeps.workspace import Workspace

AT_ONCE = 256
"""Examples that are answered before progress is told."""

TELL_S = 5.0

ANSWER = "prediction"
OUTPUTS = (".csv", ".tsv", ".jsonl", ".json")


class Answerer(Protocol):
    """Someone who answers rows of a card's columns."""

    @property
    def card(self) -> Card:
        """Which columns are needed."""
        ...

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return `label`, `probability` and `probability.<label>` of each row. Raises SweepError."""
        ...


@dataclass(frozen=True)
class Table:
    """The records of a file as they are, and the columns of each that the model is asked with."""

    records: tuple[Mapping[str, Any], ...]
    rows: tuple[Mapping[str, Any], ...]


# ---------------------------------------------------------------------------------------------------------- who answers
@contextmanager
def answerer(
    name: str, version: str | None, workspace: Workspace, uri: str, storage: str | None
) -> Iterator[tuple[Answerer, str]]:
    """Give whoever answers under a name, and say who that is: a registered model's champion (or another `version` of
    it), else the best model of the sweep of this name. Raises UserInputError where there is neither."""
    file = reachability.sqlite_path(uri)
    registry = None if file is not None and not file.exists() else Registry(uri)
    versions = registry.versions(name) if registry is not None else []
    if registry is not None and versions:
        if version is None:
            found = registry.champion(name)
        else:
            found = next((each for each in versions if each.number == version), None)
            if found is None:
                there = ", ".join(version.number for version in reversed(versions))
                raise UserInputError([Problem(name, f"has no version {version}", f"there are {there}")])
        if found is not None:
            what = f"version {found.number} of {name}" + (", its champion" if version is None else "")
            yield registry.load(found), what
            return
    if version is not None:
        raise UserInputError([Problem(name, "is no registered model", "--version is for registered models")])
    if name not in workspace.sweep_names():
        raise _nobody(name, workspace, registry, bool(versions))
    with _best_of_sweep(name, workspace, storage) as (answering, what):
        none = f"; {name} has no champion yet" if versions else ""
        yield answering, what + none


def _nobody(name: str, workspace: Workspace, registry: Registry | None, registered: bool) -> UserInputError:
    if registered:
        hint = f"`sweep champion history {name}` says why; --version asks one of its versions"
        return UserInputError([Problem(name, "this registered model has no champion yet", hint)])
    known = [*(registry.models() if registry is not None else ()), *workspace.sweep_names()]
    return UserInputError([Problem(name, "is neither a registered model nor a sweep here", nearest_hint(name, known))])


class _BestOfSweep:
    """The best model of a sweep, asked where it was trained."""

    def __init__(self, card: Card, backend: Backend, model: str, labels: Sequence[str], stop: str) -> None:
        self.card = card
        self._backend, self._model, self._labels, self._stop = backend, model, tuple(labels), stop

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        options = PredictOptions(labels=self._labels or None, stop=self._stop)
        try:
            answers = self._backend.predict(self._model, [self.card.line(row) for row in rows], options)
        except BackendError as refused:
            raise SweepError(refused.failure.message, refused.failure.detail) from refused
        found = []
        for each in answers:
            known = self._labels.index(each.text) if each.text in self._labels else None
            answer: dict[str, Any] = {"label": each.text if known is None else self.card.names[known]}
            if self._labels:
                shares = _shares(each.label_logprobs, len(self._labels))
                answer["probability"] = None if known is None else shares[known]
                answer |= {f"probability.{n}": share for n, share in zip(self.card.names, shares, strict=True)}
            found.append(answer)
        return found


def _shares(logprobs: Sequence[float] | None, count: int) -> list[float | None]:
    if logprobs is None:
        return [None] * count
    weights = [math.exp(logprob - max(logprobs)) for logprob in logprobs]
    return [weight / sum(weights) for weight in weights]


@contextmanager
def _best_of_sweep(name: str, workspace: Workspace, storage: str | None) -> Iterator[tuple[Answerer, str]]:
    found = state.read_state(workspace, name, storage)
    best, data = found.best, found.plan["data"]
    if best is None or best.model is None:
        raise SweepError(f"sweep `{name}` has no model yet", f"`sweep status {name}` says how far it is")
    if "prompt" not in data:
        raise SweepError(f"sweep `{name}` was run by an earlier version", "run it again: `sweep run FILE --fresh`")
    spec = load(workspace.sweep_folder(name) / "sweep.yaml")
    if not spec.capabilities.can_predict:
        raise SweepError(f"models of backend `{spec.backend_type}` do not answer here", "ask them where they are")
    card = Card.of_labels(tuple(data["labels"]), data["stop"], data["prompt"], data["separator"])
    try:
        backend = spec.backend_class.open(
            spec.backend_options, workspace.sweep_folder(name), Placement(os.cpu_count() or 1)
        )
    except BackendError as refused:
        raise SweepError(refused.failure.message, refused.failure.detail) from refused
    try:
        yield (
            _BestOfSweep(card, backend, best.model, data["labels"], data["stop"]),
            f"{state.describe_best(best)} of sweep {name}",
        )
    finally:
        backend.close()


# ---------------------------------------------------------------------------------------------------------------- files
def table(path: Path, card: Card, encoding: str = "utf-8") -> Table:
    """Read the examples of a file. Raises UserInputError with everything that is wrong in it, each with its line."""
    if not path.is_file():
        raise UserInputError([Problem(str(path), "there is no such file", "give a CSV, TSV or JSON-lines file")])
    if not is_data_file(path):
        raise UserInputError(
            [Problem(str(path), f"the ending {path.suffix!r} is not known", f"known are {known_endings()}")]
        )
    findings: list[Finding] = []
    records: list[Mapping[str, Any]] = []
    rows: list[Mapping[str, Any]] = []
    lacking: dict[str, list[Finding]] = {}
    for each in read_records(path, encoding):
        if not isinstance(each, Record):
            findings.append(each)
            continue
        records.append(each.fields)
        try:
            rows.append(card.values(each.fields))
        except FieldError as lack:
            wrong = error("missing-field" if lack.missing else "field", each.place, lack.message, lack.hint)
            lacking.setdefault(lack.field, []).append(wrong)
    for field, found in lacking.items():
        if len(found) == len(records) and found[0].code == "missing-field":
            there = [str(each) for each in records[0]]
            message = f"no example has the column {field!r}, which the model asks for"
            findings.append(error("missing-field", str(path), message, nearest_hint(field, there)))
        else:
            findings += found
    if taken := sorted({key for record in records for key in record if _is_ours(str(key), card)}):
        message = f"the column {taken[0]!r} is there already"
        findings.append(error("taken", str(path), message, "rename it: the predictions are written there"))
    if mistakes := errors_as_problems(capped(findings)):
        raise UserInputError(mistakes)
    if not records:
        raise UserInputError([Problem(str(path), "there are no examples in it")])
    return Table(tuple(records), tuple(rows))


def _is_ours(column: str, card: Card) -> bool:
    return column in (ANSWER, "probability", *(f"probability.{name}" for name in card.names))


def answered(asked: Table, answering: Answerer, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return each record with its prediction behind its own columns, in the file's order."""
    found: list[dict[str, Any]] = []
    told = time.monotonic()
    for first in range(0, len(asked.rows), AT_ONCE):
        answers = answering.predict(asked.rows[first : first + AT_ONCE])
        for record, answer in zip(asked.records[first : first + AT_ONCE], answers, strict=True):
            found.append({**record, ANSWER: answer["label"], **{k: v for k, v in answer.items() if k != "label"}})
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            say(f"{len(found):,} of {len(asked.rows):,} answered")
    return found


def check_output(path: Path) -> None:
    """Raise UserInputError where nothing can be written there, before anything is answered."""
    if path.suffix.lower() not in OUTPUTS:
        hint = f"known are {', '.join(OUTPUTS)}"
        raise UserInputError([Problem("--out", f"{path}: the ending {path.suffix!r} is not known", hint)])
    if not path.absolute().parent.is_dir():
        hint = "make it, or write somewhere else"
        raise UserInputError([Problem("--out", f"the folder {path.absolute().parent} does not exist", hint)])


def text(rows: Sequence[Mapping[str, Any]], ending: str) -> str:
    """Return rows as the text of a file with this ending (`OUTPUTS`)."""
    if ending == ".json":
        return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    if ending == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    written = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = csv.DictWriter(written, columns, delimiter="\t" if ending == ".tsv" else ",", lineterminator="\n")
    cells.writeheader()
    for row in rows:
        cells.writerow({key: _cell(value) for key, value in row.items()})
    return written.getvalue()


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | bool) else value


def write(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a file, whole or not at all."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(text(rows, path.suffix.lower()), encoding="utf-8", newline="")
    draft.replace(path)
