"""Writing one run to MLflow, so that a repeated or interrupted write neither loses nor doubles
anything.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from backends.contract import Scalar
from sweeps.tracking import projection as project
from sweeps.tracking.mlflow_errors import translated_errors
from sweeps.tracking.outbox import RejectedError, UnreachableError
from sweeps.tracking.projection import Content, Point, Projection, TrackedDataset

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

BATCH_METRICS, BATCH_OTHERS = 800, 100
"""The most metrics, and parameters or tags, in one `log_batch`.

MLflow's limits are 1,000 items in all, 100 parameters and 100 tags.
"""

PARAM_CHARS, TAG_CHARS = 6000, 8000
"""MLflow's limits for the value of a parameter and of a tag."""

DIGEST_CHARS = 12
"""The part of a data set's digest that fits into the UI. The profile holds all of it."""


@dataclass
class RunRecord:
    """A run as this process knows it.

    - `number`: the number of its trial; None for the run of the sweep.
    - `run_id`: MLflow's id, once the run exists there.
    - `status`: its status when it was read; empty for a run of this process.
    - `adopted`: an earlier process created the run.
    - `may_exist`: MLflow may have the run although its id is unknown: look it up first.
    - `has_inputs`: its data sets are logged.
    - `is_rejected`: MLflow has refused a part of it.
    - `events_seen`: the number of its trial's events taken in so far.
    - `ended_as`: the state that an ended trial has in MLflow.
    - `params`, `latest`, `steps`: the parameters, the latest values, and the steps by metric, that
      MLflow already has.
    """

    name: str
    tags: Mapping[str, str]
    number: int | None = None
    started_at_ms: int | None = None
    run_id: str | None = None
    status: str = ""
    adopted: bool = False
    may_exist: bool = False
    has_inputs: bool = False
    is_rejected: bool = False
    running: bool = False
    events_seen: int = 0
    ended_as: str = ""
    params: set[str] = field(default_factory=set)
    latest: dict[str, float] = field(default_factory=dict)
    hyperparameters: Mapping[str, Scalar] = field(default_factory=dict)
    steps: dict[str, set[int]] = field(default_factory=dict)

    def adopt(self, found: Run) -> None:
        """Take over the run that an earlier process created."""
        self.run_id = found.info.run_id
        self.status = found.info.status
        self.adopted = True
        self.has_inputs = found.inputs is not None and bool(found.inputs.dataset_inputs)
        self.params = set(found.data.params)
        self.latest = dict(found.data.metrics)


