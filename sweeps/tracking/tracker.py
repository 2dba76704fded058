"""MLflow: one parent run a sweep, one child run a trial, written in batches off the training path.

The only module that knows MLflow. What it shows is a projection of what the study records: a run is found again by
its tags, each child run carries a cursor, and so a sweep that goes on after a crash neither loses nor doubles a point.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

from backends.contract import Event, Scalar
from sweeps.errors import SweepError
from sweeps.tracking import projection as project
from sweeps.tracking import reachability
from sweeps.tracking.outbox import Outbox, RejectedError, UnreachableError
from sweeps.tracking.projection import Content, Point, Projection, TrackedDataset, TrackedPart
from sweeps.trials.trial import Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

__all__ = ["TrackedDataset", "TrackedPart", "Tracker", "default_uri", "serve_ui", "table_path"]

OPEN_S = 90.0
"""To create the tables of a new database takes 2 to 8 s on a laptop; so long on one that is very busy."""

FINISH_S, FINISH_AWAY_S = 120.0, 15.0
"""So long the end of a sweep waits until everything is written, the best model included; and so long for no answer."""

BATCH_METRICS, BATCH_OTHERS = 800, 100
"""What goes into one `log_batch`; MLflow takes 1,000 in all, and 100 parameters and 100 tags among them."""

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Of a new experiment: the UI then offers what belongs to training, not to prompts and traces."""

ENDED = frozenset({"FINISHED", "FAILED", "KILLED"})
"""What MLflow calls runs that have ended."""

PARAM_CHARS, TAG_CHARS = 6000, 8000
"""MLflow's limits of a parameter's and of a tag's value."""

DIGEST_CHARS = 12
"""As much of a data set's digest as its name in the UI has room for; the whole stands in its profile."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # of the UI: no job runner for features that a sweep does not have
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the outbox retries, and can be told to stop
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout is for what was asked for, JSON for one
}
"""What MLflow takes from its environment only; the user's own settings win."""

_QUIET = {"PYTHONWARNINGS": "ignore"}
"""For the UI's server, whose warnings are for MLflow's developers."""

_PARENT = ""
"""The outbox's key of the parent run."""

_UI = f"""
import os
for name, value in {SETTINGS | _QUIET!r}.items():
    os.environ.setdefault(name, value)
from mlflow.cli import cli
cli()
"""


def default_uri(root: Path) -> str:
    """Return the URI of a sweep's own MLflow database below its root folder."""
    return f"sqlite:///{(root / 'mlflow.db').resolve()}"


def serve_ui(uri: str, port: int) -> list[str]:
    """Return the command that serves the MLflow UI over a database, for this machine only, until it is killed.

    Artifacts lie where the experiment says, as paths of this machine, and the server reads them there.
    """
    options = {"--backend-store-uri": uri, "--host": "127.0.0.1", "--port": str(port), "--workers": "1"}
    return [sys.executable, "-c", _UI, "server", *(word for option in options.items() for word in option)]


@dataclass
class _Run:
    """A run as this process knows it.

    `adopted`: an earlier process made it. `doubtful`: MLflow was asked to make it, and did not answer. `described`: its
    data are logged. `seen`: so many of its events were taken in. `params` and `steps`, by metric, are there already.
    `ended_as` is the state that an ended trial has there. `hyperparameters` are a trial's.
    """

    name: str
    tags: Mapping[str, str]
    started_at_ms: int | None = None
    run_id: str | None = None
    adopted: bool = False
    doubtful: bool = False
    described: bool = False
    running: bool = False
    seen: int = 0
    ended_as: str = ""
    params: set[str] = field(default_factory=set)
    hyperparameters: Mapping[str, Scalar] = field(default_factory=dict)
    steps: dict[str, set[int]] = field(default_factory=dict)


