"""`sweep predict`: reads a table of examples, predicts them, and writes the predictions."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.champions.predictors import Predictor
from sweeps.data.findings import Finding, capped, error, errors_as_problems, nearest_hint
from sweeps.data.readers.files import is_data_file, known_endings, read_records
from sweeps.data.readers.record import Record, RepeatedColumn
from sweeps.data.templates import FieldError
from sweeps.errors import Problem, UserInputError
from sweeps.tracking.served_card import ServedCard

BATCH_SIZE = 256
"""The number of examples per call of the model. Progress is reported between two calls."""

REPORT_INTERVAL_S = 5.0
"""The least time between two progress reports."""

PREDICTION_COLUMN = "prediction"

OUTPUT_ENDINGS = (".csv", ".tsv", ".jsonl", ".json")


@dataclass(frozen=True)
class ExampleTable:
    """The records of a file as they are, and for each record the row that the model predicts."""

    records: tuple[Mapping[str, Any], ...]
    rows: tuple[Mapping[str, Any], ...]


# --------------------------------------------------------------------------------------------- read
def read_examples(path: Path, card: ServedCard, encoding: str = "utf-8") -> ExampleTable:
    """Read the examples of a file.

    Raises UserInputError with all mistakes of the file, each with its line.
    """
    if not path.is_file():
        raise UserInputError(
            [Problem(str(path), "no such file", "name a file with examples, such as CSV, JSON lines, Parquet or Excel")]
        )
    if not is_data_file(path):
        hint = f"known endings: {known_endings()}"
        raise UserInputError([Problem(str(path), f"unknown file ending {path.suffix!r}", hint)])
    findings: list[Finding] = []
    records: list[Mapping[str, Any]] = []
    rows: list[Mapping[str, Any]] = []
    field_findings: dict[str, list[Finding]] = {}
    for record in read_records(path, encoding):
        if not isinstance(record, Record):
            findings.append(record)
            continue
        records.append(record.fields)
        try:
            rows.append(card.row_of_record(record.fields))
        except FieldError as problem:
            code = "missing-field" if problem.missing else "field"
            finding = error(code, record.place, problem.message, problem.hint)
            field_findings.setdefault(problem.field, []).append(finding)
    for field, same_field in field_findings.items():
        if len(same_field) == len(records) and same_field[0].code == "missing-field":
            message = f"no example has the column {field!r}, which the model needs"
            hint = nearest_hint(field, [str(column) for column in records[0]])
            findings.append(error("missing-field", str(path), message, hint))
        else:
            findings += same_field
    findings += _column_errors(records, card, path)
    if problems := errors_as_problems(capped(findings)):
        raise UserInputError(problems)
    if not records:
        raise UserInputError([Problem(str(path), "the file has no examples")])
    return ExampleTable(tuple(records), tuple(rows))


def _column_errors(records: Sequence[Mapping[str, Any]], card: ServedCard, path: Path) -> Iterator[Finding]:
    """Yield an error for each column that the output cannot have beside the predictions."""
    for column in records[0].values() if records else ():
        if isinstance(column, RepeatedColumn):  # the output could keep only one of them
            yield error("repeated-column", str(path), str(column), "rename one of them in the header")
    columns = {str(column) for record in records for column in record}
    if reserved := sorted(columns & _output_columns(card)):
        message = f"the file already has a column {reserved[0]!r}"
        yield error("taken", str(path), message, "rename it: the predictions need this name")


def _output_columns(card: ServedCard) -> set[str]:
    columns = {PREDICTION_COLUMN, "probability", *(f"probability.{name}" for name in card.label_names)}
    return columns if card.label_names else {*columns, "truncated"}


# ------------------------------------------------------------------------------------------ predict
def predict_examples(examples: ExampleTable, predictor: Predictor, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return the records in the order of the file, with the prediction after their own columns.

    `say` receives progress reports. Raises SweepError if the model cannot predict.
    """
    predicted: list[dict[str, Any]] = []
    reported_at_s = time.monotonic()
    for first in range(0, len(examples.rows), BATCH_SIZE):
        batch = slice(first, first + BATCH_SIZE)
        predictions = predictor.predict(examples.rows[batch])
        for record, prediction in zip(examples.records[batch], predictions, strict=True):
            probabilities = {name: value for name, value in prediction.items() if name != "label"}
            predicted.append({**record, PREDICTION_COLUMN: prediction["label"], **probabilities})
        if time.monotonic() - reported_at_s > REPORT_INTERVAL_S:
            reported_at_s = time.monotonic()
            say(f"{len(predicted):,} of {len(examples.rows):,} examples predicted")
    return predicted


# -------------------------------------------------------------------------------------------- write
def check_output(path: Path) -> None:
    """Raise UserInputError if `write_rows` cannot write this file. Call it before predicting."""
    if path.suffix.lower() not in OUTPUT_ENDINGS:
        hint = f"known endings: {', '.join(OUTPUT_ENDINGS)}"
        raise UserInputError([Problem("--out", f"{path}: unknown file ending {path.suffix!r}", hint)])
    folder = path.absolute().parent
    if not folder.is_dir():
        hint = "create it, or give another place"
        raise UserInputError([Problem("--out", f"the folder {folder} does not exist", hint)])


def format_rows(rows: Sequence[Mapping[str, Any]], ending: str) -> str:
    """Return rows as the text of a file with this ending, one of `OUTPUT_ENDINGS`."""
    if ending == ".json":
        return json.dumps(rows, indent=2, ensure_ascii=False, default=str) + "\n"
    if ending == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.DictWriter(text, columns, delimiter="\t" if ending == ".tsv" else ",", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({column: _cell(value) for column, value in row.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list | bool) else value


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the rows to a file, in the format of its ending. Writes the whole file or nothing."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(format_rows(rows, path.suffix.lower()), encoding="utf-8", newline="")
    draft.replace(path)
