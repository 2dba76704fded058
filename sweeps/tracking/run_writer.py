"""Writing one run to MLflow, so that a repeated or interrupted write neither loses nor doubles
anything.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from backends.contract import Scalar
from sweeps.tracking import projection as project
from sweeps.tracking.mlflow_errors import translated_errors
from sweeps.tracking.outbox import UnreachableError
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

    - `run_id`: MLflow's id, once the run exists there.
    - `adopted`: an earlier process created the run.
    - `creation_unanswered`: MLflow was asked to create the run and has not answered.
    - `has_inputs`: its data sets are logged.
    - `events_seen`: the number of its trial's events taken in so far.
    - `ended_as`: the state that an ended trial has in MLflow.
    - `params`, `steps`: the parameters, and the steps by metric, that MLflow already has.
    """

    name: str
    tags: Mapping[str, str]
    started_at_ms: int | None = None
    run_id: str | None = None
    adopted: bool = False
    creation_unanswered: bool = False
    has_inputs: bool = False
    running: bool = False
    events_seen: int = 0
    ended_as: str = ""
    params: set[str] = field(default_factory=set)
    hyperparameters: Mapping[str, Scalar] = field(default_factory=dict)
    steps: dict[str, set[int]] = field(default_factory=dict)

    def adopt(self, found: Run) -> None:
        """Take over the run that an earlier process created."""
        self.run_id = found.info.run_id
        self.adopted = True
        self.has_inputs = found.inputs is not None and bool(found.inputs.dataset_inputs)
        self.params = set(found.data.params)


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

    def create(
        self, run: RunRecord, parent: RunRecord | None = None, projected_tags: Mapping[str, str] | None = None
    ) -> str:
        """Create the run, below `parent` if given, and return its id.

        If an earlier attempt got no answer, the run is looked up first.
        """
        tags = {**run.tags, **cut_tags(projected_tags or {})}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent.run_id or ""
            if run.creation_unanswered:
                trial = f"tags.`{project.TRIAL_TAG}` = '{tags[project.TRIAL_TAG]}'"
                if found := self.search(f"tags.`mlflow.parentRunId` = '{parent.run_id}' and {trial}"):
                    run.adopt(found[0])
                    return str(run.run_id)
        tags.pop(project.CURSOR_TAG, None)  # the events that it counts are not written yet
        run.creation_unanswered = True
        created = self._client.create_run(
            self._experiment_id,
            start_time=run.started_at_ms,
            tags={"mlflow.source.name": "sweep run", "mlflow.source.type": "LOCAL", **tags},
            run_name=run.name,
        )
        run.run_id = created.info.run_id
        return str(run.run_id)

    def write(self, run: RunRecord, parent: RunRecord | None, projection: Projection) -> None:
        """Write a projection, and remove from it what is written, so that a retry writes only the
        rest.
        """
        if run.run_id is None:
            self.create(run, parent, projection.tags)
        run_id = run.run_id or ""
        if not run.has_inputs:
            self._client.log_inputs(run_id, self._inputs)
            run.has_inputs = True
        with self.noting(run.name):
            self._write_values(run, run_id, projection)
        for path in list(projection.files):
            with self.noting(f"{run.name}: {path}"):
                self.write_file(run_id, path, projection.files[path])
            del projection.files[path]
        if projection.status == "RUNNING":
            if run.adopted:
                self._client.update_run(run_id, status="RUNNING")
        elif projection.status is not None:
            self._client.set_terminated(run_id, projection.status, projection.ended_at_ms)
        projection.status = None

    def write_file(self, run_id: str, path: str, content: Content) -> None:
        """Write an artifact: a text, bytes, a file, a folder, or what a function returns."""
        if isinstance(content, Path) and content.is_dir():
            self._client.log_artifacts(run_id, str(content), path)
            return
        if callable(content):
            content = content()
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as scratch:
            local = content if isinstance(content, Path) and content.name == name else Path(scratch) / name
            if local is not content:
                data = content.read_bytes() if isinstance(content, Path) else content
                local.write_bytes(data.encode() if isinstance(data, str) else data)
            self._client.log_artifact(run_id, str(local), folder or None)

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
    def noting(self, subject: str) -> Iterator[None]:
        """Note a problem instead of raising it, so that the rest is still written.

        UnreachableError is raised: the write will be repeated.
        """
        try:
            with translated_errors():
                yield
        except UnreachableError:
            raise
        except Exception as error:  # noqa: BLE001 - an error in drawing a plot must not lose a run's result
            self._note(f"{subject} was not written: {error}")

    def _write_values(self, run: RunRecord, run_id: str, projection: Projection) -> None:
        from mlflow.entities import Metric, Param, RunTag

        points = [point for point in projection.points if point.once or not self._is_written(run, run_id, point)]
        metrics = [Metric(point.key, point.value, point.timestamp_ms, point.step) for point in points]
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
        run.params |= projection.params.keys()
        projection.points, projection.params, projection.tags = [], {}, {}

    def _is_written(self, run: RunRecord, run_id: str, point: Point) -> bool:
        """Return whether an earlier process wrote the point and died before it moved the cursor."""
        if not run.adopted:
            return False
        if point.key not in run.steps:
            history = self._client.get_metric_history(run_id, point.key)
            run.steps[point.key] = {metric.step for metric in history}
        known = point.step in run.steps[point.key]
        run.steps[point.key].add(point.step)
        return known


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


def cut_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags, with values that MLflow accepts."""
    return {key: cut(value, TAG_CHARS) for key, value in tags.items()}


def cut(text: str, max_chars: int) -> str:
    """Return the text, cut to `max_chars` with an ellipsis."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
