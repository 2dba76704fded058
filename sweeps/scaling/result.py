"""The result of a scale run: the curves, what they say, and their files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends import codec
from sweeps.scaling.curves import Measure, ModelCurve
from sweeps.scaling.sentences import sentences
from sweeps.workspace import write_text


@dataclass(frozen=True)
class ScaleResult:
    """The curves of all models. `end` says why points are missing; empty if none is."""

    name: str
    data: str
    measure: Measure
    seeds: int
    searches: bool
    curves: tuple[ModelCurve, ...]
    end: str = ""

    @property
    def sentences(self) -> Sequence[str]:
        """What the curves say."""
        return sentences(self.curves, self.measure)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        curves = []
        for curve in self.curves:
            written = codec.to_json(curve)
            for point, measured in zip(written["points"], curve.points, strict=True):
                point["mean"] = measured.mean if measured.values else None
                point["half_width"] = measured.half_width
            curves.append(written)
        measure = {**codec.to_json(self.measure), "bounds": [_finite(end) for end in self.measure.bounds]}
        return {
            "name": self.name,
            "data": self.data,
            "measure": measure,
            "seeds": self.seeds,
            "searches": self.searches,
            "end": self.end or None,
            "curves": curves,
            "sentences": list(self.sentences),
        }


def write_files(result: ScaleResult, folder: Path) -> list[Path]:
    """Write `scale.json`, `scale.csv` (one row per run) and `scale.svg`; return their paths."""
    from sweeps.scaling.figure import draw

    folder.mkdir(parents=True, exist_ok=True)
    json_file, table, figure = folder / "scale.json", folder / "scale.csv", folder / "scale.svg"
    write_text(json_file, json.dumps(result.to_json(), indent=2) + "\n")
    write_text(table, _csv(result))
    draw(result, figure)
    return [json_file, table, figure]


def _csv(result: ScaleResult) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["model", "train_examples", "run", result.measure.metric, "sweep"])
    for curve in result.curves:
        for point in curve.points:
            for number, value in enumerate(point.values, 1):
                writer.writerow([curve.label, point.size, number, value, point.sweep])
    return stream.getvalue()


def _finite(end: float) -> float | None:
    return end if abs(end) != float("inf") else None
