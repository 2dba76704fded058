"""Shows a sweep in MLflow: one run for the sweep, and one for each of its trials."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import yaml

from backends.contract import Event
from sweeps import tracking
from sweeps.execution.observers import Observer
from sweeps.execution.outcome import RESUMABLE_ENDS, SweepEnd, selected_trial
from sweeps.execution.session import Session
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.reports.plots import learning_curve_png
from sweeps.study.finals import FinalsResult
from sweeps.study.steering import Change
from sweeps.study.study import Study
from sweeps.trials.trial import Trial, TrialState

PLOT_MIN_TRIAL_S = 1.0
"""A shorter trial gets no plot of its learning curve: drawing one takes 0.2 s of CPU time."""


class TrackingObserver(Observer):
    """Sends the trials and the changes of the space to MLflow."""

    def __init__(self, tracker: tracking.Tracker, study: Study) -> None:
        """Send the trials that earlier runs of the sweep did not send.

        Those runs were killed, or MLflow was unreachable.
        """
        self._tracker = tracker
        self._changes = [f"made: {change.text}" for change in study.steering]
        for trial in study.trials:
            began = trial.handle is not None or trial.state is TrialState.FAILED
            if trial.state.ended and began and trial.duplicate_of is None and not tracker.shows_end_of(trial):
                tracker.trial_started(trial)
                tracker.show_record_of(trial)
                self.trial_ended(trial)

    def trial_started(self, trial: Trial) -> None:
        """Open the trial's run, or find it again."""
        self._tracker.trial_started(trial)

    def events_received(self, trial: Trial, first: int, events: Sequence[Event]) -> None:
        """Send the measurements."""
        self._tracker.events_received(trial.key, first, events)

    def trial_ended(self, trial: Trial) -> None:
        """Close the trial's run, with a plot of its learning curve."""
        draw = partial(learning_curve_png, trial, f"trial {trial.number}")
        self._tracker.trial_ended(trial, draw if trial.spend.seconds >= PLOT_MIN_TRIAL_S else None)

    def space_steered(self, change: Change, *, applied: bool) -> None:
        """Show all changes so far as a tag of the sweep's run."""
        self._changes.append(f"{'made' if applied else 'advised'}: {change.text}")
        self._tracker.tag_sweep({"steering": "\n".join(self._changes)})


def start_tracking(tracker: tracking.Tracker, plan: SweepPlan, study: Study) -> str:
    """Start the sweep's run, or continue it, and return its id.

    Also writes `sweep.yaml` and `plan.json` into the folder of the sweep.
    """
    data, spec = plan.data, plan.spec
    params = {
        "sampler": spec.search.sampler,
        "scheduler": spec.search.scheduler.type,
        "trials": str(spec.search.trials),
        "seed": str(spec.search.seed),
        "objective": f"{spec.objective.direction} {spec.objective.metric}",
        **{f"space.{parameter.name}": parameter.text for parameter in plan.space.parameters},
    }
    tags = {
        "backend": spec.backend_type,
        "model": plan.base_model,
        "data": data.name,
        "data.source": data.source,
        **({"data.fallback_from": data.fallback_from} if data.fallback_from else {}),
        **({"mlflow.note.content": spec.description} if spec.description else {}),
    }
    files = {
        "sweep.yaml": yaml.safe_dump(spec.portable_document, sort_keys=False, allow_unicode=True),
        "plan.json": json.dumps(plan.to_json(), indent=2, default=str),
    }
    for name, text in files.items():
        (plan.folder / name).write_text(text, encoding="utf-8")
    return tracker.start(study.sweep_id, spec.name, params, tags, tracking.TrackedDataset.of(data), files)


def finish_tracking(
    tracker: tracking.Tracker,
    plan: SweepPlan,
    session: Session,
    end: SweepEnd,
    finals: FinalsResult | None,
    report: str,
) -> None:
    """Finish the sweep's run in MLflow.

    Sends its status, the best trial, the finals, the cost, the HTML report and the best model. The
    model is sent only if it is a local folder, and not after an interruption or at the deadline.
    """
    status: Literal["FINISHED", "KILLED", "FAILED"] = "FINISHED"
    if end in RESUMABLE_ENDS:
        status = "FAILED" if end is SweepEnd.FAILED else "KILLED"
    best = selected_trial(session.study, plan.spec.objective)
    metrics, tags = {}, {"end": end.value}
    if best is not None and best.values is not None:
        metrics = {plan.spec.objective.metric: best.values[0], "trials": float(len(session.study.search_trials))}
        tags |= {"best.trial": str(best.number), "best.hyperparameters": json.dumps(dict(best.hyperparameters))}
    if finals is not None:
        winner = next(score for score in finals.standings if score.number == finals.winner)
        metrics |= {"finals.mean": winner.mean, "finals.low": winner.low, "finals.high": winner.high}
        tags |= {"finals.winner": str(finals.winner), "finals.reason": finals.reason}
        if finals.test is not None:
            metrics |= dict(zip(("test_accuracy", "test_accuracy.low", "test_accuracy.high"), finals.test, strict=True))
    spent = session.budget_ledger.ledger.spent
    metrics |= {"tokens": float(spent.tokens)} | ({"usd": spent.usd} if plan.spec.capabilities.priced else {})
    model = Path(best.model) if best is not None and best.model and Path(best.model).is_dir() else None
    tracker.finish(status, metrics, tags, {"report.html": report}, model if status != "KILLED" else None)
