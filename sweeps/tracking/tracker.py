"""A sweep's connection to MLflow: one parent run per sweep, one child run per trial.

MLflow shows a projection of what the study records. The tracker finds a run again by its tags, and
each child run carries a cursor. So a sweep that resumes after a crash neither loses nor doubles a
point. Writing happens in batches, off the training path.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

from backends.contract import Event
from sweeps.errors import SweepError
from sweeps.tracking import projection as project
from sweeps.tracking import reachability
from sweeps.tracking.mlflow_client import load, new_client
from sweeps.tracking.mlflow_errors import translated_errors
from sweeps.tracking.mlflow_ui import table_path
from sweeps.tracking.outbox import Outbox, RejectedError, UnreachableError
from sweeps.tracking.projection import Content, Projection, TrackedDataset
from sweeps.tracking.run_writer import RunRecord, RunWriter, cut_tags
from sweeps.trials.trial import Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient

OPEN_TIMEOUT_S = 90.0
"""Creating the tables of a new database takes 2 to 8 s on a laptop, and longer on a busy one."""

FINISH_TIMEOUT_S, FINISH_UNREACHABLE_S = 120.0, 15.0
"""How long the end of a sweep waits until everything is written, the best model included; and how
long while MLflow does not answer.
"""

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Tags of a new experiment: the UI then offers the views for training, not those for prompts and
traces.
"""

ENDED = frozenset({"FINISHED", "FAILED", "KILLED"})
"""MLflow's names for the final states of a run."""

_PARENT = ""
"""The outbox's key of the parent run."""


