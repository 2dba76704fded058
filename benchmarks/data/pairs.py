"""Near duplicates and wrong labels, example by example: recall and false alarms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from benchmarks.data.faults import EDITS, edited
from benchmarks.data.sets import DataSet, Row
from sweeps.data.checks.mislabelled import suspected
from sweeps.data.examples import Example
from sweeps.data.near_duplicates import near_duplicates

COPIES = 200
SEEDS = 5
NOISE = (0.0, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class CopyResult:
    """How many of the edited copies are found in a set, for one edit."""

    data: str
    edit: str
    copies: int
    found: int


@dataclass(frozen=True)
class AlarmResult:
    """How many examples of a set without injected copies have a near duplicate."""

    data: str
    examples: int
    alarms: int
    shown: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class NoiseResult:
    """Suspected labels at one share of wrong ones, summed over the seeds."""

    data: str
    share: float
    examples: int
    wrong: int
    suspects: int
    hits: int


def copies(data: DataSet) -> Iterator[CopyResult]:
    """Add edited copies of training rows to validation, and count those that are found."""
    for name, (change, suits) in EDITS.items():
        random = Random(3)
        train = data.parts["train"]
        candidates = [row for row in train if any(suits(row[column]) for column in data.columns)]
        originals = random.sample(candidates, min(COPIES, len(candidates)))
        if len(originals) < COPIES // 4:
            continue
        edit = edited(change, suits)
        added = [dict(row) for row in originals]
        for row in added:
            edit(data, row, random)
        examples = _examples(data, [*train, *added])
        later = {pair.later for pair in near_duplicates(examples, data.has_labels).pairs}
        yield CopyResult(data.name, name, len(added), sum(len(train) + number in later for number in range(len(added))))


def alarms(data: DataSet) -> AlarmResult:
    """Count the examples of the clean set that have a near duplicate, and show some pairs."""
    rows = [row for part in data.parts.values() for row in part]
    examples = _examples(data, rows)
    pairs = near_duplicates(examples, data.has_labels).pairs
    shown = tuple(
        (" / ".join(examples[pair.earlier].segments), " / ".join(examples[pair.later].segments)) for pair in pairs[:8]
    )
    return AlarmResult(data.name, len(rows), len({pair.later for pair in pairs}), shown)


def noise(data: DataSet) -> Iterator[NoiseResult]:
    """Replace a share of the labels, and count the suspects."""
    rows = data.parts["train"]
    texts = ["\n".join(row[column] for column in data.columns) for row in rows]
    names = data.labels()
    for share in NOISE:
        wrong_count = suspects = hits = 0
        for seed in range(SEEDS):
            random = Random(seed)
            labels = [row[data.answer] for row in rows]
            wrong = set(random.sample(range(len(labels)), round(share * len(labels))))
            for index in wrong:
                labels[index] = random.choice([name for name in names if name != labels[index]])
            found = {index for index, _ in suspected(texts, labels)}
            wrong_count, suspects, hits = wrong_count + len(wrong), suspects + len(found), hits + len(found & wrong)
        yield NoiseResult(data.name, share, SEEDS * len(rows), wrong_count, suspects, hits)


def _examples(data: DataSet, rows: list[Row]) -> list[Example]:
    return [
        Example(
            "\n".join(row[name] for name in data.columns),
            row[data.answer],
            tuple(row[name] for name in data.columns),
            "set",
            number,
        )
        for number, row in enumerate(rows, 1)
    ]
