"""SweepSpec: a checked sweep file, with its backend class and its parsed search space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel

from backends.contract import Backend, Capabilities, Scalar
from backends.local_paths import MayBePath, absolute_name
from search_spaces.space import SearchSpace
from sweeps.data.spec import DataSpec
from sweeps.spec.objective import Objective
from sweeps.spec.sweep_file import (
    BudgetSpec,
    ChampionSpec,
    DecodingSpec,
    EvaluationSpec,
    FinalsSpec,
    ObjectiveSpec,
    ResourcesSpec,
    SearchSpec,
    SweepFile,
    TrackingSpec,
)
from sweeps.spec.task_metrics import TaskMetric
from sweeps.spec.yaml_source import Document


@dataclass(frozen=True)
class SweepSpec:
    """A sweep file that passed every check that needs no data.

    `file` holds the sections as written, `document` the YAML with its line numbers. The other
    fields are resolved from them. The properties give direct access to the sections.

    The paths in `backend_options` are absolute, resolved against the current folder when the file
    was loaded, because a worker or a later command may run in another folder. `written_options`
    has them as written.
    """

    file: SweepFile
    document: Document
    backend_class: type[Backend]
    backend_options: BaseModel
    written_options: BaseModel
    capabilities: Capabilities
    space: SearchSpace
    task_metrics: tuple[TaskMetric, ...] = ()

    def with_sections(self, **sections: object) -> SweepSpec:
        """Return a copy with some sections replaced.

        The values must be valid; they are not checked again.
        """
        return replace(self, file=self.file.model_copy(update=sections))

    @property
    def objective(self) -> Objective:
        """The first objective: it ranks trials, stops weak ones, and selects the epoch to keep."""
        return self.objectives[0].objective

    @property
    def objective_metric(self) -> TaskMetric | None:
        """The task metric that is the objective; None if the objective is no task metric."""
        return next((metric for metric in self.task_metrics if metric.reported_name == self.objective.metric), None)

    @property
    def training_options(self) -> dict[str, Any]:
        """The backend's options as plain JSON values.

        Prices and other options that do not change the trained model are left out.
        """
        # An option that came later counts only where it is used, so that older sweeps can go on.
        unused = (
            self._options_marked("absent_by_default") - self.written_options.model_dump(exclude_defaults=True).keys()
        )
        left_out = self.price_options | self._options_marked("same_result") | unused
        return self.written_options.model_dump(mode="json", exclude=left_out)

    @property
    def price_options(self) -> set[str]:
        """The names of the backend's options that only set a price."""
        return self._options_marked("price")

    def _options_marked(self, mark: str) -> set[str]:
        fields = type(self.written_options).model_fields
        extras = {name: field.json_schema_extra for name, field in fields.items()}
        return {name for name, extra in extras.items() if isinstance(extra, dict) and extra.get(mark)}

    @property
    def written_model(self) -> str:
        """The base model that the backend's options name, as written; empty if they name none."""
        return str(self.written_options.model_dump().get("model", ""))

    def absolute_model(self, name: str) -> str:
        """Return the name of a base model as a worker needs it: absolute if it is a path."""
        field = type(self.backend_options).model_fields.get("model")
        is_marked = field is not None and any(isinstance(mark, MayBePath) for mark in field.metadata)
        if name == self.written_model:
            return str(self.backend_options.model_dump().get("model", name))
        return absolute_name(name) if is_marked else name

    def absolute_point(self, point: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Return hyperparameters as a worker needs them: with absolute paths."""
        return {
            name: absolute_name(value)
            if isinstance(value, str) and (known := self.capabilities.hyperparameter(name)) and known.may_be_path
            else value
            for name, value in point.items()
        }

    @property
    def portable_document(self) -> dict[str, Any]:
        """The content of the file for use from any folder: with absolute paths in `backend:`, and
        with the contents of the files that the task metrics name.
        """
        document = dict(self.document.value)
        if self.backend_options is not self.written_options:
            options = self.backend_options.model_dump(mode="json", by_alias=True, exclude_unset=True)
            document["backend"] = {"type": self.backend_type, **options}
        if self.task_metrics:
            metrics = [
                {request.type: dict(request.options), "name": request.name, "reference": request.reference}
                for request in (metric.request for metric in self.task_metrics)
            ]
            document["evaluation"] = {**document["evaluation"], "metrics": metrics}
        return document

    @property
    def registered_model(self) -> str:
        """The registered model whose champion the winner challenges."""
        return (self.champion.model if self.champion is not None else None) or self.name

    # ------------------------------------------------------------------------- sections of the file
    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.file.name

    @property
    def description(self) -> str:
        """The file's free text about the sweep."""
        return self.file.description

    @property
    def data(self) -> DataSpec | None:
        """The `data:` section; None if the backend brings its own data."""
        return self.file.data

    @property
    def backend_type(self) -> str:
        """The registered name of the backend."""
        return self.file.backend.type

    @property
    def steering(self) -> Literal["off", "advise", "act"]:
        """Whether steering reports, acts, or does nothing."""
        return self.file.steering

    @property
    def bounds(self) -> Mapping[str, tuple[float, float]]:
        """How far steering may move ranges, as far as the file says."""
        return self.file.bounds

    @property
    def search(self) -> SearchSpec:
        """The `search:` section."""
        return self.file.search

    @property
    def objectives(self) -> tuple[ObjectiveSpec, ...]:
        """All objectives, in the order of the file."""
        return self.file.objective

    @property
    def finals(self) -> FinalsSpec | None:
        """The `finals:` section; None without finals."""
        return self.file.finals

    @property
    def champion(self) -> ChampionSpec | None:
        """The `champion:` section; None if the sweep registers nothing."""
        return self.file.champion

    @property
    def evaluation(self) -> EvaluationSpec:
        """The `evaluation:` section."""
        return self.file.evaluation

    @property
    def decoding(self) -> DecodingSpec | None:
        """The `decoding:` section; None if the finalists generate as the evaluations do."""
        return self.file.decoding

    @property
    def budget(self) -> BudgetSpec:
        """The `budget:` section."""
        return self.file.budget

    @property
    def resources(self) -> ResourcesSpec:
        """The `resources:` section."""
        return self.file.resources

    @property
    def tracking(self) -> TrackingSpec:
        """The `tracking:` section."""
        return self.file.tracking
