"""The part of planning that touches the world: read the data, count the CPUs, ask the backend.

Decides nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from backends.contract import Backend, BackendError, Estimate, Failure, MetricRequest, TrainingRequest
from backends.example_report import ExampleReport, SupportsExampleReport
from backends.memory_forecast.forecast import MemoryForecast, SupportsMemoryForecast
from backends.rendering import RenderedExample, SupportsRendering
from sweeps.data import PreparedData, prepare
from sweeps.data.findings import FaultyDataError
from sweeps.data.repairs.advice import prepare_command
from sweeps.data.spec import DataSpec
from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.planning.decisions import BackendAnswers, probe_requests
from sweeps.planning.definition_changes import DefinitionChange, definition_changes
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.loading import read_section
from sweeps.spec.yaml_source import Document


class BackendOutOfReachError(SweepError):
    """The backend gave no answer; it may give one later."""


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_data(
    spec: DataSpec,
    document: Document,
    root: Path,
    data_path: Path | None,
    *,
    keep_rows: bool = False,
    metrics: Sequence[MetricRequest] = (),
) -> PreparedData:
    """Prepare the data below `root`. Problems and findings about the `data:` section get its lines.

    With `keep_rows`, the examples to evaluate keep their columns, for task metrics. `metrics` also
    score the baselines of free text. Raises UserInputError.
    """
    try:
        data = prepare(spec, root, data_path, keep_rows=keep_rows, metrics=metrics)
    except FaultyDataError as error:
        found = (replace(finding, place=_line_in_file(finding.place, document)) for finding in error.findings)
        raise FaultyDataError(found, prepare_command(error.findings, spec, data_path)) from None
    except UserInputError as error:
        placed = [replace(problem, place=_line_in_file(problem.place, document)) for problem in error.problems]
        raise UserInputError(placed) from None
    findings = [replace(finding, place=_line_in_file(finding.place, document)) for finding in data.findings]
    return replace(data, findings=tuple(findings))


def data_problems(document: Document, root: Path, data_path: Path | None) -> Sequence[Problem]:
    """Return the problems of the data for a file that is wrong elsewhere.

    It does not ask the Hugging Face hub, and does without the checks that take seconds.
    """
    spec: DataSpec | None = read_section(document, "data")
    if spec is None or (data_path is None and (spec.source == "snli" or spec.source.startswith("hf:"))):
        return ()
    try:
        read_data(spec.model_copy(update={"checks": "quick"}), document, root, data_path)
    except UserInputError as error:
        return error.problems
    return ()


def ask_backend(plan: SweepPlan, *, estimate: bool) -> BackendAnswers:
    """Ask the backend whether it would accept the trials and, with `estimate`, what they take.

    It is not asked for estimates if it rejects a request. Raises SweepError if the backend is out
    of reach.
    """
    requests = probe_requests(plan)
    try:
        backend = plan.open_backend()
    except BackendError as error:
        raise SweepError(error.failure.message, error.failure.detail) from error
    with closing(backend):
        failures: list[Failure] = []
        for request in (*requests.central, *requests.texts):
            for failure in _check(backend, request):
                if failure.kind.retryable:  # the backend is out of reach, for the other requests too
                    raise BackendOutOfReachError(failure.message, failure.detail or "try again later")
                failures.append(failure)
        if failures:
            return BackendAnswers(tuple(failures))
        example = _rendered(backend, requests.central[0]) if isinstance(backend, SupportsRendering) else None
        reports = _reports(plan, backend, requests.central) if isinstance(backend, SupportsExampleReport) else {}
        if not estimate:
            return BackendAnswers(example=example, reports=reports)
        forecasts: list[MemoryForecast | None] = [None] * len(requests.central)
        most_memory = None
        if isinstance(backend, SupportsMemoryForecast):
            forecasts = [_memory(backend, request) for request in requests.central]
            most_memory = _most_memory(backend, requests.memory)
        # An estimate may train a few steps, and trials that do not fit fail before they start.
        fitting = _fitting(forecasts)
        if not fitting:
            failures = [forecast.failure for forecast in forecasts if forecast is not None and forecast.failure]
            return BackendAnswers(tuple(failures))
        return BackendAnswers(
            memory=forecasts[fitting[0]],
            most_memory=most_memory,
            central=_estimate(plan, backend, requests.central[fitting[0]]),
            longest=tuple(_estimate(plan, backend, requests.longest[number]) for number in fitting),
            example=example,
            reports=reports,
        )


def changes_since_last_run(plan: SweepPlan) -> tuple[DefinitionChange, ...]:
    """Compare the plan with the one that the sweep's last run stored in its folder.

    Empty if there is none, or if it cannot be read.
    """
    try:
        stored = json.loads((plan.folder / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    if not isinstance(stored, dict):
        return ()
    new = json.loads(json.dumps(plan.to_json(), default=str))
    written_options = plan.spec.written_options.model_dump(mode="json")
    return definition_changes(stored, new, written_options, plan.spec.price_options)


def _check(backend: Backend, request: TrainingRequest) -> Sequence[Failure]:
    try:
        return backend.check(request)
    except BackendError as error:
        raise SweepError(error.failure.message, error.failure.detail) from error


def _rendered(backend: SupportsRendering, request: TrainingRequest) -> RenderedExample:
    try:
        return backend.render(request)
    except BackendError as error:
        raise SweepError(error.failure.message, error.failure.detail) from error


def _reports(
    plan: SweepPlan, backend: SupportsExampleReport, requests: Sequence[TrainingRequest]
) -> dict[str, ExampleReport]:
    try:
        return {request.base_model: backend.report_examples(request, plan.data.test) for request in requests}
    except BackendError as error:
        raise SweepError(error.failure.message, error.failure.detail) from error


def _estimate(plan: SweepPlan, backend: Backend, request: TrainingRequest) -> Estimate:
    try:
        return plan.with_metric_costs(backend.estimate(request), request)
    except BackendError as error:
        raise SweepError(error.failure.message, error.failure.detail) from error


def _fitting(forecasts: Sequence[MemoryForecast | None]) -> list[int]:
    """Return the numbers of the forecasts of trials that may fit into memory."""
    return [number for number, forecast in enumerate(forecasts) if forecast is None or forecast.failure is None]


def _memory(backend: SupportsMemoryForecast, request: TrainingRequest) -> MemoryForecast | None:
    try:
        return backend.memory_forecast(request)
    except BackendError as error:
        raise SweepError(error.failure.message, error.failure.detail) from error


def _most_memory(
    backend: SupportsMemoryForecast, requests: Sequence[TrainingRequest]
) -> tuple[TrainingRequest, MemoryForecast] | None:
    """Return the request that needs most memory, with its forecast; None if none is known."""
    found = [(request, forecast) for request in requests if (forecast := _memory(backend, request)) is not None]
    return max(found, key=lambda pair: pair[1].peak_bytes, default=None)


def _line_in_file(place: str, document: Document) -> str:
    return document.place(tuple(place.split("."))) if place.startswith("data.") else place
