"""A sweep's connection to MLflow: one parent run per sweep, one child run per trial.

MLflow shows a projection of what the study records. The tracker finds a run again by its tags, and
each child run carries a cursor. So a sweep that resumes after a crash neither loses nor doubles a
point. Writing happens in batches, off the training path.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

from backends.contract import Event
from sweeps.errors import SweepError
from sweeps.tracking import projection as project
from sweeps.tracking import reachability
from sweeps.tracking.group_writer import GroupWriter
from sweeps.tracking.mlflow_client import load, new_client
from sweeps.tracking.mlflow_errors import translated_errors
from sweeps.tracking.mlflow_ui import table_path
from sweeps.tracking.outbox import Outbox, RejectedError, UnreachableError
from sweeps.tracking.projection import Content, Projection, TrackedDataset
from sweeps.tracking.run_writer import RunRecord, RunWriter, cut_tags, shows_all
from sweeps.tracking.shown_trials import ShownTrials
from sweeps.trials.trial import Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

OPEN_TIMEOUT_S, UPGRADE_TIMEOUT_S = 90.0, 3600.0
"""Creating the tables of a new database takes 2 to 8 s on a laptop, and longer on a busy one. The
upgrade of a large database takes minutes.
"""

FINISH_TIMEOUT_S, FINISH_UNREACHABLE_S = 120.0, 60.0
"""How long the end of a sweep waits for one run, such as for the upload of the best model; and how
long while MLflow does not answer.
"""

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Tags of a new experiment: the UI then offers the views for training, not those for prompts and
traces.
"""

ENDED = frozenset({"FINISHED", "FAILED", "KILLED"})
"""MLflow's names for the final states of a run."""

OPEN_RUNS = ("attributes.status = 'RUNNING'", "tags.state = 'interrupted'")
"""The filters for the runs of trials that had not ended when an earlier process stopped."""

NO_FILES: Mapping[str, Content] = MappingProxyType({})

_PARENT = ""
"""The outbox's key of the parent run."""


