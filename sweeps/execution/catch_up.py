"""`sweep track`: makes MLflow show what the study of a sweep records, trial by trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from sweeps import tracking
from sweeps.errors import TrackingIncompleteError
from sweeps.execution.environment import Environment
from sweeps.execution.library_logs import redirect_library_logs
from sweeps.execution.outcome import SweepEnd
from sweeps.execution.tracked_sweep import SentRecord, SweepDescription, SweepSummary
from sweeps.execution.tracking_observer import status_at, trial_files
from sweeps.reports.data_report import FILE_NAME as DATA_REPORT
from sweeps.study import state
from sweeps.study.stored_study import StoredStudy, read_study
from sweeps.workspace import write_text


@dataclass(frozen=True)
class CaughtUp:
    """The result for one sweep: its number of trials, and how many MLflow lacked or had wrong."""

    trials: int
    sent: int


def catch_up(name: str, environment: Environment, say: Callable[[str], None]) -> CaughtUp:
    """Make MLflow equal to the study of a sweep that does not run. Trains nothing. Idempotent.

    Runs that MLflow lacks are created, also if its database was deleted; runs that differ are
    corrected. Step values that only MLflow had are not in the study, so a deleted database gets
    the bounded selection of them that the study keeps.

    The caller holds the lock of the sweep. Raises UserInputError if there is no such sweep,
    SweepError if MLflow or the study cannot be used, and TrackingIncompleteError if MLflow did not
    take everything.
    """
    workspace = environment.workspace
    folder = workspace.sweep_folder(name)
    plan, document = _stored_files(environment, name)
    study = read_study(environment.storage or workspace.study_file(name), workspace.study_name(name))
    redirect_library_logs(workspace.log_file(name))
    experiment = (document.get("tracking") or {}).get("experiment") or name
    tracker = tracking.Tracker.connect(environment.tracking_uri, str(experiment), workspace.artifacts, say)
    sent_record = SentRecord.read(folder)
    try:
        shown = SweepDescription.of(plan, document)
        stored = ("sweep.yaml", "plan.json", DATA_REPORT)
        files: dict[str, str | Path] = {file: folder / file for file in stored if (folder / file).is_file()}
        tracker.start(study.sweep_id, name, shown.params, shown.tags, shown.dataset, files, examine_all=True)
        write_text(workspace.run_table_file(name), tracker.table_path())
        sent = 0
        for trial in study.attempts:
            if trial.state.ended:
                sent += tracker.show_ended_if_different(trial, trial_files(trial, folder))
            elif trial.handle is not None:
                tracker.show_interrupted(trial)
        if study.changes:
            tracker.tag_sweep({"steering": "\n".join(f"made: {change.text}" for change in study.changes)})
        _finish(tracker, study, plan, sent_record, folder)
    finally:
        tracker.close()
    sent_record.with_completeness(not tracker.lacking).store(folder)
    if lacking := tracker.lacking:
        raise incomplete(name, lacking, tracker.problems)
    return CaughtUp(sum(trial.state.ended for trial in study.attempts), sent)


def incomplete(name: str, lacking: tuple[str, ...], problems: tuple[str, ...]) -> TrackingIncompleteError:
    """Build the error for a sweep of which MLflow lacks these runs."""
    named = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
    runs = "1 run" if len(lacking) == 1 else f"{len(lacking)} runs"
    reason = f": {problems[-1]}" if problems else ""
    return TrackingIncompleteError(
        f"MLflow lacks {runs} of sweep `{name}` ({named}){reason}",
        f"The study has everything. When MLflow answers again, run: sweep track {name}",
    )


def _stored_files(environment: Environment, name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    plan = state.read_plan(environment.workspace, name)
    file = environment.workspace.sweep_folder(name) / "sweep.yaml"
    try:
        return plan, yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise state.unknown_sweep(environment.workspace, name) from None


def _finish(
    tracker: tracking.Tracker, study: StoredStudy, plan: Mapping[str, Any], sent: SentRecord, folder: Path
) -> None:
    """Finish the run of the sweep with the status that its end gives it."""
    is_open = any(not trial.state.ended for trial in study.attempts)
    status: Literal["FINISHED", "KILLED", "FAILED"] = "KILLED" if is_open or not study.is_finished else "FINISHED"
    if sent.end is not None:
        status = status_at(SweepEnd(sent.end))
    objective = state.objective_of(plan)
    summary = SweepSummary.of(
        objective, study.search_trials, study.repeats, study.finals, study.attempts, plan, study.changes
    )
    tags = {**summary.tags, **({"end": sent.end} if sent.end is not None else {})}
    report = folder / "report.html"
    files: dict[str, str | Path] = {"report.html": report} if report.is_file() else {}
    model = summary.model if status != "KILLED" and not tracker.has_artifact("best_model") else None
    tracker.finish(status, summary.metrics, tags, files, model)