class Tracker:
    """Shows a sweep in MLflow. Call it from one thread.

    Only `connect`, `start`, `finish` and `close` wait for MLflow; the other methods return at once.
    """

    def __init__(self, uri: str, experiment: str, artifact_root: Path | None) -> None:
        """Use `connect` instead."""
        self._uri = uri
        self._experiment = experiment
        self._artifact_root = artifact_root
        self._client: MlflowClient
        self._writer: RunWriter
        self._experiment_id = ""
        self._failure: Exception | None = None
        self._runs: dict[str, RunRecord] = {}
        self._hyperparameters: list[str] = []
        self._saved_view = ""
        self._finished = False
        self._outbox = Outbox(self._write, f"mlflow {experiment}")
        self._opening = threading.Thread(target=self._open, name=f"mlflow {experiment}: open", daemon=True)

    # ------------------------------------------------------------------------------------ beginning
    @classmethod
    def connect(cls, uri: str, experiment: str, artifact_root: Path | None) -> Self:
        """Connect to MLflow, and create the experiment if it does not exist.

        A new experiment in a database keeps its artifacts below `artifact_root`. The tables of a
        new database are created in the background: start other things before you call `start`.
        Raises SweepError within about 10 s if nothing answers.
        """
        reachability.check(uri)
        load()
        tracker = cls(uri, experiment, artifact_root)
        tracker._opening.start()
        if reachability.sqlite_path(uri) is None:
            tracker._await_open()
        return tracker

    def start(
        self,
        sweep_id: str,
        name: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        dataset: TrackedDataset,
        artifacts: Mapping[str, str | Path],
    ) -> str:
        """Open the parent run and return its id. A sweep that was tracked before keeps its runs.

        `artifacts` are texts or files by artifact path. Raises SweepError if MLflow refuses.
        """
        self._await_open()
        self._writer = RunWriter(self._client, self._experiment_id, dataset, self._outbox.note)
        parent = RunRecord(name, {project.SWEEP_TAG: sweep_id, **cut_tags(tags)})
        try:
            with translated_errors():
                self._adopt_runs(parent, sweep_id)
                run_id = parent.run_id or self._writer.create(parent)
        except (UnreachableError, RejectedError) as error:
            raise self._refusal(error) from error
        self._runs[_PARENT] = parent
        status: project.RunStatus | None = "RUNNING" if parent.adopted else None
        self._outbox.put(_PARENT, Projection([], dict(params), dict(tags), dict(artifacts), status))
        self._outbox.start()
        return run_id

    def _await_open(self) -> None:
        self._opening.join(OPEN_TIMEOUT_S)
        if self._opening.is_alive():
            message = f"MLflow was not ready at {reachability.without_secrets(self._uri)} within {OPEN_TIMEOUT_S:g} s"
            hint = "Try again. If the database is on a network disk, set MLFLOW_TRACKING_URI to another place."
            raise SweepError(message, hint)
        if self._failure is not None:
            raise self._refusal(self._failure) from self._failure

    def _open(self) -> None:
        try:
            with translated_errors():
                self._client = new_client(self._uri)
                self._experiment_id = self._find_experiment()
        except Exception as error:  # noqa: BLE001 - this thread's boundary: `_await_open` raises it
            self._failure = error

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            location = None
            if self._artifact_root is not None and reachability.sqlite_path(self._uri) is not None:
                location = (self._artifact_root.resolve() / quote(self._experiment, safe=" ")).as_uri()
            return str(
                self._client.create_experiment(self._experiment, artifact_location=location, tags=EXPERIMENT_TAGS)
            )
        if found.lifecycle_stage != "active":
            hint = (
                f"Restore it (mlflow experiments restore -x {found.experiment_id}), "
                "or set `tracking: {experiment: ...}` in the sweep file."
            )
            raise SweepError(f"the MLflow experiment `{self._experiment}` was deleted", hint)
        return str(found.experiment_id)

    def _refusal(self, error: Exception) -> SweepError:
        """Return MLflow's refusal as a SweepError; raise any other error as it is."""
        if not isinstance(error, (UnreachableError, RejectedError)):
            raise error
        message = f"MLflow at {reachability.without_secrets(self._uri)} does not accept the sweep: {error}"
        return SweepError(message, "Set MLFLOW_TRACKING_URI to another place.")

    def _adopt_runs(self, parent: RunRecord, sweep_id: str) -> None:
        found = self._writer.search(f"tags.`{project.SWEEP_TAG}` = '{sweep_id}'")
        if not found:
            return
        parent.adopt(found[0])
        for run in self._writer.search(f"tags.`mlflow.parentRunId` = '{parent.run_id}'"):
            tags = run.data.tags
            if project.TRIAL_TAG in tags:
                child = self._runs.setdefault(tags[project.TRIAL_TAG], RunRecord(run.info.run_name, tags))
                child.adopt(run)
                child.events_seen = int(tags.get(project.CURSOR_TAG, 0))
                child.ended_as = tags.get("state", "") if run.info.status in ENDED else ""

    # --------------------------------------------------------------------------------------- trials
    def trial_started(self, trial: Trial) -> None:
        """Show a trial that starts or resumes."""
        run = self._runs.get(trial.key)
        if run is None:
            started_at_ms = _now_ms() if trial.started_at is None else round(trial.started_at * 1000)
            run = self._runs[trial.key] = RunRecord(project.run_name(trial), {}, started_at_ms)
        run.running, run.hyperparameters = True, trial.hyperparameters
        backend = trial.handle.backend if trial.handle else self._runs[_PARENT].tags.get("backend", "")
        self._outbox.put(trial.key, project.of_start(trial, backend))
        added = [name for name in trial.hyperparameters if name not in self._hyperparameters]
        if added:
            self._hyperparameters += added
            self._outbox.put(_PARENT, Projection())  # saves the table with the new columns

    def events_received(self, trial_key: str, first: int, events: Sequence[Event]) -> None:
        """Show the events numbered `first`, `first + 1`, ... of a started trial; known ones are
        skipped.

        After an interruption the caller may pass the events from the beginning again.
        """
        run = self._runs[trial_key]
        fresh = events[max(0, run.events_seen - first) :]
        if fresh:
            begin = max(first, run.events_seen)
            self._outbox.put(trial_key, project.of_events(begin, fresh, _now_ms(), run.hyperparameters))
            run.events_seen = begin + len(fresh)

    def shows_end_of(self, trial: Trial) -> bool:
        """Return whether MLflow already showed the end of this trial when the sweep was tracked
        before.
        """
        run = self._runs.get(trial.key)
        return run is not None and run.ended_as == trial.state.value

    def show_record_of(self, trial: Trial) -> None:
        """Show an ended trial from its record. Points that MLflow has are not doubled."""
        measured = sorted((*trial.curve, *trial.loop_reports), key=lambda measurement: measurement.step)
        self.events_received(trial.key, self._runs[trial.key].events_seen, measured)

    def trial_ended(
        self, trial: Trial, curve_plot: Content | None = None, extra_tags: Mapping[str, str] | None = None
    ) -> None:
        """Show a trial's result. The plot may be a function; it is called in the background."""
        end = project.of_end(trial, _now_ms())
        end.tags |= extra_tags or {}
        if curve_plot is not None:
            end.files["learning_curve.png"] = curve_plot
        self._runs[trial.key].running = False
        self._outbox.put(trial.key, end)

    # ------------------------------------------------------------------------------------------ end
    def tag_sweep(self, tags: Mapping[str, str]) -> None:
        """Set tags of the parent run."""
        self._outbox.put(_PARENT, Projection(tags=cut_tags(tags)))

    def finish(
        self,
        status: Literal["FINISHED", "KILLED", "FAILED"],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Mapping[str, str | Path],
        best_model: Path | None,
    ) -> None:
        """Close all runs and wait until everything is written.

        Waits at most 2 minutes, or 15 s while MLflow does not answer. `problems` lists what is not
        written.
        """
        self._finished = True
        now_ms = _now_ms()
        for key, run in self._runs.items():
            if run.running:
                self._outbox.put(key, Projection(tags={"state": "interrupted"}, status="KILLED", ended_at_ms=now_ms))
        files: dict[str, Content] = {**artifacts}
        if best_model is not None:
            files["best_model"] = best_model
        points = project.summary_points(metrics, now_ms)
        self._outbox.put(_PARENT, Projection(points, {}, dict(tags), files, status, now_ms))
        if not self._outbox.close(FINISH_TIMEOUT_S, FINISH_UNREACHABLE_S):
            self._outbox.note("MLflow does not have everything about this sweep; the study does")

    def replace(self, run_id: str, path: str, content: str) -> None:
        """Write a text artifact of a run again, after `finish`.

        `problems` lists what is not written.
        """
        try:
            with self._writer.noting(path):
                self._writer.write_file(run_id, path, content)
        except UnreachableError as error:
            self._outbox.note(f"{path} was not written again: {error}")

    def close(self) -> None:
        """Disconnect from MLflow.

        A sweep that was started and not finished counts as killed. Idempotent.
        """
        if _PARENT in self._runs and not self._finished:
            self.finish("KILLED", {}, {}, {}, None)

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences about everything that could not be written so far."""
        return self._outbox.problems

    def run_url(self, run_id: str) -> str | None:
        """Return the address of a run in the browser; None if no server serves the database."""
        if not self._uri.startswith(("http://", "https://")):
            return None
        server = reachability.without_secrets(self._uri).rstrip("/")
        return f"{server}/#/experiments/{self._experiment_id}/runs/{run_id}"

    def table_path(self) -> str:
        """Return the URL path of the table of runs in the MLflow UI, with a sweep's columns."""
        return table_path(self._experiment_id)

    # ----------------------------------------------------------------------- on the outbox's thread
    def _write(self, key: str, projection: Projection) -> None:
        with translated_errors():
            self._writer.write(self._runs[key], self._runs.get(_PARENT) if key != _PARENT else None, projection)
            if key == _PARENT:
                self._saved_view = self._writer.save_table_view(self._hyperparameters, self._saved_view)


def _now_ms() -> int:
    return round(time.time() * 1000)