class Tracker:
    """A sweep's connection to MLflow. Called from one thread; only `connect`, `start`, `finish` and `close` wait."""

    def __init__(self, uri: str, experiment: str, artifact_root: Path | None) -> None:
        """Use `connect`."""
        self._uri = uri
        self._experiment = experiment
        self._artifact_root = artifact_root
        self._client: MlflowClient
        self._experiment_id = ""
        self._failure: Exception | None = None
        self._inputs: list[DatasetInput] = []
        self._runs: dict[str, _Run] = {}
        self._hyperparameters: list[str] = []
        self._view = ""
        self._finished = False
        self._outbox = Outbox(self._write, f"mlflow {experiment}")
        self._opening = threading.Thread(target=self._open, name=f"mlflow {experiment}: open", daemon=True)

    # -------------------------------------------------------------------------------------------------------- beginning
    @classmethod
    def connect(cls, uri: str, experiment: str, artifact_root: Path | None) -> Self:
        """Connect, and make the experiment where there is none; a new one in a database keeps its artifacts below
        `artifact_root`.

        Raises SweepError within about 10 s where nothing answers. The tables of a new database are made in the
        background: start what else has to start before calling `start`.
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
        """Open the parent run and return its id; a sweep that was tracked before gets its runs back.

        `artifacts` are texts or files by artifact path. Raises SweepError where MLflow refuses.
        """
        self._await_open()
        self._inputs = _inputs(dataset)
        parent = _Run(name, {project.SWEEP_TAG: sweep_id, **_tags(tags)})
        try:
            with translated():
                self._adopt(parent, sweep_id)
                run_id = parent.run_id or self._create(parent)
        except (UnreachableError, RejectedError) as error:
            raise self._refused(error) from error
        self._runs[_PARENT] = parent
        status: project.RunStatus | None = "RUNNING" if parent.adopted else None
        self._outbox.put(_PARENT, Projection([], dict(params), dict(tags), dict(artifacts), status))
        self._outbox.start()
        return run_id

    def _await_open(self) -> None:
        self._opening.join(OPEN_S)
        if self._opening.is_alive():
            message = f"MLflow was not ready at {reachability.shown(self._uri)} within {OPEN_S:g} s"
            raise SweepError(
                message, "try again; if the disk is a network's, give another place by MLFLOW_TRACKING_URI"
            )
        if self._failure is not None:
            raise self._refused(self._failure) from self._failure

    def _open(self) -> None:
        try:
            with translated():
                self._client = new_client(self._uri)
                self._experiment_id = self._find_experiment()
        except Exception as error:  # noqa: BLE001 - the rim: it is raised again where the sweep waits for it
            self._failure = error

    def _find_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            place = None
            if self._artifact_root is not None and reachability.sqlite_path(self._uri) is not None:
                place = (self._artifact_root.resolve() / quote(self._experiment, safe=" ")).as_uri()
            return str(self._client.create_experiment(self._experiment, artifact_location=place, tags=EXPERIMENT_TAGS))
        if found.lifecycle_stage != "active":
            hint = f"restore it (mlflow experiments restore -x {found.experiment_id}), or name another in the YAML"
            raise SweepError(f"the MLflow experiment `{self._experiment}` was deleted", hint)
        return str(found.experiment_id)

    def _refused(self, error: Exception) -> SweepError:
        """Say what MLflow said; anything else is no answer of MLflow and goes on as it is."""
        if not isinstance(error, (UnreachableError, RejectedError)):
            raise error
        message = f"MLflow at {reachability.shown(self._uri)} does not take the sweep: {error}"
        return SweepError(message, "give another place by MLFLOW_TRACKING_URI")

    def _adopt(self, parent: _Run, sweep_id: str) -> None:
        found = self._search(f"tags.`{project.SWEEP_TAG}` = '{sweep_id}'")
        if not found:
            return
        self._take(parent, found[0])
        for each in self._search(f"tags.`mlflow.parentRunId` = '{parent.run_id}'"):
            tags = each.data.tags
            if project.TRIAL_TAG in tags:
                child = self._runs.setdefault(tags[project.TRIAL_TAG], _Run(each.info.run_name, tags))
                self._take(child, each)
                child.seen = int(tags.get(project.CURSOR_TAG, 0))
                child.ended_as = tags.get("state", "") if each.info.status in ENDED else ""

    def _take(self, run: _Run, found: Run) -> None:
        run.run_id, run.adopted, run.described = (
            found.info.run_id,
            True,
            found.inputs is not None and bool(found.inputs.dataset_inputs),
        )
        run.params = set(found.data.params)

    def _search(self, condition: str) -> list[Run]:
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs([self._experiment_id], condition, max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    # ------------------------------------------------------------------------------------------------------- the trials
    def trial_started(self, trial: Trial) -> None:
        """Show a trial that begins, or goes on."""
        run = self._runs.get(trial.key)
        if run is None:
            started_at_ms = _now_ms() if trial.started_at is None else round(trial.started_at * 1000)
            run = self._runs[trial.key] = _Run(project.run_name(trial), {}, started_at_ms)
        run.running, run.hyperparameters = True, trial.hyperparameters
        backend = trial.handle.backend if trial.handle else self._runs[_PARENT].tags.get("backend", "")
        self._outbox.put(trial.key, project.of_start(trial, backend))
        added = [
            hyperparameter for hyperparameter in trial.hyperparameters if hyperparameter not in self._hyperparameters
        ]
        if added:
            self._hyperparameters += added
            self._outbox.put(_PARENT, Projection())

    def observed(self, trial_key: str, first: int, events: Sequence[Event]) -> None:
        """Show the events numbered `first`, `first + 1`, ... of a trial that was started; known ones are skipped.

        After an interruption the events may be given from the beginning again.
        """
        run = self._runs[trial_key]
        fresh = events[max(0, run.seen - first) :]
        if fresh:
            begin = max(first, run.seen)
            self._outbox.put(trial_key, project.of_events(begin, fresh, _now_ms(), run.hyperparameters))
            run.seen = begin + len(fresh)

    def shows_end_of(self, trial: Trial) -> bool:
        """Whether MLflow had the end of this trial when the sweep was tracked before."""
        run = self._runs.get(trial.key)
        return run is not None and run.ended_as == trial.state.value

    def observed_before(self, trial: Trial) -> None:
        """Show what the record has of an ended trial's events; points that are there are not doubled."""
        measured = sorted((*trial.curve, *trial.loop_reports), key=lambda each: each.step)
        self.observed(trial.key, self._runs[trial.key].seen, measured)

    def trial_ended(
        self, trial: Trial, curve_picture: Content | None = None, extra_tags: Mapping[str, str] | None = None
    ) -> None:
        """Show a trial's result. The picture may be a function that draws it: it is called in the background."""
        end = project.of_end(trial, _now_ms())
        end.tags |= extra_tags or {}
        if curve_picture is not None:
            end.files["learning_curve.png"] = curve_picture
        self._runs[trial.key].running = False
        self._outbox.put(trial.key, end)

    # -------------------------------------------------------------------------------------------------------------- end
    def tag_sweep(self, tags: Mapping[str, str]) -> None:
        """Tag the parent run."""
        self._outbox.put(_PARENT, Projection(tags=_tags(tags)))

    def finish(
        self,
        status: Literal["FINISHED", "KILLED", "FAILED"],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Mapping[str, str | Path],
        best_model: Path | None,
    ) -> None:
        """Close the runs and wait until everything is written, 2 min at most, or 15 s while MLflow does not answer.

        See `problems` for what is not written.
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
        if not self._outbox.close(FINISH_S, FINISH_AWAY_S):
            self._outbox.note("MLflow does not have everything of this sweep; the study does")

    def replace(self, run_id: str, path: str, content: str) -> None:
        """Write a text file of a run anew, after `finish`. See `problems` for what could not be written."""
        try:
            with self._noting(path):
                self._log_file(run_id, path, content)
        except UnreachableError as error:
            self._outbox.note(f"{path} was not written anew: {error}")

    def close(self) -> None:
        """Let go of MLflow. A sweep that was started and not finished counts as killed. Idempotent."""
        if _PARENT in self._runs and not self._finished:
            self.finish("KILLED", {}, {}, {}, None)

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be written so far, in sentences."""
        return self._outbox.problems

    def run_url(self, run_id: str) -> str | None:
        """Return where a browser finds a run; None where no server serves the database."""
        if not self._uri.startswith(("http://", "https://")):
            return None
        return f"{reachability.shown(self._uri).rstrip('/')}/#/experiments/{self._experiment_id}/runs/{run_id}"

    def table_path(self) -> str:
        """Return the path of the table of runs, with a sweep's columns, at a server of the MLflow UI."""
        return table_path(self._experiment_id)

    # ------------------------------------------------------------------------------------------- on the outbox's thread
    def _write(self, key: str, projection: Projection) -> None:
        """Write a projection and take out of it what is written, so that a repetition does the rest only."""
        run = self._runs[key]
        with translated():
            if run.run_id is None:
                self._create(run, projection.tags)
            run_id = run.run_id or ""
            if not run.described:
                self._client.log_inputs(run_id, self._inputs)
                run.described = True
            with self._noting(run.name):
                self._log(run, run_id, projection)
            for path in list(projection.files):
                with self._noting(f"{run.name}: {path}"):
                    self._log_file(run_id, path, projection.files[path])
                del projection.files[path]
            if projection.status == "RUNNING":
                if run.adopted:
                    self._client.update_run(run_id, status="RUNNING")
            elif projection.status is not None:
                self._client.set_terminated(run_id, projection.status, projection.ended_at_ms)
            projection.status = None
            if key == _PARENT:
                self._save_view()

    def _create(self, run: _Run, tags: Mapping[str, str] | None = None) -> str:
        parent = self._runs.get(_PARENT)
        own = {**run.tags, **_tags(tags or {})}
        if parent is not None:
            own["mlflow.parentRunId"] = parent.run_id or ""
            if run.doubtful:  # an earlier attempt got no answer, and may have succeeded
                trial = f"tags.`{project.TRIAL_TAG}` = '{own[project.TRIAL_TAG]}'"
                found = self._search(f"tags.`mlflow.parentRunId` = '{parent.run_id}' and {trial}")
                if found:
                    self._take(run, found[0])
                    return str(run.run_id)
        own.pop(project.CURSOR_TAG, None)  # what it counts is not yet written
        run.doubtful = True
        created = self._client.create_run(
            self._experiment_id,
            start_time=run.started_at_ms,
            tags={"mlflow.source.name": "sweep run", "mlflow.source.type": "LOCAL", **own},
            run_name=run.name,
        )
        run.run_id = created.info.run_id
        return str(run.run_id)

    def _log(self, run: _Run, run_id: str, projection: Projection) -> None:
        from mlflow.entities import Metric, Param, RunTag

        points = [point for point in projection.points if point.once or not self._present(run, run_id, point)]
        metrics = [Metric(point.key, point.value, point.timestamp_ms, point.step) for point in points]
        params = [
            Param(key, _cut(value, PARAM_CHARS)) for key, value in projection.params.items() if key not in run.params
        ]
        tags = [RunTag(key, value) for key, value in _tags(projection.tags).items()]
        while len(metrics) > BATCH_METRICS:
            self._client.log_batch(run_id, metrics=metrics[:BATCH_METRICS])
            del metrics[:BATCH_METRICS]
        while len(params) > BATCH_OTHERS:
            self._client.log_batch(run_id, params=params[:BATCH_OTHERS])
            del params[:BATCH_OTHERS]
        if metrics or params or tags:  # the tags last, because the cursor is one of them
            self._client.log_batch(run_id, metrics=metrics, params=params, tags=tags)
        run.params |= projection.params.keys()
        projection.points, projection.params, projection.tags = [], {}, {}

    def _present(self, run: _Run, run_id: str, point: Point) -> bool:
        """Whether an earlier process, which died before it moved the cursor, has written the point already."""
        if not run.adopted:
            return False
        if point.key not in run.steps:
            history = self._client.get_metric_history(run_id, point.key)
            run.steps[point.key] = {each.step for each in history}
        known = point.step in run.steps[point.key]
        run.steps[point.key].add(point.step)
        return known

    def _log_file(self, run_id: str, path: str, content: Content) -> None:
        if isinstance(content, Path) and content.is_dir():
            self._client.log_artifacts(run_id, str(content), path)
            return
        if callable(content):
            content = content()
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as place:
            local = content if isinstance(content, Path) and content.name == name else Path(place) / name
            if local is not content:
                data = content.read_bytes() if isinstance(content, Path) else content
                local.write_bytes(data.encode() if isinstance(data, str) else data)
            self._client.log_artifact(run_id, str(local), folder or None)

    def _save_view(self) -> None:
        view = project.run_table_view(self._hyperparameters)
        if self._hyperparameters and view != self._view:
            self._client.set_experiment_tag(self._experiment_id, f"mlflow.sharedViewState.{project.VIEW_KEY}", view)
            self._view = view

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Make of what cannot be written a problem, so that the rest still is."""
        try:
            with translated():
                yield
        except UnreachableError:
            raise
        except Exception as error:  # noqa: BLE001 - the rim: whatever draws a picture must not lose a run its result
            self._outbox.note(f"{what} was not written: {error}")


def table_path(experiment_id: str) -> str:
    """Return the path of an experiment's table of runs, with a sweep's columns, at a server of the MLflow UI."""
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={project.VIEW_KEY}"


# ------------------------------------------------------------------------------------------------------------- MLflow
def load() -> None:
    """Import MLflow with our settings. What the program has set up for its log messages stays as it is."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    import mlflow  # noqa: F401 - it takes seconds, and hangs its own handlers on its loggers

    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        if handlers or not propagate:
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
        else:
            logger.setLevel(max(logging.WARNING, level))


