"""The results of a night as plain JSON values, for its summary and the history.

The keys are stored, so an existing key must not change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backends import codec
from sweeps.errors import SweepError
from sweeps.execution.environment import Environment
from sweeps.execution.outcome import Outcome
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study import state
from sweeps.trials.trial import Trial


@dataclass(frozen=True)
class SpentBefore:
    """What a sweep had spent before the night: dollars and tokens."""

    usd: float = 0.0
    tokens: int = 0


def spent_before(plan: SweepPlan, environment: Environment) -> SpentBefore:
    """Return what the sweep has spent so far; nothing if it does not exist yet."""
    try:
        spent = state.read_state(environment.workspace, plan.spec.name, environment.storage).ledger.spent
    except SweepError:
        return SpentBefore()
    return SpentBefore(spent.usd, spent.tokens)


def night_results(outcome: Outcome, started_at: float, before: SpentBefore) -> dict[str, Any]:
    """Return the results of a night whose sweep ended with `outcome`.

    The trials and the cost are those of this night; `started_at` is in seconds since the Unix
    epoch.
    """
    trials: Sequence[Trial] = (*outcome.trials, *outcome.repeats)
    tonight = [trial for trial in trials if trial.ended_at is not None and trial.ended_at >= started_at]
    spent, spec = outcome.ledger.spent, outcome.plan.spec
    finals = outcome.finals
    test = finals.test if finals is not None else None
    return {
        "end": outcome.end.value,
        "data": outcome.plan.data.name,
        "trials": len(tonight),
        "trials_of_the_sweep": sum(trial.state.ended for trial in outcome.trials),
        "wanted_trials": spec.search.trials,
        "states": dict(Counter(trial.state.value for trial in tonight)),
        "verdicts": dict(Counter(trial.verdict.kind.value for trial in tonight if trial.verdict is not None)),
        "priced": spec.capabilities.priced,
        "usd": round(spent.usd - before.usd, 6),
        "tokens": spent.tokens - before.tokens,
        "metric": spec.objective.metric,
        "best": _best(outcome.best),
        "test": list(test) if test is not None else None,
        "test_metric": finals.test_metric if finals is not None else None,
        "champion": codec.to_json(outcome.champion) if outcome.champion is not None else None,
        "baselines": outcome.comparison.text if outcome.comparison is not None else None,
        "warnings": sorted({finding.code for finding in outcome.plan.findings if finding.code}),
        "report": str(outcome.report),
        "mlflow": outcome.run_url,
        "problems": list(outcome.problems),
    }


def failure_reason(error: SweepError) -> str:
    """Return the first problem of an error and its remedy on one line."""
    lines = str(error).splitlines()
    more = f" (and {len(lines) - 1} more problems)" if len(lines) > 1 else ""
    return (lines[0] if lines else type(error).__name__) + more + (f"; {error.hint}" if error.hint else "")


def _best(trial: Trial | None) -> dict[str, Any] | None:
    if trial is None or trial.values is None:
        return None
    return {
        "trial": trial.number,
        "value": trial.values[0],
        "epoch": trial.best_epoch,
        "hyperparameters": dict(trial.hyperparameters),
    }
