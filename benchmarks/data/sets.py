"""The sets of the benchmark: real ones from a folder, and generated ones."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from sweeps.data.builtin.generated import GENERATED_SOURCES

Row = dict[str, str]
Parts = dict[str, list[Row]]

TRAIN, OTHERS = 1000, 250
"""Examples of each part, at most."""


@dataclass(frozen=True)
class DataSet:
    """A set in three parts: its rows, the templates, and the columns of prompt and answer."""

    name: str
    parts: Parts
    prompt: str
    completion: str
    columns: tuple[str, ...]
    answer: str
    has_labels: bool

    def with_parts(self, parts: Parts) -> DataSet:
        """Return the same set with other rows."""
        return replace(self, parts=parts)

    def copy(self) -> Parts:
        """Return the rows, to be changed."""
        return {part: [dict(row) for row in rows] for part, rows in self.parts.items()}

    def labels(self) -> list[str]:
        """Return the labels of train."""
        return sorted({row[self.answer] for row in self.parts["train"]})


def real_sets(folder: Path) -> Iterator[DataSet]:
    """Read the sets of this layout: sms_spam/spam.csv, gsm8k/test.jsonl, snli/*.jsonl.gz."""
    with (folder / "sms_spam" / "spam.csv").open(encoding="latin-1", newline="") as file:
        rows = [{"text": row["v2"], "label": row["v1"]} for row in csv.DictReader(file)]
    yield _parts("SMS spam", rows, "{text}\n\n###\n\n", " {label}", ("text",), "label", True)
    rows = [json.loads(line) for line in (folder / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    yield _parts("GSM8K", rows, "{question}\n\n###\n\n", " {answer}", ("question",), "answer", False, stop="***")
    parts = {
        part: [
            {"premise": pair["sentence1"], "hypothesis": pair["sentence2"], "label": pair["gold_label"]}
            for pair in _lines(folder / "snli" / f"snli_1.0_{stem}.jsonl.gz")
            if pair["gold_label"] != "-"
        ][: TRAIN if part == "train" else OTHERS]
        for part, stem in (("train", "train"), ("valid", "dev"), ("test", "test"))
    }
    columns = ("premise", "hypothesis")
    yield DataSet("SNLI", parts, "{premise}\n{hypothesis}\n\n###\n\n", " {label}", columns, "label", True)


def _lines(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def generated_sets() -> Iterator[DataSet]:
    """Generate sentence pairs with labels, and word problems with numbers."""
    for name, columns, answer, has_labels in (
        ("builtin:nli", ("premise", "hypothesis"), "label", True),
        ("builtin:sums", ("question",), "answer", False),
    ):
        source = GENERATED_SOURCES[name]
        parts = {
            part: [{key: str(value) for key, value in row.items()} for row in source.generate(part, count, 7, 0.0)]
            for part, count in (("train", TRAIN), ("valid", OTHERS), ("test", OTHERS))
        }
        assert source.prompt is not None
        assert source.completion is not None
        yield DataSet(name, parts, source.prompt, source.completion, columns, answer, has_labels)


def _parts(
    name: str,
    rows: list[Row],
    prompt: str,
    completion: str,
    columns: tuple[str, ...],
    answer: str,
    has_labels: bool,
    stop: str = "",
) -> DataSet:
    """Clean a set of its own copies, shuffle it, and divide it.

    Real sets have faults of their own: SMS spam repeats a tenth of its messages. Whoever measures
    false alarms must take them out first. Copies are found here by sorted words, not by the method
    that is measured.
    """
    seen: set[tuple[str, ...]] = set()
    distinct = []
    for row in rows:
        key = tuple(sorted(set(" ".join(row[column] for column in columns).casefold().split())))
        if key not in seen:
            seen.add(key)
            distinct.append(row)
    Random(7).shuffle(distinct)
    distinct = distinct[: TRAIN + 2 * OTHERS]
    train = len(distinct) - 2 * min(OTHERS, len(distinct) // 6)
    middle = (train + len(distinct)) // 2
    parts = {"train": distinct[:train], "valid": distinct[train:middle], "test": distinct[middle:]}
    return DataSet(name, parts, prompt, completion + stop, columns, answer, has_labels)
