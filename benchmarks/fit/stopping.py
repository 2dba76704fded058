"""Savings and costs of stopping by the verdict, compared with patience.

    python -m benchmarks.fit.stopping                    # on `tune` (thresholds)
    python -m benchmarks.fit.stopping --report --write   # on `report`; writes STOPPING.md

The benchmark replays each finished curve evaluation by evaluation until the rule stops it. The run
keeps the best state so far. A better state is *missed* if a state after the stop is clearly better
by the oracle, the large hidden held-out set: its loss is at least 3 % lower (and by 1 % of the loss
of the best constant prediction) than that of the kept state and than that of the base model. The
base model counts, because nobody would keep any state of a run whose loss falls from a million to a
thousand. *Missed, including useless ones* omits the base model from the comparison.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backends.training_logs.learning_curve import LearningCurve
from benchmarks.fit import records
from benchmarks.fit.records import Record
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import early_stop_verdict

PATIENCES = (1, 2, 3, 5, 10)
BETTER, BETTER_OF_PRIOR = 0.03, 0.01
STOPPING = records.CURVES.with_name("STOPPING.md")

_HEAD = """# Savings and misses of stopping by the verdict

`python -m benchmarks.fit.stopping --report --write` generates this page. It replays the finished runs of the part
`{part}` evaluation by evaluation. *Missed*: by the oracle, a state after the stop is at least 3 % better than the kept
state and than the base model. *Including useless ones*: it is 3 % better than the kept state, even if it is worse than
no training at all.

"""

StopRule = Callable[[LearningCurve], bool]
"""Returns, for a curve so far, whether to stop the run here."""


@dataclass(frozen=True)
class StoppingShares:
    """Shares of stopped runs, of saved evaluations, and of runs whose better state was missed
    (useful; any).
    """

    stopped: float
    saved: float
    missed: float
    missed_any: float


def by_verdict(curve: LearningCurve) -> bool:
    """Stop when the verdict is certain."""
    return early_stop_verdict(curve, Advice()) is not None


def by_patience(patience: int) -> StopRule:
    """Stop after `patience` evaluations without a new best validation loss (or metric, if no loss
    is visible).
    """

    def stops(curve: LearningCurve) -> bool:
        values = [point.valid_loss for point in curve.points if point.valid_loss is not None]
        if not values:
            values = [-point.valid_metric for point in curve.points if point.valid_metric is not None]
        if any(not math.isfinite(value) for value in values):
            return True
        return bool(values) and len(values) - 1 - values.index(min(values)) >= patience

    return stops


def replay(record: Record, stops: StopRule) -> tuple[bool, float, bool, bool]:
    """Return whether the run was stopped, the saved share, and whether a better state was missed.

    The third value counts only useful states, the fourth also states worse than the base model.
    """
    points = record.curve.points
    for at in range(1, len(points)):
        if stops(dataclasses.replace(record.curve, points=points[:at], ended="complete")):
            kept, later = _kept_and_later(record, at)
            reference = min(kept, record.oracle.base_loss)
            return True, 1 - at / len(points), _is_better(record, later, reference), _is_better(record, later, kept)
    return False, 0.0, False, False


def _kept_and_later(record: Record, at: int) -> tuple[float, float]:
    """Return the oracle's loss of the state kept after `at` evaluations, and the best loss after
    them.
    """
    values = [point.valid_loss for point in record.curve.points[:at]]
    known = [(value, n) for n, value in enumerate(values) if value is not None and math.isfinite(value)]
    if not known:
        metric = [point.valid_metric for point in record.curve.points[:at]]
        known = [(-value, n) for n, value in enumerate(metric) if value is not None and math.isfinite(value)]
    loss = record.oracle.loss
    kept = loss[min(known)[1]] if known else loss[0]
    later = min((value for value in loss[at:] if math.isfinite(value)), default=math.inf)
    return kept if math.isfinite(kept) else math.inf, later


def _is_better(record: Record, later: float, kept: float) -> bool:
    if not math.isfinite(kept):
        return math.isfinite(later)
    return kept - later > max(BETTER * abs(kept), BETTER_OF_PRIOR * record.oracle.prior_loss)


def measure(run_records: Sequence[Record], stops: StopRule) -> StoppingShares:
    """Return the shares over all records."""
    outcomes = [replay(record, stops) for record in run_records]
    return StoppingShares(*(sum(outcome[n] for outcome in outcomes) / len(outcomes) for n in range(4)))


def table(run_records: Sequence[Record]) -> str:
    """Return the comparison as Markdown, with separate rows for short and long curves."""
    head = (
        "way",
        "curves",
        "runs stopped",
        "evaluations saved",
        "better state missed",
        "missed, including useless ones",
    )
    lines = [f"| {' | '.join(head)} |", "|---|---|---:|---:|---:|---:|"]
    ways = {"verdict": by_verdict} | {f"patience {n}": by_patience(n) for n in PATIENCES}
    for name, stops in ways.items():
        for length, group in (
            ("short", [record for record in run_records if not record.is_long]),
            ("long", [record for record in run_records if record.is_long]),
        ):
            result = measure(group, stops)
            shares = (result.stopped, result.saved, result.missed, result.missed_any)
            lines.append(f"| {name} | {length} ({len(group)}) | {' | '.join(f'{share:.1%}' for share in shares)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table of one part, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="use the part that serves only for reporting")
    parser.add_argument("--write", action="store_true", help="write STOPPING.md")
    options = parser.parse_args()
    part = "report" if options.report else "tune"
    finished = [record for record in records.read() if record.split == part and record.curve.ended == "complete"]
    text = table([record for record in finished if len(record.curve.points) > 1])
    print(text)
    if options.write:
        STOPPING.write_text(_HEAD.format(part=part) + text, encoding="utf-8")


if __name__ == "__main__":
    main()
