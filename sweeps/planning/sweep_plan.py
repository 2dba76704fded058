"""SweepPlan: a sweep that could start now, with every choice resolved and its cost estimated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from backends import codec
from backends.contract import Backend, Estimate, EvaluationSettings, Placement, TrainingRequest
from backends.example_report import TokenLengths
from backends.guarded_backend import open_guarded
from backends.memory_forecast.forecast import MemoryForecast
from backends.metrics.contract import CostBound as MeasurementBound
from backends.rendering import RenderedExample
from search_spaces.space import ResolvedParameter, ResolvedSpace, SpaceError, SpaceProblem
from search_spaces.usual_names import role_of
from sweeps.data import Finding, PreparedData
from sweeps.spec.checks import EXTREME_SIZES
from sweeps.spec.space import space_limits
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study.steering import Change
from sweeps.trials.budget import Amount, cost_bound, finals_reservation, known_amount, total
from sweeps.trials.trial import Trial
from sweeps.verdicts.advice import EPOCHS

KEPT_MODELS = 3
"""Trials whose models stay on disk: the best, and the runners-up that the finals may promote."""


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that could start now.

    `estimate` is for one trial at the centre of the space, `most_expensive` for the most expensive
    trial at the centre: the most epochs and the most expensive base model. Both are None if the
    backend was not asked for estimates. They include the cost of the task metrics, of which
    `measurement_bound` is the most that one measurement can cost. `memory` is the forecast for the
    trial of `estimate`, and `most_memory` that of the trial that needs most. `example` is a
    training example as the backend trains it, None if it does not show any. `token_lengths` are
    those of the examples by part, empty if the backend does not count them, and `max_length` is the
    most tokens of one example, if it is known.
    """

    spec: SweepSpec
    data: PreparedData
    space: ResolvedSpace
    base_model: str
    evaluation: EvaluationSettings
    concurrency: int
    placement: Placement
    folder: Path
    estimate: Estimate | None
    findings: tuple[Finding, ...]
    fingerprint: str
    most_expensive: Estimate | None = None
    measurement_bound: MeasurementBound | None = None
    memory: MemoryForecast | None = None
    most_memory: MemoryForecast | None = None
    example: RenderedExample | None = None
    token_lengths: Mapping[str, TokenLengths] = field(default_factory=dict)
    max_length: int | None = None

    @property
    def max_epochs(self) -> float:
        """The most epochs that a trial can train, 1 if no hyperparameter says it."""
        epochs = next((parameter for parameter in self.space if role_of(parameter.name) == EPOCHS), None)
        if epochs is None:
            accepted = self.spec.capabilities.hyperparameters
            declared = next((known for known in accepted if role_of(known.name) == EPOCHS), None)
            return float(declared.default) if declared and isinstance(declared.default, int) else 1.0
        return float(max(extreme_values(epochs)))

    @property
    def pays_for_metrics(self) -> bool:
        """Whether measuring the task metrics costs money."""
        return any(not metric.declaration.is_free for metric in self.spec.task_metrics)

    def with_metric_costs(self, estimate: Estimate, request: TrainingRequest) -> Estimate:
        """Add what measuring the task metrics of a trial can cost.

        Training in this process costs no money, so that the metrics are then all that is paid.
        """
        if not self.pays_for_metrics or self.measurement_bound is None:
            return estimate
        times = self._measurements(request)
        each_usd, is_free = self.measurement_bound.usd, self.spec.capabilities.trains_on_worker
        training = [0.0 if usd is None and is_free else usd for usd in (estimate.usd, cost_bound(estimate).usd)]
        usd, max_usd = (None if cost is None or each_usd is None else cost + times * each_usd for cost in training)
        counted = "one measurement" if times == 1 else f"up to {times} measurements"
        basis = f"{estimate.basis}; {counted} by metrics that cost money"
        return replace(estimate, usd=usd, max_usd=max_usd, basis=basis)

    def _measurements(self, request: TrainingRequest) -> int:
        """Return how often a trial measures its task metrics at most, the base model included."""
        if self.spec.capabilities.task_metrics_at_end:
            return 1
        n_epochs = request.hyperparameters.get("n_epochs", self.max_epochs)
        return int(float(n_epochs) * self.spec.evaluation.generate.per_epoch) + 1

    @property
    def max_disk_bytes(self) -> int | None:
        """An upper bound on the disk space that the models take while the sweep runs."""
        if self.estimate is None or self.estimate.disk_bytes is None:
            return None
        return self.estimate.disk_bytes * (KEPT_MODELS + self.final_trials + 2 * self.concurrency)

    @property
    def max_usd(self) -> float | None:
        """The cost if every trial costs as much as the most expensive one, capped by the budget.

        None where the cost of a trial is unknown.
        """
        trial_usd = None if self.most_expensive is None else cost_bound(self.most_expensive).usd
        if trial_usd is None:
            return None
        sweep_usd = trial_usd * (self.spec.search.trials + self.final_trials)
        return sweep_usd if self.spec.budget.usd is None else min(sweep_usd, self.spec.budget.usd)

    @property
    def required_budget(self) -> Amount:
        """The cost bound of the first trial plus the reservation for the finals.

        With a smaller budget the sweep could not start. Zero where the cost is unknown.
        """
        if self.estimate is None:
            return Amount()
        finals, bound = self.spec.finals, cost_bound(self.estimate)
        first_trial = replace(Trial(0, "plan", self.base_model, {}, 0), cost_bound=bound)
        reserved = Amount() if finals is None else finals_reservation((), first_trial, finals.candidates, finals.seeds)
        return total((known_amount(bound), reserved))

    @property
    def seconds_without_early_stopping(self) -> float | None:
        """The expected wall time if every trial takes as long as the one at the centre."""
        if self.estimate is None or self.estimate.seconds is None:
            return None
        rounds = -(-self.spec.search.trials // self.concurrency) + -(-self.final_trials // self.concurrency)
        return rounds * self.estimate.seconds

    @property
    def final_trials(self) -> int:
        """The number of trials in the finals, which come after those of the search."""
        finals = self.spec.finals
        return 0 if finals is None else min(finals.candidates, self.spec.search.trials) * finals.seeds

    def steered_space(self, changes: Sequence[Change]) -> ResolvedSpace:
        """Return the space with its ranges moved.

        Where two changes concern one range, the later one counts.
        """
        ends = {change.parameter: (change.low, change.high) for change in changes}
        return resolve_space(self.spec, self.data, ends)

    @property
    def steering_bounds(self) -> dict[str, tuple[float | None, float | None]]:
        """How far steering may move each range: the backend's limits and the file's `bounds`."""
        bounds = {}
        for hyperparameter in self.spec.capabilities.hyperparameters:
            low, high = self.spec.bounds.get(hyperparameter.name, (None, None))
            lows = [end for end in (hyperparameter.low, low) if end is not None]
            highs = [end for end in (hyperparameter.high, high) if end is not None]
            bounds[hyperparameter.name] = (max(lows, default=None), min(highs, default=None))
        return bounds

    @property
    def advice_limits(self) -> dict[str, tuple[float | None, float | None]]:
        """How far advice may go.

        Without a `space:`, the ranges that the file declares for a program are what the sweep
        searches, and not what the program accepts.
        """
        limits = self.steering_bounds
        if self.spec.file.space is None:
            for hyperparameter in self.spec.capabilities.hyperparameters:
                if hyperparameter.searched:
                    limits[hyperparameter.name] = self.spec.bounds.get(hyperparameter.name, (None, None))
        return limits

    def request(self, trial: Trial) -> TrainingRequest:
        """Return the request that asks the backend to train this trial, with absolute paths."""
        return TrainingRequest(
            key=trial.key,
            base_model=self.spec.absolute_model(trial.base_model),
            dataset=self.data.dataset,
            hyperparameters=self.spec.absolute_point(trial.hyperparameters),
            seed=trial.seed,
            evaluation=self.evaluation,
        )

    def open_backend(self) -> Backend:
        """Connect to the backend, as a trial does. Raises BackendError, and no other exception."""
        return open_guarded(self.spec.backend_class, self.spec.backend_options, self.folder, self.placement)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values, for people and programs. It contains no secret."""
        champion = self.spec.champion
        return {
            "name": self.spec.name,
            "fingerprint": self.fingerprint,
            "backend": {"type": self.spec.backend_type, **self.spec.backend_options.model_dump(mode="json")},
            "base_model": self.base_model,
            "data": _data_json(self.data),
            "space": self.space.to_json(),
            "objectives": [objective.model_dump(exclude_none=True) for objective in self.spec.objectives],
            "search": self.spec.search.model_dump(),
            "finals": None if self.spec.finals is None else self.spec.finals.model_dump(),
            "champion": None if champion is None else {**champion.model_dump(), "model": self.spec.registered_model},
            "concurrency": self.concurrency,
            "placement": {"cpus": self.placement.cpus, "gpus": self.placement.gpus},
            "evaluation": self._evaluation_json(),
            "steering": self.spec.steering,
            "bounds": {name: list(ends) for name, ends in self.spec.bounds.items()},
            "limits": {name: list(ends) for name, ends in self.advice_limits.items()},
            "budget": self.spec.budget.model_dump(),
            "estimate": None if self.estimate is None else self._estimate_json(self.estimate),
            "memory": None if self.memory is None else self._memory_json(self.memory),
            "token_lengths": {part: codec.to_json(lengths) for part, lengths in self.token_lengths.items()},
            "max_length": self.max_length,
            "findings": [codec.to_json(finding) for finding in self.findings],
        }

    def _evaluation_json(self) -> dict[str, Any]:
        written: dict[str, Any] = {
            "per_epoch": self.evaluation.per_epoch,
            "train_examples": self.evaluation.train_examples,
        }
        if self.evaluation.generation is not None:
            written["metrics"] = [codec.to_json(metric) for metric in self.evaluation.metrics]
            written["generate"] = codec.to_json(self.evaluation.generation)
        return written

    def _estimate_json(self, estimate: Estimate) -> dict[str, Any]:
        return {
            "tokens_per_trial": estimate.tokens,
            "seconds_per_trial": estimate.seconds,
            "usd_per_trial": estimate.usd,
            "usd_per_trial_at_most": None if self.most_expensive is None else cost_bound(self.most_expensive).usd,
            "usd_at_most": self.max_usd,
            "disk_bytes_at_most": self.max_disk_bytes,
            "seconds_without_early_stopping": self.seconds_without_early_stopping,
            "basis": estimate.basis,
        }

    def _memory_json(self, memory: MemoryForecast) -> dict[str, Any]:
        return {
            "bytes_per_trial": memory.peak_bytes,
            "bytes_per_trial_at_most": None if self.most_memory is None else self.most_memory.peak_bytes,
            "device_bytes": memory.available_bytes,
            "micro_batch_size": memory.micro_batch_size,
            "sequence_length": memory.sequence_length,
            "parts": dict(memory.parts),
        }


def resolve_space(
    spec: SweepSpec, data: PreparedData, ends: Mapping[str, tuple[float, float]] | None = None
) -> ResolvedSpace:
    """Resolve the space for this training set and backend.

    `ends` replaces the written ends of ranges.

    Raises SpaceError, also where the space depends on the size of a training set that is unknown.
    """
    limits, scope = space_limits(spec.capabilities), spec.capabilities.recommendation_scope
    if examples := data.dataset.train.examples:
        return spec.space.resolve(examples, limits, scope, ends or {})
    small, large = (spec.space.resolve(size, limits, scope, ends or {}) for size in EXTREME_SIZES)
    hint = "write numbers, or say how many examples the program has: `backend: {examples: {train: N}}`"
    problems = [
        SpaceProblem((parameter.name,), f"{parameter.name} depends on the size of the training set", hint)
        for parameter in small.parameters
        if (other := large.parameter(parameter.name)) is None
        or (parameter.distribution, parameter.fixed) != (other.distribution, other.fixed)
    ]
    if problems:
        raise SpaceError(problems)
    return small


def extreme_values(parameter: ResolvedParameter) -> tuple[Any, ...]:
    """Return both ends of a range, or all choices, or the fixed value."""
    match parameter.distribution:
        case None:
            return (parameter.fixed,)
        case CategoricalDistribution(choices=choices):
            return tuple(choices)
        case IntDistribution(low=low, high=high) | FloatDistribution(low=low, high=high):
            return (low, high)
        case other:
            raise TypeError(f"unknown distribution {other!r}")


def _data_json(data: PreparedData) -> dict[str, Any]:
    return {
        "name": data.name,
        "source": data.source,
        "fallback_from": data.fallback_from,
        "origins": dict(data.origins),
        "task": data.task,
        "labels": list(data.dataset.labels),
        "label_counts": {part: dict(counts) for part, counts in data.label_counts.items()},
        "separator": data.separator,
        "stop": data.dataset.stop,
        "prompt": data.prompt,
        "train_on": data.dataset.train_on,
        "conversations": None if data.conversations is None else codec.to_json(data.conversations),
        "baselines": None if data.baselines is None else codec.to_json(data.baselines),
        "digests": dict(data.digests),
        "fingerprint": data.fingerprint,
        "training_examples": data.dataset.train.examples,
        "validation_examples": data.dataset.valid.examples,
        "test_examples": data.test.examples if data.test is not None else 0,
    }
