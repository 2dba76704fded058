"""Shows a sweep in MLflow: one run for the sweep, and one for each of its trials."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import yaml

from backends.contract import Event, Generated
from sweeps import tracking
from sweeps.execution.generated_texts import TABLE_FILE, text_table
from sweeps.execution.observers import Observer
from sweeps.execution.outcome import RESUMABLE_ENDS, SweepEnd
from sweeps.execution.session import Session
from sweeps.execution.tracked_sweep import SentRecord, SweepDescription, SweepSummary
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.reports.data_report import FILE_NAME as DATA_REPORT
from sweeps.reports.data_report import data_report
from sweeps.reports.plots import learning_curve_png
from sweeps.study.steering import Change
from sweeps.study.study import Study
from sweeps.tracking.projection import Content
from sweeps.trials.trial import Spend, Trial
from sweeps.workspace import write_text

PLOT_MIN_TRIAL_S = 1.0
"""A shorter trial gets no plot of its learning curve: drawing one takes 0.2 s of CPU time."""


class TrackingObserver(Observer):
    """Sends the trials and the changes of the space to MLflow."""

    def __init__(self, tracker: tracking.Tracker, study: Study, folder: Path, *, is_complete: bool = False) -> None:
        """Send the trials that earlier runs of the sweep did not send.

        Those runs were killed, or MLflow was unreachable. `folder` is that of the sweep.
        `is_complete`: the last run sent everything, final costs included.
        """
        self._tracker, self._folder = tracker, folder
        self._changes = [f"made: {change.text}" for change in study.steering]
        self._sent: dict[int, Spend] = {}
        for trial in study.trials:
            if trial.state.ended and trial.duplicate_of is None:
                self._sent[trial.number] = trial.spend
                has_other_cost = not is_complete and trial.number in study.settled_later
                if not tracker.shows_end_of(trial) or has_other_cost:
                    tracker.show_ended(trial, trial_files(trial, self._folder))
        if self._changes:
            tracker.tag_sweep({"steering": "\n".join(self._changes)})

    def trial_started(self, trial: Trial) -> None:
        """Open the trial's run, or find it again."""
        self._tracker.trial_started(trial)

    def events_received(self, trial: Trial, first: int, events: Sequence[Event]) -> None:
        """Send the measurements, and the texts if there are new ones."""
        self._tracker.events_received(trial.key, first, events)
        if any(isinstance(event, Generated) for event in events):
            self._tracker.add_files(trial.key, _texts(trial, self._folder))

    def trial_ended(self, trial: Trial) -> None:
        """Close the trial's run, with a plot of its learning curve."""
        self._sent[trial.number] = trial.spend
        self._tracker.trial_ended(trial, trial_files(trial, self._folder))

    def space_steered(self, change: Change, *, applied: bool) -> None:
        """Show all changes so far as a tag of the sweep's run."""
        self._changes.append(f"{'made' if applied else 'advised'}: {change.text}")
        self._tracker.tag_sweep({"steering": "\n".join(self._changes)})

    def costs_settled(self, trials: Sequence[Trial]) -> None:
        """Send the trials again whose final cost differs from the cost at their end."""
        for trial in trials:
            if self._sent.get(trial.number, trial.spend) != trial.spend:
                self._tracker.show_ended(trial, trial_files(trial, self._folder))


def trial_files(trial: Trial, folder: Path) -> dict[str, Content]:
    """Return the artifacts of an ended trial: a plot of its learning curve unless it was short, and
    the table of the texts that it generated.
    """
    files = _texts(trial, folder)
    if trial.spend.seconds >= PLOT_MIN_TRIAL_S:
        files["learning_curve.png"] = partial(learning_curve_png, trial, f"trial {trial.number}")
    return files


def _texts(trial: Trial, folder: Path) -> dict[str, Content]:
    table = text_table(folder, trial.key)
    return {} if table is None else {TABLE_FILE: table}


def start_tracking(tracker: tracking.Tracker, plan: SweepPlan, study: Study) -> str:
    """Start the sweep's run, or continue it, and return its id.

    Also writes `sweep.yaml`, `plan.json` and the report on the data into the folder of the sweep,
    and that MLflow does not have everything yet.
    """
    stored_plan, document = plan.to_json(), plan.spec.portable_document
    files = {
        "sweep.yaml": yaml.safe_dump(document, sort_keys=False, allow_unicode=True),
        "plan.json": json.dumps(stored_plan, indent=2, default=str),
    }
    if plan.data.examination is not None:
        files[DATA_REPORT] = data_report(plan.data, plan.findings, plan.spec.name)
    for name, text in files.items():
        write_text(plan.folder / name, text)
    SentRecord(end=None, is_complete=False).store(plan.folder)
    shown = SweepDescription.of(stored_plan, document)
    return tracker.start(study.sweep_id, plan.spec.name, shown.params, shown.tags, shown.dataset, files)


def finish_tracking(tracker: tracking.Tracker, plan: SweepPlan, session: Session, end: SweepEnd, report: str) -> None:
    """Finish the sweep's run in MLflow, and store whether MLflow has everything.

    Sends its status, the best trial, the finals, the cost, the HTML report and the best model. The
    model is sent only if it is a local folder, and not after an interruption or at the deadline.
    """
    sent = SentRecord(end.value, is_complete=False)
    sent.store(plan.folder)
    status = status_at(end)
    study = session.study
    stored_plan = plan.to_json()
    summary = SweepSummary.of(
        plan.spec.objective,
        study.search_trials,
        study.repeats,
        study.finals,
        study.trials,
        stored_plan,
        study.steering,
    )
    tags = {"end": end.value, **summary.tags}
    model = summary.model if status != "KILLED" else None
    tracker.finish(status, summary.metrics, tags, {"report.html": report}, model)
    sent.with_completeness(not tracker.lacking).store(plan.folder)


def status_at(end: SweepEnd) -> Literal["FINISHED", "KILLED", "FAILED"]:
    """Return the status of a sweep's run in MLflow after this end."""
    if end not in RESUMABLE_ENDS:
        return "FINISHED"
    return "FAILED" if end is SweepEnd.FAILED else "KILLED"
