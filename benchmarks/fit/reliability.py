"""Is the confidence of a verdict the share of verdicts that are right? On the part `report`.

python -m benchmarks.fit.reliability            # prints the table
python -m benchmarks.fit.reliability --write    # writes RELIABILITY.md and reliability.svg

Nothing was fitted to this part.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks.fit import records
from benchmarks.fit.records import Record
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import judge
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

HERE = Path(__file__).resolve().parent
EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""The last bin holds the verdicts of the highest confidence only."""


@dataclass(frozen=True)
class Bin:
    """The verdicts whose confidence lies between two values: how sure they are, and how right."""

    low: float
    high: float
    confidence: float
    right: int
    count: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share of right ones (Wilson 1927)."""
        z, share = 1.96, self.right / self.count
        middle = (share + z * z / (2 * self.count)) / (1 + z * z / self.count)
        half = (
            z
            / (1 + z * z / self.count)
            * math.sqrt(share * (1 - share) / self.count + z * z / (4 * self.count * self.count))
        )
        return middle - half, middle + half


Judged: TypeAlias = tuple[FitVerdict, str]
"""A verdict and the cause of the run."""


def judged(run_records: Sequence[Record]) -> list[Judged]:
    """Judge the runs."""
    return [(judge(record.curve, Advice()), record.cause) for record in run_records]


def bins(verdicts: Sequence[Judged]) -> list[Bin]:
    """Return the bins that have verdicts, from low to high confidence."""
    found = []
    for low, high in itertools.pairwise(EDGES):
        inside = [(verdict, cause) for verdict, cause in verdicts if low <= verdict.confidence < high]
        if inside:
            right = sum(verdict.kind.value == cause for verdict, cause in inside)
            mean = math.fsum(verdict.confidence for verdict, _ in inside) / len(inside)
            found.append(Bin(low, high, mean, right, len(inside)))
    return found


def table(found: Sequence[Bin]) -> str:
    """Return the bins as a Markdown table."""
    lines = [
        "| confidence | verdicts | mean confidence | right | 95 % interval |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for one in found:
        low, high = one.interval
        share = one.right / one.count
        lines.append(
            f"| {one.low:g} to {one.high:g} | {one.count} | {one.confidence:.2f} | {share:.3f} "
            f"| {low:.3f} to {high:.3f} |"
        )
    return "\n".join(lines)


def table_of_kinds(verdicts: Sequence[Judged]) -> str:
    """Return how many verdicts of each kind are right, by confidence, as a Markdown table."""
    whole = bins(verdicts)
    lines = [
        "| verdict | " + " | ".join(f"{one.low:g} to {one.high:g}" for one in whole) + " |",
        "| --- |" + " ---: |" * len(whole),
    ]
    for kind in VerdictKind:
        of_kind = {one.low: one for one in bins([pair for pair in verdicts if pair[0].kind is kind])}
        cells = (of_kind.get(one.low) for one in whole)
        lines.append(f"| {kind} | " + " | ".join(f"{one.right} of {one.count}" if one else "" for one in cells) + " |")
    return "\n".join(lines)


def draw(found: Sequence[Bin], path: Path) -> None:
    """Write the reliability diagram."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.2), facecolor="white")
    FigureCanvasSVG(figure)
    axis = figure.subplots()
    axis.plot([0.5, 1], [0.5, 1], ":", color="#9a9a9a", label="as sure as right")
    at, share = [one.confidence for one in found], [one.right / one.count for one in found]
    errors = [
        [value - one.interval[0] for one, value in zip(found, share, strict=True)],
        [one.interval[1] - value for one, value in zip(found, share, strict=True)],
    ]
    axis.errorbar(at, share, yerr=errors, fmt="o", color="#1f5fbf", capsize=3, label="verdicts, 95 % interval")
    axis.set_xlabel("confidence")
    axis.set_ylabel("share of right verdicts")
    axis.set_xlim(0.48, 1.01)
    axis.set_ylim(0.48, 1.01)
    axis.legend(frameon=False, loc="lower right", fontsize=9)
    figure.tight_layout()
    with rc_context({"svg.hashsalt": "sweep"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    """Print the table, or write it with its diagram."""
    parser = argparse.ArgumentParser(description="Compare the confidence of verdicts with how often they are right.")
    parser.add_argument("--write", action="store_true", help="write RELIABILITY.md and reliability.svg")
    arguments = parser.parse_args()
    verdicts = judged([record for record in records.read() if record.split == "report"])
    found = bins(verdicts)
    shown = f"{table(found)}\n\nRight verdicts of each kind, by confidence:\n\n{table_of_kinds(verdicts)}"
    print(shown)
    if arguments.write:
        draw(found, HERE / "reliability.svg")
        text = (
            "# Is the confidence right?\n\n`python -m benchmarks.fit.reliability --write` makes this page of the "
            "verdicts on the part `report`,\nto which nothing was fitted. The curves have a clear cause; strangers' "
            f"histories are harder (see\n[README.md](README.md)).\n\n{shown}\n\n![Reliability](reliability.svg)\n"
        )
        (HERE / "RELIABILITY.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