class RunWriter:
    """Writes projections of runs into one experiment. Raises UnreachableError and RejectedError.

    `note` receives a sentence about everything that could not be written and will not be retried.
    """

    def __init__(
        self, client: MlflowClient, experiment_id: str, dataset: TrackedDataset, note: Callable[[str], None]
    ) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._inputs = dataset_inputs(dataset)
        self._note = note

    def search(self, condition: str) -> list[Run]:
        """Return all runs of the experiment that fulfil an MLflow filter."""
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs([self._experiment_id], condition, max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                return found

    def children(self, parent_id: str, condition: str = "") -> list[Run]:
        """Return the runs below a run that fulfil an MLflow filter."""
        below = f"tags.`mlflow.parentRunId` = '{parent_id}'"
        return self.search(f"{below} and {condition}" if condition else below)

    def keep_one(self, found: list[Run]) -> Run:
        """Return the oldest of some runs that show the same, and delete the others.

        There are others if a process died while a server created the run.
        """
        first, *others = sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))
        for other in others:
            self._client.delete_run(other.info.run_id)
        return first

    def create(self, run: RunRecord, parent: RunRecord | None, projection: Projection) -> str:
        """Create the run, below `parent` if given, and return its id.

        It gets the projected tags. If MLflow may have it already, it is looked up first.
        """
        tags = {**run.tags, **cut_tags(projection.tags)}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent.run_id or ""
            if run.may_exist:
                same_trial = f"tags.`{project.TRIAL_TAG}` = '{tags[project.TRIAL_TAG]}'"
                if found := self.children(parent.run_id or "", same_trial):
                    run.adopt(self.keep_one(found))
                    return str(run.run_id)
        if not projection.ends:
            tags.pop(project.CURSOR_TAG, None)  # the events that it counts are not written yet
        run.may_exist = True
        created = self._client.create_run(
            self._experiment_id,
            start_time=run.started_at_ms,
            tags={"mlflow.source.name": "sweep run", "mlflow.source.type": "LOCAL", **tags},
            run_name=run.name,
        )
        run.run_id = created.info.run_id
        projection.tags = {key: value for key, value in projection.tags.items() if key not in tags}
        return str(run.run_id)

    def write(self, run: RunRecord, parent: RunRecord | None, projection: Projection) -> None:
        """Write a projection, and remove from it what is written, so that a retry writes only the
        rest.
        """
        if run.run_id is None:
            self.create(run, parent, projection)
        elif projection.is_whole and not run.adopted:
            run.adopt(self._client.get_run(run.run_id))  # to know the points that it has
        run_id = run.run_id or ""
        if not run.has_inputs:
            if self._inputs:
                self._client.log_inputs(run_id, self._inputs)
            run.has_inputs = True
        with self._noting(run, run.name):
            self._write_values(run, run_id, projection)
        if projection.status == "RUNNING":
            if run.adopted:
                self._client.update_run(run_id, status="RUNNING")
        elif projection.status is not None:
            self._client.set_terminated(run_id, projection.status, projection.ended_at_ms)
        projection.status = None
        for path in list(projection.files):
            with self._noting(run, f"{run.name}: {path}"):
                self.write_file(run_id, path, projection.files[path])
            del projection.files[path]

    def write_file(self, run_id: str, path: str, content: Content) -> None:
        """Write an artifact: a text, bytes, a file, a folder, or what a function returns.

        A function that raises is noted. Any error of the artifact store may pass.
        """
        if callable(content):
            try:
                content = content()
            except Exception as error:  # noqa: BLE001 - an error in drawing a plot must not lose a run's result
                self._note(f"{path} was not written: {error}")
                return
        try:
            with translated_errors():
                self._upload(run_id, path, content)
        except (UnreachableError, RejectedError):
            raise
        except Exception as error:  # a boundary: every artifact store has its own errors
            text = str(error).partition("\n")[0]
            raise UnreachableError(f"the artifact store does not take {path}: {text}") from error

    def _upload(self, run_id: str, path: str, content: str | bytes | Path) -> None:
        if isinstance(content, Path) and content.is_dir():
            self._client.log_artifacts(run_id, str(content), path)
            return
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as scratch:
            local = content if isinstance(content, Path) and content.name == name else Path(scratch) / name
            if local is not content:
                data = content.read_bytes() if isinstance(content, Path) else content
                local.write_bytes(data.encode() if isinstance(data, str) else data)
            self._client.log_artifact(run_id, str(local), folder or None)

    def has_artifact(self, run_id: str, path: str) -> bool:
        """Return whether a run has an artifact, a file or a folder, at the top of its artifacts."""
        return any(file.path == path for file in self._client.list_artifacts(run_id))

    def save_table_view(self, hyperparameters: list[str], saved: str) -> str:
        """Save the columns of the table of runs, unless they equal `saved`.

        Returns the saved view.
        """
        view = project.run_table_view(hyperparameters)
        if not hyperparameters or view == saved:
            return saved
        self._client.set_experiment_tag(self._experiment_id, f"mlflow.sharedViewState.{project.VIEW_KEY}", view)
        return view

    @contextlib.contextmanager
    def _noting(self, run: RunRecord, subject: str) -> Iterator[None]:
        """Note what MLflow refuses instead of raising it, so that the rest is still written.

        UnreachableError is raised: the write will be repeated.
        """
        try:
            with translated_errors():
                yield
        except RejectedError as error:
            run.is_rejected = True
            self._note(f"{subject} was not written: {error}")

    def _write_values(self, run: RunRecord, run_id: str, projection: Projection) -> None:
        from mlflow.entities import Metric, Param, RunTag

        points = [point for point in projection.points if not self._is_written(run, run_id, point)]
        now_ms = round(time.time() * 1000)
        metrics = [Metric(point.key, point.value, _timestamp_ms(run, point, now_ms), point.step) for point in points]
        new_params = {key: value for key, value in projection.params.items() if key not in run.params}
        params = [Param(key, cut(value, PARAM_CHARS)) for key, value in new_params.items()]
        tags = [RunTag(key, value) for key, value in cut_tags(projection.tags).items()]
        while len(metrics) > BATCH_METRICS:
            self._client.log_batch(run_id, metrics=metrics[:BATCH_METRICS])
            del metrics[:BATCH_METRICS]
        while len(params) > BATCH_OTHERS:
            self._client.log_batch(run_id, params=params[:BATCH_OTHERS])
            del params[:BATCH_OTHERS]
        if metrics or params or tags:  # the tags come last, because the cursor is one of them
            self._client.log_batch(run_id, metrics=metrics, params=params, tags=tags)
        for point in points:
            if run.adopted and not point.once:
                run.steps[point.key].add(point.step)
        run.params |= projection.params.keys()
        run.latest |= {point.key: point.value for point in points if point.once}
        projection.points, projection.params, projection.tags = [], {}, {}

    def _is_written(self, run: RunRecord, run_id: str, point: Point) -> bool:
        """Return whether an earlier process wrote the point and died before it moved the cursor."""
        if point.once:
            return run.latest.get(point.key) == point.value
        if not run.adopted:
            return False
        if point.key not in run.steps:
            history = self._client.get_metric_history(run_id, point.key) if point.key in run.latest else []
            run.steps[point.key] = {metric.step for metric in history}
        return point.step in run.steps[point.key]


def dataset_inputs(dataset: TrackedDataset) -> list[DatasetInput]:
    """Return the data sets of a sweep in MLflow's terms."""
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


def shows_all(run: RunRecord, projection: Projection) -> bool:
    """Return whether a run that was read shows a whole projection, as far as one look tells.

    Of each metric it compares the latest value.
    """
    latest: dict[str, Point] = {}
    for point in projection.points:
        if point.key not in latest or point.step >= latest[point.key].step:
            latest[point.key] = point
    tags = {key: value for key, value in cut_tags(projection.tags).items() if key != project.CURSOR_TAG}
    return (
        run.status == projection.status
        and run.tags.items() >= tags.items()
        and run.params >= projection.params.keys()
        and all(key in run.latest and _same(run.latest[key], point.value) for key, point in latest.items())
    )


def _same(value: float, other: float) -> bool:
    return value == other or (math.isnan(value) and math.isnan(other))


def _timestamp_ms(run: RunRecord, point: Point, now_ms: int) -> int:
    """Return the time of a value. MLflow shows a changed summary only if its time is later too."""
    return now_ms if point.once and point.key in run.latest else point.timestamp_ms


def cut_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags, with values that MLflow accepts."""
    return {key: cut(value, TAG_CHARS) for key, value in tags.items()}


def cut(text: str, max_chars: int) -> str:
    """Return the text, cut to `max_chars` with an ellipsis."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
