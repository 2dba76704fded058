"""Stanford Natural Language Inference: the official files, or the hub's copy, as premise, hypothesis and label.

Pairs on whose label the annotators did not agree ("-", or no class on the hub) are dropped and counted, as in the
data set's own evaluation. Bowman et al., 2015, "A large annotated corpus for learning natural language inference".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.data import hub
from sweeps.data.findings import Finding, error, nearest, quoted, warning
from sweeps.data.formats import Read, Record, read
from sweeps.errors import Problem, UserInputError

if TYPE_CHECKING:
    from datasets import Dataset

REPOSITORY = "stanfordnlp/snli"
LABELS = ("entailment", "neutral", "contradiction")
COLUMNS = ("premise", "hypothesis", "label")

_OFFICIAL: Mapping[str, str] = {"train": "snli_1.0_train", "valid": "snli_1.0_dev", "test": "snli_1.0_test"}
_NO_LABEL = "-"


def official_files(directory: Path) -> dict[str, Path]:
    """Return the official files that are in the directory, by part; the plain one where there is a gzipped one too."""
    return {
        part: path
        for part, stem in _OFFICIAL.items()
        for ending in (".jsonl.gz", ".jsonl")
        if (path := directory / f"{stem}{ending}").is_file()
    }


def in_directory(directory: Path) -> tuple[str, dict[str, Callable[[], Read]]]:
    """Return what is used and its parts: the official files, else a saved data set with the hub's columns.

    Raises UserInputError where the directory holds neither.
    """
    if files := official_files(directory):
        if "train" not in files:
            missing = f"{_OFFICIAL['train']}.jsonl or .jsonl.gz is not in it"
            raise UserInputError([Problem(str(directory), missing, f"there is: {_names(files)}")])
        return f"snli (official files in {directory})", {part: partial(_official, path) for part, path in files.items()}
    if directory.is_dir() and hub.is_saved(directory):
        saved = hub.open_saved(directory)
        return f"snli (saved data set in {directory})", _labelled(saved, str(directory))
    hint = "it holds snli_1.0_train.jsonl, snli_1.0_dev.jsonl and snli_1.0_test.jsonl, or these with .gz"
    raise UserInputError([Problem(str(directory), "this is not the directory of the official SNLI files", hint)])


def from_hub() -> tuple[str, dict[str, Callable[[], Read]]]:
    """Return what is used and its parts from the hub or its local cache. Raises hub.Absent where there is neither."""
    return f"snli (Hugging Face {REPOSITORY})", _labelled(hub.open_hub(REPOSITORY), f"hf:{REPOSITORY}")


def _official(path: Path) -> Read:
    """Read an official file, renaming its columns."""
    yield from _agreed(map(_renamed, read(path)), str(path))


def _renamed(found: Record | Finding) -> Record | Finding:
    if isinstance(found, Finding):
        return found
    fields = found.fields
    try:
        values = (fields["sentence1"], fields["sentence2"], fields["gold_label"])
    except KeyError as missing:
        hint = nearest(missing.args[0], list(fields))
        return error("missing-field", found.place, f"the field {missing.args[0]!r} is missing", hint)
    return Record(dict(zip(COLUMNS, values, strict=True)), found.file, found.line)


def _labelled(tables: Mapping[str, Dataset], name: str) -> dict[str, Callable[[], Read]]:
    for part, table in tables.items():
        if absent := set(COLUMNS) - set(table.column_names):
            message = f"the {part} part has no column {min(absent)!r}"
            raise UserInputError([Problem(name, message, f"there is: {', '.join(table.column_names)}")])
    return {part: partial(_agreed_rows, table, f"{name} {part}") for part, table in tables.items()}


def _agreed_rows(table: Dataset, name: str) -> Read:
    yield from _agreed(hub.rows(table, name), name)


def _agreed(records: Read, file: str) -> Read:
    dropped, first = 0, ""
    for found in records:
        if isinstance(found, Finding):
            yield found
            continue
        label = found.fields["label"]
        if label in LABELS:
            yield found
        elif label == _NO_LABEL or label is None:
            dropped += 1
            first = first or found.place
        else:
            shown = quoted(str(label))
            yield error("unknown-label", found.place, f"{shown} is no label of SNLI", nearest(str(label), LABELS))
    if dropped:
        message = f"{dropped} pairs without a gold label are left out, as usual with SNLI"
        yield warning("no-gold-label", first or file, message, count=dropped)


def _names(files: Mapping[str, Path]) -> str:
    return ", ".join(path.name for path in files.values())
