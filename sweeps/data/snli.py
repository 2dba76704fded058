"""Stanford Natural Language Inference (SNLI): premise, hypothesis and label.

The source is a directory with the official files, or the hub's copy. Pairs whose annotators did not
agree on a label ("-", or no class on the hub) are dropped and counted, as in the data set's own
evaluation. Bowman et al., 2015, "A large annotated corpus for learning natural language inference".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.data import hub
from sweeps.data.findings import Finding, error, nearest_hint, quoted, warning
from sweeps.data.readers.files import read_records
from sweeps.data.readers.record import Record, RecordStream
from sweeps.errors import Problem, UserInputError

if TYPE_CHECKING:
    from datasets import Dataset

REPOSITORY = "stanfordnlp/snli"
LABELS = ("entailment", "neutral", "contradiction")
COLUMNS = ("premise", "hypothesis", "label")

_OFFICIAL: Mapping[str, str] = {"train": "snli_1.0_train", "valid": "snli_1.0_dev", "test": "snli_1.0_test"}
_NO_LABEL = "-"


def official_files(directory: Path) -> dict[str, Path]:
    """Return the official files of the directory by part, a plain one before a gzipped one."""
    return {
        part: path
        for part, stem in _OFFICIAL.items()
        for ending in (".jsonl.gz", ".jsonl")
        if (path := directory / f"{stem}{ending}").is_file()
    }


def in_directory(directory: Path) -> tuple[str, dict[str, Callable[[], RecordStream]]]:
    """Return a description and the parts: the official files, else a saved copy of the hub's.

    Raises UserInputError if the directory has neither.
    """
    if files := official_files(directory):
        if "train" not in files:
            message = f"the directory has no {_OFFICIAL['train']}.jsonl or .jsonl.gz"
            raise UserInputError([Problem(str(directory), message, f"it has: {_names(files)}")])
        return f"snli (official files in {directory})", {part: partial(_official, path) for part, path in files.items()}
    if directory.is_dir() and hub.is_saved(directory):
        saved = hub.open_saved(directory)
        return f"snli (saved data set in {directory})", _labelled(saved, str(directory))
    hint = "expected: snli_1.0_train.jsonl, snli_1.0_dev.jsonl and snli_1.0_test.jsonl, or these with .gz"
    raise UserInputError([Problem(str(directory), "not a directory with the official SNLI files", hint)])


def from_hub() -> tuple[str, dict[str, Callable[[], RecordStream]]]:
    """Return a description and the parts from the hub or its local cache.

    Raises hub.SourceUnavailableError if there is neither.
    """
    return f"snli (Hugging Face {REPOSITORY})", _labelled(hub.open_hub(REPOSITORY), f"hf:{REPOSITORY}")


def _official(path: Path) -> RecordStream:
    """Read an official file and rename its columns."""
    yield from _with_gold_label(map(_renamed, read_records(path)), str(path))


def _renamed(record: Record | Finding) -> Record | Finding:
    if isinstance(record, Finding):
        return record
    fields = record.fields
    try:
        values = (fields["sentence1"], fields["sentence2"], fields["gold_label"])
    except KeyError as missing:
        hint = nearest_hint(missing.args[0], list(fields))
        return error("missing-field", record.place, f"the field {missing.args[0]!r} is missing", hint)
    return Record(dict(zip(COLUMNS, values, strict=True)), record.file, record.line)


def _labelled(tables: Mapping[str, Dataset], name: str) -> dict[str, Callable[[], RecordStream]]:
    for part, table in tables.items():
        if missing := set(COLUMNS) - set(table.column_names):
            message = f"the {part} part has no column {min(missing)!r}"
            raise UserInputError([Problem(name, message, f"available: {', '.join(table.column_names)}")])
    return {part: partial(_labelled_rows, table, f"{name} {part}") for part, table in tables.items()}


def _labelled_rows(table: Dataset, name: str) -> RecordStream:
    yield from _with_gold_label(hub.row_records(table, name), name)


def _with_gold_label(records: RecordStream, file: str) -> RecordStream:
    """Drop the pairs without a gold label and report their number."""
    dropped, first = 0, ""
    for record in records:
        if isinstance(record, Finding):
            yield record
            continue
        label = record.fields["label"]
        if label in LABELS:
            yield record
        elif label == _NO_LABEL or label is None:
            dropped += 1
            first = first or record.place
        else:
            message = f"{quoted(str(label))} is not a label of SNLI"
            yield error("unknown-label", record.place, message, nearest_hint(str(label), LABELS))
    if dropped:
        message = f"left out {dropped} pairs without a gold label, as usual with SNLI"
        yield warning("no-gold-label", first or file, message, count=dropped)


def _names(files: Mapping[str, Path]) -> str:
    return ", ".join(path.name for path in files.values())
