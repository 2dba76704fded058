"""What is known of a recorded run: the curve that is judged, and what an oracle saw that no judge is shown."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from backends.training_logs.learning_curve import CurvePoint, LearningCurve, LoopReport

CURVES = Path(__file__).resolve().parent / "curves.jsonl.gz"
CAUSES = ("healthy", "underfit", "overfit", "diverged", "unsettled")
FAMILIES = ("local", "torch", "sklearn")

APART = 10_000
"""By how much the numbers of runs, and so their ids and seeds, differ from one generation of runs to the next."""

LONG_FROM = 50
"""A curve of so many evaluations is a long one."""

Split = Literal["tune", "report"]
_COLUMNS = ("epoch", "step", "train_loss", "valid_loss", "train_metric", "valid_metric")
_DIGITS = 4


@dataclass(frozen=True)
class Oracle:
    """What a large held-out set and the full training set said, at each of the run's evaluations, in their order.

    `base_*` are the values before training, `prior_loss` the loss of the best constant prediction. `later_*` are of
    the run's continuation, after the last evaluation that is shown. `spread_*` are standard deviations, over the
    held-out examples, of the change of one example's loss: from the oracle's minimum to the end (`rise`), from the
    shown validation minimum to the end (`shown`), over the last stretch (`last`).
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
    """A run: why it went as it did (`cause`, `detail`), what a judge is shown (`curve`), what is true (`oracle`)."""

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
    def long(self) -> bool:
        """Whether it is one of the long curves."""
        return len(self.curve.points) >= LONG_FROM

    @property
    def generation(self) -> int:
        """Which generation of runs it is of; the ids of two generations are `APART`."""
        return int(self.id.rpartition("-")[2]) // APART + 1

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values with four significant digits; `from_json` inverts it but for those."""
        curve = {each.name: getattr(self.curve, each.name) for each in dataclasses.fields(self.curve)}
        points, baseline, loop_reports = curve.pop("points"), curve.pop("baseline"), curve.pop("loop_reports")
        value = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        value |= {"settings": dict(self.settings), "oracle": dataclasses.asdict(self.oracle)}
        value["curve"] = {
            **curve,
            "points": {name: [getattr(each, name) for each in points] for name in _COLUMNS},
            "baseline": baseline and dataclasses.asdict(baseline),
            **({"running": [dataclasses.astuple(each) for each in loop_reports]} if loop_reports else {}),
        }
        return dict(_rounded(value))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild a record from `to_json`'s value."""
        curve, oracle = dict(value["curve"]), dict(value["oracle"])
        columns = curve.pop("points")
        points = tuple(CurvePoint(*row) for row in zip(*(columns[name] for name in _COLUMNS), strict=True))
        baseline = curve.pop("baseline")
        curve["loop_reports"] = tuple(LoopReport(*each) for each in curve.pop("running", ()))
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
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    return value


def shared_out(records: Iterable[Record]) -> list[Record]:
    """Return the records with their splits: the last generation of runs is for reporting, all before it for tuning."""
    found = sorted(records, key=lambda each: each.id)
    last = max((each.generation for each in found), default=1)
    return [dataclasses.replace(each, split="report" if each.generation == last > 1 else "tune") for each in found]


def write(records: Sequence[Record], path: Path = CURVES) -> None:
    """Write records, one a line; the same records give the same bytes. Values that are not finite stand as NaN."""
    lines = "".join(json.dumps(each.to_json(), separators=(",", ":")) + "\n" for each in records)
    path.write_bytes(gzip.compress(lines.encode(), compresslevel=9, mtime=0))


def read(path: Path = CURVES) -> list[Record]:
    """Read what `write` wrote."""
    return [Record.from_json(json.loads(line)) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
