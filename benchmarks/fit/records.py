"""The record of a run: the curve for the judge, and an oracle's measurements, hidden from it."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from backends.training_logs.learning_curve import CurvePoint, LearningCurve, LoopReport, MetricScale

CURVES = Path(__file__).resolve().parent / "curves.jsonl.gz"
CAUSES = ("healthy", "underfit", "overfit", "diverged", "unsettled")
FAMILIES = ("local", "torch", "sklearn")

GENERATION_OFFSET = 10_000
"""The difference between the run numbers of two generations.

Ids and seeds follow from the numbers.
"""

LONG_FROM = 50
"""The number of evaluations from which a curve counts as long."""

Split = Literal["tune", "report"]
_COLUMNS = ("epoch", "step", "train_loss", "valid_loss", "train_metric", "valid_metric")
_DIGITS = 4


@dataclass(frozen=True)
class Oracle:
    """Loss and metric on a large held-out set and on the full training set, at each of the run's
    evaluations.

    `base_*` are the values before training and `prior_loss` the loss of the best constant
    prediction. `later_*` belong to the run's continuation after the last visible evaluation.
    `spread_*` are standard deviations, over the held-out examples, of the change of one example's
    loss: from the oracle's minimum to the end (`rise`), from the visible validation minimum to the
    end (`shown`), and over the last quarter (`last`).
    """

    examples: int
    base_loss: float
    prior_loss: float
    loss: tuple[float, ...]
    train_loss: tuple[float, ...]
    spread_rise: float
    spread_shown: float
    spread_last: float
    base_train_loss: float
    base_metric: float | None = None
    metric: tuple[float, ...] | None = None
    train_metric: tuple[float, ...] | None = None
    later_loss: tuple[float, ...] = ()
    later_metric: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Record:
    """A run: its engineered cause (`cause`, `detail`), the judge's input (`curve`) and the truth
    (`oracle`).
    """

    id: str
    family: str
    dataset: str
    cause: str
    detail: str
    curve: LearningCurve
    oracle: Oracle
    settings: Mapping[str, Any] = field(default_factory=dict)
    split: Split = "tune"

    @property
    def is_long(self) -> bool:
        """Whether the curve is a long one."""
        return len(self.curve.points) >= LONG_FROM

    @property
    def generation(self) -> int:
        """The generation of the run, which follows from its id."""
        return int(self.id.rpartition("-")[2]) // GENERATION_OFFSET + 1

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values with four significant digits.

        `from_json` inverts it except for the rounding.
        """
        curve = {attribute.name: getattr(self.curve, attribute.name) for attribute in dataclasses.fields(self.curve)}
        points, baseline, loop_reports = curve.pop("points"), curve.pop("baseline"), curve.pop("loop_reports")
        curve["metric_scale"] = dataclasses.asdict(curve["metric_scale"])
        value = {attribute.name: getattr(self, attribute.name) for attribute in dataclasses.fields(self)}
        value |= {"settings": dict(self.settings), "oracle": dataclasses.asdict(self.oracle)}
        value["curve"] = {
            **curve,
            "points": {name: [getattr(point, name) for point in points] for name in _COLUMNS},
            "baseline": baseline and dataclasses.asdict(baseline),
            **({"running": [dataclasses.astuple(loop_report) for loop_report in loop_reports]} if loop_reports else {}),
        }
        return dict(_rounded(value))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild a record from the result of `to_json`."""
        curve, oracle = dict(value["curve"]), dict(value["oracle"])
        columns = curve.pop("points")
        points = tuple(CurvePoint(*row) for row in zip(*(columns[name] for name in _COLUMNS), strict=True))
        baseline = curve.pop("baseline")
        curve["metric_scale"] = MetricScale(**curve.get("metric_scale", {}))
        curve["loop_reports"] = tuple(LoopReport(*row) for row in curve.pop("running", ()))
        return cls(
            **{
                **value,
                "curve": LearningCurve(points, baseline and CurvePoint(**baseline), **curve),
                "oracle": Oracle(**{k: tuple(v) if isinstance(v, list) else v for k, v in oracle.items()}),
            }
        )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value


def assign_splits(records: Iterable[Record]) -> list[Record]:
    """Return the records by id with their splits: the last generation is `report`, all earlier ones
    are `tune`.
    """
    ordered = sorted(records, key=lambda record: record.id)
    last = max((record.generation for record in ordered), default=1)
    return [
        dataclasses.replace(record, split="report" if record.generation == last > 1 else "tune") for record in ordered
    ]


def write(records: Sequence[Record], path: Path = CURVES) -> None:
    """Write records, one per line.

    The same records give the same bytes. Non-finite values are written as NaN.
    """
    lines = "".join(json.dumps(record.to_json(), separators=(",", ":")) + "\n" for record in records)
    path.write_bytes(gzip.compress(lines.encode(), compresslevel=9, mtime=0))


def read(path: Path = CURVES) -> list[Record]:
    """Read what `write` wrote."""
    return [Record.from_json(json.loads(line)) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