def new_client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise UnreachableError or RejectedError for what MLflow raises."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except MlflowException as error:
        text = _CREDENTIALS.sub("//", str(error).partition("\n")[0])[:MESSAGE_CHARS]
        if error.error_code in _FINAL:
            raise RejectedError(text) from error
        raise UnreachableError(f"MLflow does not answer: {text}") from error
    except RequestException as error:
        raise UnreachableError(
            f"MLflow does not answer: {_CREDENTIALS.sub('//', str(error))[:MESSAGE_CHARS]}"
        ) from error
    except OSError as error:
        raise RejectedError(str(error)) from error


_CREDENTIALS = re.compile(r"//[^/@\s]+@")
MESSAGE_CHARS = 240

_FINAL = frozenset(
    {
        "BAD_REQUEST",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "MALFORMED_REQUEST",
        "PERMISSION_DENIED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
        "UNAUTHENTICATED",
    }
)
"""MLflow's codes of errors that a repetition does not help."""


def _inputs(dataset: TrackedDataset) -> list[DatasetInput]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(
                name=dataset.name,
                digest=part.digest[:DIGEST_CHARS],
                source_type="local",
                source=json.dumps({"uri": dataset.source}),
                profile=json.dumps({"num_rows": part.examples, "sha256": part.digest}),
            ),
            [InputTag("mlflow.data.context", context)],
        )
        for context, part in dataset.parts.items()
    ]


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: _cut(value, TAG_CHARS) for key, value in tags.items()}


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _now_ms() -> int:
    return round(time.time() * 1000)
