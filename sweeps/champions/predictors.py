"""Opens a model for prediction: a version of a registered model, or the best model of a sweep."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from backends.contract import Backend, BackendError, Placement, PredictOptions
from backends.guarded_backend import open_guarded
from sweeps.data.findings import nearest_hint
from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.spec.loading import load
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study import state
from sweeps.tracking import reachability
from sweeps.tracking.registry import RegisteredVersion, Registry
from sweeps.tracking.served_card import ServedCard
from sweeps.workspace import Workspace


class Predictor(Protocol):
    """A model that predicts rows with the columns of its card."""

    @property
    def card(self) -> ServedCard:
        """The columns that it needs, and the names of its labels."""
        ...

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return `label`, `probability` and `probability.<label>` of each row.

        Without labels, `label` is the generated text, and `truncated` may say whether it ended
        because it became too long. Raises SweepError if the model cannot predict.
        """
        ...


@runtime_checkable
class CountsCutPrompts(Protocol):
    """A predictor that knows of how many prompts the model read only a part."""

    cut_prompts: int


@contextmanager
def open_predictor(
    name: str,
    version: str | None,
    workspace: Workspace,
    tracking_uri: str,
    storage: str | None,
    max_tokens: int | None = None,
) -> Iterator[tuple[Predictor, str]]:
    """Yield the predictor for a name and a description of it, and close it at the end.

    It is the champion of the registered model `name`, or its `version`. Without a champion it is
    the best model of the sweep `name`, whose texts have at most `max_tokens` tokens. `storage` is
    as in `read_state`. Raises UserInputError if there is neither, or if the version does not exist.
    """
    database = reachability.sqlite_path(tracking_uri)
    registry = None if database is not None and not database.exists() else Registry(tracking_uri)
    versions = registry.versions(name) if registry is not None else []
    if registry is not None and versions:
        chosen = registry.champion(name) if version is None else _numbered(versions, name, version)
        if chosen is not None:
            if version is None:
                yield registry.load(chosen), f"the champion of {name} (version {chosen.number})"
            else:
                yield registry.load(chosen), f"version {chosen.number} of {name}"
            return
    if version is not None:
        hint = "--version selects a version of a registered model"
        raise UserInputError([Problem(name, "there is no registered model of this name", hint)])
    if name not in workspace.sweep_names():
        raise _unknown_name(name, workspace, registry, is_registered=bool(versions))
    with _open_best_of_sweep(name, workspace, storage, max_tokens) as (predictor, description):
        note = f" ({name} has no champion yet)" if versions else ""
        yield predictor, description + note


def _numbered(versions: Sequence[RegisteredVersion], name: str, number: str) -> RegisteredVersion:
    for version in versions:
        if version.number == number:
            return version
    numbers = ", ".join(version.number for version in reversed(versions))
    raise UserInputError([Problem(name, f"has no version {number}", f"its versions are {numbers}")])


def _unknown_name(name: str, workspace: Workspace, registry: Registry | None, *, is_registered: bool) -> UserInputError:
    if is_registered:
        hint = f"`sweep champion history {name}` shows why; select a version by --version"
        return UserInputError([Problem(name, "this registered model has no champion yet", hint)])
    known = [*(registry.model_names() if registry is not None else ()), *workspace.sweep_names()]
    message = "there is neither a registered model nor a sweep of this name"
    return UserInputError([Problem(name, message, nearest_hint(name, known))])


class _BestOfSweep:
    """The best model of a sweep. The backend that trained it predicts."""

    def __init__(self, card: ServedCard, backend: Backend, model: str, options: PredictOptions) -> None:
        self.card = card
        self.cut_prompts = 0
        self._backend = backend
        self._model = model
        self._labels = options.labels or ()
        self._options = options

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        lines = [self.card.line_of_row(row) for row in rows]
        try:
            predictions = self._backend.predict(self._model, lines, self._options)
        except BackendError as error:
            raise SweepError(error.failure.message, error.failure.detail) from error
        self.cut_prompts += sum(prediction.prompt_cut for prediction in predictions)
        if not self._labels:
            return [{"label": prediction.text, "truncated": prediction.truncated} for prediction in predictions]
        return [self._columns(prediction.text, prediction.label_logprobs) for prediction in predictions]

    def _columns(self, text: str, logprobs: Sequence[float] | None) -> dict[str, Any]:
        index = self._labels.index(text) if text in self._labels else None
        columns: dict[str, Any] = {"label": text if index is None else self.card.label_names[index]}
        probabilities = _probabilities(logprobs, len(self._labels))
        columns["probability"] = None if index is None else probabilities[index]
        for name, probability in zip(self.card.label_names, probabilities, strict=True):
            columns[f"probability.{name}"] = probability
        return columns


def _probabilities(logprobs: Sequence[float] | None, count: int) -> list[float | None]:
    if logprobs is None:
        return [None] * count
    weights = [math.exp(logprob - max(logprobs)) for logprob in logprobs]
    return [weight / sum(weights) for weight in weights]


def _options(sweep: state.SweepState, spec: SweepSpec, max_tokens: int | None) -> PredictOptions:
    """Return how the best model of a sweep answers: by its labels, else as the sweep generated."""
    labels, stop = tuple(sweep.plan["data"]["labels"]), str(sweep.plan["data"]["stop"])
    if labels and spec.objective_metric is None:
        return PredictOptions(labels=labels, stop=stop)
    decoding = spec.evaluation.generate.decoding
    if sweep.finals is not None and sweep.finals.decodings:
        decoding = sweep.finals.decodings[0][0]
    if max_tokens is not None:
        decoding = replace(decoding, max_tokens=max_tokens)
    return PredictOptions.generate(decoding, stop)


@contextmanager
def _open_best_of_sweep(
    name: str, workspace: Workspace, storage: str | None, max_tokens: int | None
) -> Iterator[tuple[Predictor, str]]:
    sweep = state.read_state(workspace, name, storage)
    best, data = sweep.best, sweep.plan["data"]
    if best is None or best.model is None:
        raise SweepError(f"sweep `{name}` has no model yet", f"`sweep status {name}` shows its progress.")
    if "prompt" not in data:
        message = f"an earlier version of finesweep ran sweep `{name}` and did not store its prompt template"
        raise SweepError(message, "Run it again: `sweep run FILE --fresh`.")
    spec = load(workspace.sweep_folder(name) / "sweep.yaml")
    if not spec.capabilities.can_predict:
        message = f"models of backend `{spec.backend_type}` cannot predict here"
        raise SweepError(message, "Use them where the backend keeps them.")
    card = ServedCard.for_labels(tuple(data["labels"]), data["stop"], data["prompt"], data["separator"])
    try:
        placement = Placement(os.cpu_count() or 1)
        backend = open_guarded(spec.backend_class, spec.backend_options, workspace.sweep_folder(name), placement)
    except BackendError as error:
        raise SweepError(error.failure.message, error.failure.detail) from error
    try:
        predictor = _BestOfSweep(card, backend, best.model, _options(sweep, spec, max_tokens))
        yield predictor, f"{state.describe_best(best)} of sweep {name}"
    finally:
        backend.close()
