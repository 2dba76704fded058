"""What stopping by the verdict saves and what it costs, against patience, on the curves of known cause.

    python -m benchmarks.fit.stopping            # on the part for choosing thresholds
    python -m benchmarks.fit.stopping --report   # on the part that is looked at only to report

Each finished curve is played evaluation by evaluation until the way at hand stops it. What is kept is the best state so
far. A better one is *missed* where a state after the stop is clearly better by the oracle, the large held-out set that
nobody is shown: its loss at least 3 % lower (and by 1 % of the loss of the best constant prediction) than that of the
state which was kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.fit import records
from benchmarks.fit.records import Record
from sweeps.advice import Advice
from sweeps.curve import LearningCurve
from sweeps.fit import hopeless

PATIENCES = (1, 2, 3, 5, 10)
BETTER, BETTER_OF_PRIOR = 0.03, 0.01

Stops = Callable[[LearningCurve], bool]
"""Says of a curve so far whether the run ends here."""


@dataclass(frozen=True)
class Stopping:
    """Shares: of runs that were stopped, of evaluations that were saved, and of runs whose better state was missed."""

    stopped: float
    saved: float
    missed: float


def by_verdict(curve: LearningCurve) -> bool:
    """Stop where the verdict is sure."""
    return hopeless(curve, Advice()) is not None


def by_patience(patience: int) -> Stops:
    """Stop after so many evaluations without a new best validation loss (metric, where no loss is shown)."""

    def stops(curve: LearningCurve) -> bool:
        shown = [each.valid_loss for each in curve.points if each.valid_loss is not None]
        if not shown:
            shown = [-each.valid_metric for each in curve.points if each.valid_metric is not None]
        if any(not math.isfinite(each) for each in shown):
            return True
        return bool(shown) and len(shown) - 1 - shown.index(min(shown)) >= patience

    return stops


def played(record: Record, stops: Stops) -> tuple[bool, float, bool]:
    """Return whether the run was stopped, which share of it was saved, and whether a better state was missed."""
    points = record.curve.points
    for at in range(1, len(points)):
        if stops(dataclasses.replace(record.curve, points=points[:at], ended="complete")):
            return True, 1 - at / len(points), _missed(record, at)
    return False, 0.0, False


def _missed(record: Record, at: int) -> bool:
    """Whether the oracle finds a state after the first `at` evaluations clearly better than the one kept of those."""
    shown = [each.valid_loss for each in record.curve.points[:at]]
    known = [(each, n) for n, each in enumerate(shown) if each is not None and math.isfinite(each)]
    if not known:
        metric = [each.valid_metric for each in record.curve.points[:at]]
        known = [(-each, n) for n, each in enumerate(metric) if each is not None and math.isfinite(each)]
    loss = record.oracle.loss
    kept = loss[min(known)[1]] if known else loss[0]
    later = min((each for each in loss[at:] if math.isfinite(each)), default=math.inf)
    return kept - later > max(BETTER * abs(kept), BETTER_OF_PRIOR * record.oracle.prior_loss)


def measured(curves: Sequence[Record], stops: Stops) -> Stopping:
    """Return the shares over all curves."""
    found = [played(each, stops) for each in curves]
    stopped, saved, missed = (sum(each[n] for each in found) / len(found) for n in range(3))
    return Stopping(stopped, saved, missed)


def table(curves: Sequence[Record]) -> str:
    """Return the comparison as Markdown, short and long curves apart."""
    lines = ["| way | curves | runs stopped | evaluations saved | better state missed |", "|---|---|---:|---:|---:|"]
    ways = {"verdict": by_verdict} | {f"patience {n}": by_patience(n) for n in PATIENCES}
    for name, stops in ways.items():
        for length, some in (
            ("short", [each for each in curves if not each.long]),
            ("long", [each for each in curves if each.long]),
        ):
            found = measured(some, stops)
            lines.append(
                f"| {name} | {length} ({len(some)}) | {found.stopped:.1%} | {found.saved:.1%} | {found.missed:.1%} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table of one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="the part that is looked at only to report")
    part = "report" if parser.parse_args().report else "tune"
    curves = [each for each in records.read() if each.split == part and each.curve.ended == "complete"]
    print(table([each for each in curves if len(each.curve.points) > 1]))


if __name__ == "__main__":
    main()
