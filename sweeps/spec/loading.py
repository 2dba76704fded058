"""YAML -> SweepSpec. All mistakes of a file are reported together, each with its line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from backends import registry
from backends.contract import Backend, BackendError, Capabilities
from backends.guarded_backend import translated_errors
from backends.local_paths import with_absolute_paths
from search_spaces.space import SearchSpace, SpaceError
from sweeps.errors import Problem, UserInputError
from sweeps.spec.checks import (
    objective_problems,
    resource_problems,
    space_resolution_problems,
    steering_problems,
)
from sweeps.spec.problems import file_order, validation_problems
from sweeps.spec.space import space_problems
from sweeps.spec.sweep_file import EvaluationSpec, SweepFile
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.spec.task_metrics import read_task_metrics
from sweeps.spec.yaml_source import Document, read, with_overrides


def load(path: Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """Read a sweep file.

    Raises UserInputError with all mistakes that can be found without reading the data.
    """
    return from_document(with_overrides(read(path), overrides))


def from_document(document: Document) -> SweepSpec:
    """Check a parsed document; see `load`."""
    problems: list[Problem] = []
    file: SweepFile | None = None
    try:
        file = SweepFile.model_validate(document.value)
    except ValidationError as error:
        problems += validation_problems(error, document, SweepFile)
    problems += steering_problems(document)
    backend = _backend(document, problems)
    capabilities = None if backend is None else backend.capabilities
    space = _space(document, capabilities, problems)
    evaluation: EvaluationSpec = read_section(document, "evaluation") or EvaluationSpec()
    metrics = read_task_metrics(evaluation, capabilities, document, problems)
    if backend is not None:
        if backend.capabilities.own_data is None and "data" not in document.value:
            hint = "add `data: {source: ...}`; this backend has no data of its own"
            problems.append(Problem(document.place(("data",)), "`data` is missing", hint))
        problems += resource_problems(read_section(document, "resources"), backend.capabilities, document)
        search, objectives = read_section(document, "search"), read_section(document, "objective")
        readable = {metric.reported_name for metric in metrics}
        unreadable = {f"valid_{written.name or written.type}" for written in evaluation.metrics} - readable
        problems += objective_problems(objectives or (), search, backend.capabilities, document, metrics, unreadable)
        if space is not None:
            problems += space_resolution_problems(space, backend.capabilities, document)
    if problems or file is None or backend is None or space is None:
        raise UserInputError(sorted(problems, key=file_order))
    absolute = with_absolute_paths(backend.options)
    return SweepSpec(
        file, document, backend.backend_class, absolute, backend.options, backend.capabilities, space, metrics
    )


def read_section(document: Document, name: str) -> Any:
    """Return one section as `SweepFile` reads it, or its default. Other sections may be wrong.

    None where the section itself is wrong, or required and missing.
    """
    field = SweepFile.model_fields[name]
    annotation: Any = Annotated[field.annotation, Field(), *field.metadata]
    if name not in document.value:
        return None if field.is_required() else field.get_default()
    try:
        return TypeAdapter(annotation).validate_python(document.value[name])
    except ValidationError:
        return None


@dataclass(frozen=True)
class _ChosenBackend:
    backend_class: type[Backend]
    options: BaseModel
    capabilities: Capabilities


def _backend(document: Document, problems: list[Problem]) -> _ChosenBackend | None:
    """Load the backend and read its options.

    Returns None where that fails; the reason is then in `problems`.
    """
    written = document.value.get("backend")
    if not isinstance(written, dict) or not isinstance(written.get("type"), str):
        return None  # the model of the whole file reports it
    try:
        backend_class = registry.load(written["type"])
    except registry.RegistryError as error:
        problems.append(Problem(document.place(("backend", "type")), error.message, error.hint))
        return None
    try:
        options = backend_class.options_model.model_validate(
            {key: value for key, value in written.items() if key != "type"}
        )
    except ValidationError as error:
        problems += validation_problems(error, document, backend_class.options_model, ("backend",))
        return None
    try:
        with translated_errors(backend_class, "describe"):
            capabilities = backend_class.describe(options)
    except BackendError as error:
        problems.append(Problem(document.place(("backend", "type")), error.failure.message, error.failure.detail))
        return None
    return _ChosenBackend(backend_class, options, capabilities)


def _space(document: Document, capabilities: Capabilities | None, problems: list[Problem]) -> SearchSpace | None:
    written = document.value.get("space")
    if written is None and capabilities is not None:
        written = _declared_space(capabilities)
        if not written:
            hint = "add `space: {n_epochs: recommended}`, or whatever is to be tried"
            problems.append(Problem(document.place(("space",)), "`space` is missing", hint))
    if not isinstance(written, dict):
        return None  # the model of the whole file reports it
    try:
        return SearchSpace.parse(written)
    except SpaceError as error:
        problems += space_problems(error, document)
        return None


def _declared_space(capabilities: Capabilities) -> dict[str, Any]:
    """Return the space that the backend's own declarations describe."""
    space: dict[str, Any] = {}
    for declared in capabilities.hyperparameters:
        if declared.searched and declared.choices is not None:
            space[declared.name] = list(declared.choices)
        elif declared.searched and declared.low is not None and declared.high is not None:
            space[declared.name] = {"low": declared.low, "high": declared.high, "log": declared.log}
    return space