class Tracker:
    """Shows a sweep in MLflow. Call it from one thread.

    Only `connect`, `start`, `finish` and `close` wait for MLflow; the other methods return at once.
    """

    def __init__(self, uri: str, experiment: str, artifact_root: Path | None, say: Callable[[str], None]) -> None:
        """Use `connect` instead."""
        self._say = say
        self._is_upgrading = False
        self._uri = uri
        self._experiment = experiment
        self._artifact_root = artifact_root
        self._client: MlflowClient
        self._writer: RunWriter
        self._group_writer: GroupWriter | None = None
        self._experiment_id = ""
        self._failure: Exception | None = None
        self._runs: dict[str, RunRecord] = {}
        self._shown = ShownTrials()
        self._stored_shown = ""
        self._knows_all_runs = False
        self._hyperparameters: list[str] = []
        self._saved_view = ""
        self._finished = False
        self._forgetting = threading.Lock()
        self._outbox = Outbox(self._write, f"mlflow {experiment}", self._write_together, say)
        self._opening = threading.Thread(target=self._open, name=f"mlflow {experiment}: open", daemon=True)

    # ------------------------------------------------------------------------------------ beginning
    @classmethod
    def connect(
        cls,
        uri: str,
        experiment: str,
        artifact_root: Path | None,
        say: Callable[[str], None] = lambda message: None,
    ) -> Self:
        """Connect to MLflow, and create the experiment if it does not exist.

        A new experiment in a database keeps its artifacts below `artifact_root`. The tables of a
        new database are created in the background: start other things before you call `start`.
        `say` receives a sentence where an existing database has to be upgraded or mended, when
        MLflow is away in the middle, and while `finish` waits. Raises SweepError within about 10 s
        if nothing answers.
        """
        reachability.check(uri)
        load()
        tracker = cls(uri, experiment, artifact_root, say)
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
        *,
        examine_all: bool = False,
    ) -> str:
        """Open the parent run and return its id. A sweep that was tracked before keeps its runs.

        `artifacts` are texts or files by artifact path. With `examine_all`, the runs of all trials
        are read, for `show_ended_if_different`. Raises SweepError if MLflow refuses.
        """
        self._await_open()
        self._writer = RunWriter(self._client, self._experiment_id, dataset, self._outbox.note)
        if (file := reachability.sqlite_path(self._uri)) is not None:
            self._group_writer = GroupWriter(file, self._experiment_id)
        parent = RunRecord(name, {project.SWEEP_TAG: sweep_id, **cut_tags(tags)})
        try:
            with translated_errors():
                self._adopt_runs(parent, sweep_id, examine_all=examine_all)
                run_id = parent.run_id or self._writer.create(parent, None, Projection())
        except (UnreachableError, RejectedError) as error:
            raise self._refusal(error) from error
        self._runs[_PARENT] = parent
        status: project.RunStatus | None = "RUNNING" if parent.adopted else None
        self._outbox.put(_PARENT, Projection([], dict(params), dict(tags), dict(artifacts), status))
        self._outbox.start()
        return run_id

    def _await_open(self) -> None:
        began = time.monotonic()
        while self._opening.is_alive():
            self._opening.join(0.2)
            # an upgrade takes as long as the database is large, and has said so
            if time.monotonic() - began > (UPGRADE_TIMEOUT_S if self._is_upgrading else OPEN_TIMEOUT_S):
                message = f"MLflow was not ready at {reachability.without_secrets(self._uri)} in time"
                hint = "Try again. If the database is on a network disk, set MLFLOW_TRACKING_URI to another place."
                raise SweepError(message, hint)
        if self._failure is not None:
            raise self._refusal(self._failure) from self._failure

    def _open(self) -> None:
        def say(message: str) -> None:
            self._is_upgrading = True
            self._say(message)

        try:
            with translated_errors():
                self._client = new_client(self._uri, say)
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

    def _adopt_runs(self, parent: RunRecord, sweep_id: str, *, examine_all: bool) -> None:
        """Find the runs of an earlier process: all of them, or those of open trials if the sweep's
        own run says which trials are shown to their end.
        """
        found = self._writer.search(f"tags.`{project.SWEEP_TAG}` = '{sweep_id}'")
        if not found:
            return
        kept = self._writer.keep_one(found)
        parent.adopt(kept)
        self._stored_shown = kept.data.tags.get(project.SHOWN_TAG, "")
        self._shown = ShownTrials(self._stored_shown)
        self._knows_all_runs = examine_all or not self._stored_shown
        conditions = ("",) if self._knows_all_runs else OPEN_RUNS
        by_trial: dict[str, list[Run]] = {}
        for condition in conditions:
            for run in self._writer.children(kept.info.run_id, condition):
                if project.TRIAL_TAG in run.data.tags:
                    by_trial.setdefault(run.data.tags[project.TRIAL_TAG], []).append(run)
        for key, runs in by_trial.items():
            run = self._writer.keep_one(runs)
            tags = run.data.tags
            child = self._runs[key] = RunRecord(run.info.run_name, tags)
            child.adopt(run)
            child.events_seen = int(tags.get(project.CURSOR_TAG, 0))
            child.ended_as = tags.get("state", "") if run.info.status in ENDED else ""

    # --------------------------------------------------------------------------------------- trials
    def trial_started(self, trial: Trial) -> None:
        """Show a trial that starts or resumes."""
        run = self._record_of(trial)
        run.running = True
        if trial.number in self._shown:  # the record of its end was lost, and it is trained again
            run.may_exist = True
            self._shown.remove(trial.number)
        self._outbox.put(trial.key, self._start_of(trial))
        added = [name for name in trial.hyperparameters if name not in self._hyperparameters]
        if added:
            self._hyperparameters += added
            self._outbox.put(_PARENT, Projection())  # saves the table with the new columns

    def _record_of(self, trial: Trial) -> RunRecord:
        run = self._runs.get(trial.key)
        if run is None:
            started_at_ms = _now_ms() if trial.started_at is None else round(trial.started_at * 1000)
            run = self._runs[trial.key] = RunRecord(project.run_name(trial), {}, started_at_ms=started_at_ms)
        run.number, run.hyperparameters = trial.number, trial.hyperparameters
        return run

    def _start_of(self, trial: Trial) -> Projection:
        backend = trial.handle.backend if trial.handle else self._runs[_PARENT].tags.get("backend", "")
        return project.of_start(trial, backend)

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
        before. Asks nobody.
        """
        run = self._runs.get(trial.key)
        if self._knows_all_runs and run is not None and run.ended_as == trial.state.value:
            self._shown.add(trial.number)  # as version 0.1 tracked it
            del self._runs[trial.key]
        return trial.number in self._shown

    def show_ended(self, trial: Trial, files: Mapping[str, Content] = NO_FILES) -> None:
        """Show an ended trial from its record, from its start to its end, with artifacts by path.

        Adds only what MLflow lacks. The record is read when its turn comes.
        """
        with self._forgetting:
            was_sent = trial.key in self._runs or trial.number in self._shown
            # A record of its own: the outbox forgets the one that it is writing now.
            run = self._runs[trial.key] = copy.copy(self._record_of(trial))
            unknown = self._runs[_PARENT].adopted and not self._knows_all_runs
            run.may_exist = run.run_id is not None or was_sent or unknown
            run.running = False
            self._shown.remove(trial.number)
            self._hyperparameters += [name for name in trial.hyperparameters if name not in self._hyperparameters]
            self._outbox.put_lazily(trial.key, partial(self._whole, trial, files))

    def show_ended_if_different(self, trial: Trial, files: Mapping[str, Content] = NO_FILES) -> bool:
        """Show an ended trial from its record unless MLflow shows all of it.

        Returns whether it has to be shown. Needs `start` with `examine_all`.
        """
        run = self._runs.get(trial.key)
        is_shown = trial.number in self._shown or (run is not None and run.ended_as == trial.state.value)
        if is_shown and run is not None and shows_all(run, self._whole(trial, files)):
            self._shown.add(trial.number)
            del self._runs[trial.key]
            return False
        self.show_ended(trial, files)
        return True

    def show_interrupted(self, trial: Trial) -> None:
        """Show a trial that no process runs and that has not ended. A later run resumes it."""
        self.trial_started(trial)
        measured = project.of_events(0, trial.curve, _now_ms(), trial.hyperparameters)
        del measured.tags[project.CURSOR_TAG]  # it counts events, and the record does not have all
        self._outbox.put(trial.key, measured)

    def has_artifact(self, path: str) -> bool:
        """Return whether the sweep's run has an artifact. Raises SweepError if MLflow refuses."""
        try:
            with translated_errors():
                return self._writer.has_artifact(self._runs[_PARENT].run_id or "", path)
        except (UnreachableError, RejectedError) as error:
            raise self._refusal(error) from error

    def _whole(self, trial: Trial, files: Mapping[str, Content]) -> Projection:
        measured = sorted((*trial.curve, *trial.loop_reports), key=lambda measurement: measurement.step)
        now_ms = _now_ms()
        whole = self._start_of(trial)
        whole.add(project.of_events(0, measured, now_ms, trial.hyperparameters))
        whole.add(project.of_end(trial, now_ms))
        whole.is_whole = True
        whole.add(project.of_files(files))
        return whole

    def add_files(self, trial_key: str, files: Mapping[str, Content]) -> None:
        """Show artifacts of a started trial, by path. They replace earlier ones."""
        self._outbox.put(trial_key, project.of_files(files))

    def trial_ended(self, trial: Trial, files: Mapping[str, Content] = NO_FILES) -> None:
        """Show a trial's result, with artifacts by path.

        Their content may be a function; it is called in the background.
        """
        end = project.of_end(trial, _now_ms())
        end.add(project.of_files(files))
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

        Waits as long as MLflow takes the runs, at most 2 minutes for one run, or 1 minute while it
        does not answer; `say` receives sentences about it. `lacking` lists the runs that MLflow
        does not have then.
        """
        self._finished = True
        now_ms = _now_ms()
        for key, run in list(self._runs.items()):
            if run.running:
                self._outbox.put(key, Projection(tags={"state": "interrupted"}, status="KILLED", ended_at_ms=now_ms))
        files: dict[str, Content] = {**artifacts}
        if best_model is not None:
            files["best_model"] = best_model
        points = project.summary_points(metrics, now_ms)
        self._outbox.put(_PARENT, Projection(points, {}, dict(tags), files, status, now_ms))
        self._outbox.close(FINISH_TIMEOUT_S, FINISH_UNREACHABLE_S, self._say)

    def replace(self, run_id: str, path: str, content: str) -> None:
        """Write a text artifact of a run again, after `finish`.

        `problems` says if it is not written.
        """
        try:
            self._writer.write_file(run_id, path, content)
        except (UnreachableError, RejectedError) as error:
            self._outbox.note(f"{path} was not written again: {error}")

    def close(self) -> None:
        """Disconnect from MLflow, and write nothing any more.

        A sweep that was started and not finished counts as killed. Idempotent.
        """
        if _PARENT in self._runs and not self._finished:
            self.finish("KILLED", {}, {}, {}, None)
        self._outbox.abandon()

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences about everything that could not be written so far."""
        return self._outbox.problems

    @property
    def lacking(self) -> tuple[str, ...]:
        """The names of the runs that MLflow does not have, or not as they should be."""
        runs = dict(self._runs)  # a copy: the outbox may still write
        keys = {*self._outbox.unwritten, *(key for key, run in runs.items() if run.is_rejected)}
        return tuple(sorted(runs[key].name for key in keys if key in runs))

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
    def _write_together(self, projections: Mapping[str, Projection]) -> None:
        if self._group_writer is not None:
            group = [(self._runs[key], projection) for key, projection in projections.items() if key != _PARENT]
            self._group_writer.write(self._runs[_PARENT], group)

    def _write(self, key: str, projection: Projection) -> None:
        run = self._runs[key]
        shown = self._shown.text if key == _PARENT else ""
        if shown != self._stored_shown and key == _PARENT:
            projection.tags[project.SHOWN_TAG] = shown
        with translated_errors():
            self._writer.write(run, self._runs.get(_PARENT) if key != _PARENT else None, projection)
            if key == _PARENT:
                self._saved_view = self._writer.save_table_view(self._hyperparameters, self._saved_view)
                self._stored_shown = shown
            elif projection.completes and run.number is not None and not run.is_rejected:
                with self._forgetting:
                    if self._runs.get(key) is run and not self._outbox.waits(key):
                        self._shown.add(run.number)
                        del self._runs[key]
                self._outbox.put(_PARENT, Projection())  # stores which trials are shown


def _now_ms() -> int:
    return round(time.time() * 1000)
