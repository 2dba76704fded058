"""spec x data x space x capabilities -> SweepPlan: everything resolved, checked and estimated; nothing is started."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from backends.contract import (
    Backend,
    BackendError,
    Estimate,
    Evaluation,
    Placement,
    Scalar,
    TrainingRequest,
)
from search_spaces.space import ResolvedParameter, ResolvedSpace, SpaceError
from sweeps.data import Finding, PreparedData, prepare
from sweeps.data.findings import warning
from sweeps.data.spec import DataSpec
from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.planning.champion_checks import champion_problems
from sweeps.spec.sweep_spec import NO_COUNT, NO_PRICE, SweepSpec, from_document, limits, section, space_problems
from sweeps.spec.yaml_source import Document, read, with_overrides
from sweeps.study.steering import Change
from sweeps.trials.budget import Amount, at_most, covers, finals_reservation, known_part, total, within
from sweeps.trials.trial import Trial
from sweeps.workspace import Workspace

DEFAULT_SERVICE_CONCURRENCY = 4
"""Trials at once on a service that names no limit of its own."""

KEPT_MODELS = 3
"""So many trials' models stay on disk: the best, and the runners-up that a repetition may promote."""


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that could start now. `estimate` is of one trial at the space's centre, or None where not asked for.

    `most_expensive` is of the trial at the centre with the most epochs and the dearest model, where `estimate` is there.
    """

    spec: SweepSpec
    data: PreparedData
    space: ResolvedSpace
    base_model: str
    evaluation: Evaluation
    concurrency: int
    placement: Placement
    folder: Path
    estimate: Estimate | None
    findings: tuple[Finding, ...]
    fingerprint: str
    most_expensive: Estimate | None = None

    @property
    def max_epochs(self) -> float:
        """The most epochs that a trial can train."""
        epochs = self.space.parameter("n_epochs")
        if epochs is None:
            declared = self.spec.capabilities.hyperparameter("n_epochs")
            return float(declared.default) if declared and isinstance(declared.default, int) else 1.0
        return float(max(_values(epochs)))

    @property
    def max_disk_bytes(self) -> int | None:
        """An upper bound of the disk that the sweep's models take while it runs."""
        if self.estimate is None or self.estimate.disk_bytes is None:
            return None
        return self.estimate.disk_bytes * (KEPT_MODELS + self.final_trials + 2 * self.concurrency)

    @property
    def max_usd(self) -> float | None:
        """What the sweep costs if each trial is as dear as one can be, or the limit if that is less. None: unknown."""
        most = None if self.most_expensive is None else at_most(self.most_expensive).usd
        if most is None:
            return None
        every = most * (self.spec.search.trials + self.final_trials)
        return every if self.spec.budget.usd is None else min(every, self.spec.budget.usd)

    @property
    def least(self) -> Amount:
        """What the first trial may take together with the finals that it must leave room for; nothing if unknown."""
        if self.estimate is None:
            return Amount()
        finals, bound = self.spec.finals, at_most(self.estimate)
        asked = replace(Trial(0, "plan", self.base_model, {}, 0), at_most=bound)
        kept_back = Amount() if finals is None else finals_reservation((), asked, finals.candidates, finals.seeds)
        return total((known_part(bound), kept_back))

    @property
    def seconds(self) -> float | None:
        """Expected wall time without early stopping: every trial taken as long as the one at the centre."""
        if self.estimate is None or self.estimate.seconds is None:
            return None
        rounds = -(-self.spec.search.trials // self.concurrency) + -(-self.final_trials // self.concurrency)
        return rounds * self.estimate.seconds

    @property
    def final_trials(self) -> int:
        """How many trials the finals have, after those of the search."""
        finals = self.spec.finals
        return 0 if finals is None else min(finals.candidates, self.spec.search.trials) * finals.seeds

    def steered(self, changes: Sequence[Change]) -> ResolvedSpace:
        """Return the space with its ranges moved; of two changes of a range the later one counts."""
        return _resolved(self.spec, self.data, {each.parameter: (each.low, each.high) for each in changes})

    @property
    def steering_bounds(self) -> dict[str, tuple[float | None, float | None]]:
        """How far steering may move each range: what the backend accepts, within the file's `bounds`."""
        steering_bounds = {}
        for each in self.spec.capabilities.hyperparameters:
            low, high = self.spec.bounds.get(each.name, (None, None))
            lows, highs = ([end for end in ends if end is not None] for ends in ((each.low, low), (each.high, high)))
            steering_bounds[each.name] = (max(lows, default=None), min(highs, default=None))
        return steering_bounds

    def request(self, trial: Trial) -> TrainingRequest:
        """Return what the backend is asked to train for this trial."""
        return TrainingRequest(
            key=trial.key,
            base_model=trial.base_model,
            dataset=self.data.dataset,
            hyperparameters=trial.hyperparameters,
            seed=trial.seed,
            evaluation=self.evaluation,
        )

    def open_backend(self) -> Backend:
        """Connect to the backend, as a trial does."""
        return self.spec.backend_class.open(self.spec.backend_options, self.folder, self.placement)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values, for people and machines; no secret is in it."""
        estimate = self.estimate
        return {
            "name": self.spec.name,
            "fingerprint": self.fingerprint,
            "backend": {"type": self.spec.backend_type, **self.spec.backend_options.model_dump(mode="json")},
            "base_model": self.base_model,
            "data": _summary(self.data),
            "space": self.space.to_json(),
            "objectives": [each.model_dump(exclude_none=True) for each in self.spec.objectives],
            "search": self.spec.search.model_dump(),
            "finals": None if self.spec.finals is None else self.spec.finals.model_dump(),
            "champion": None
            if self.spec.champion is None
            else {**self.spec.champion.model_dump(), "model": self.spec.registered_model},
            "concurrency": self.concurrency,
            "placement": {"cpus": self.placement.cpus, "gpus": self.placement.gpus},
            "evaluation": {"per_epoch": self.evaluation.per_epoch, "train_examples": self.evaluation.train_examples},
            "steering": self.spec.steering,
            "bounds": {name: list(ends) for name, ends in self.spec.bounds.items()},
            "budget": self.spec.budget.model_dump(),
            "estimate": None
            if estimate is None
            else {
                "tokens_per_trial": estimate.tokens,
                "seconds_per_trial": estimate.seconds,
                "usd_per_trial": estimate.usd,
                "usd_per_trial_at_most": None if self.most_expensive is None else at_most(self.most_expensive).usd,
                "usd_at_most": self.max_usd,
                "disk_bytes_at_most": self.max_disk_bytes,
                "seconds_without_early_stopping": self.seconds,
                "basis": estimate.basis,
            },
            "findings": [
                {"severity": each.severity, "place": each.place, "message": each.message, "hint": each.hint}
                for each in self.findings
            ],
        }


def plan_file(
    file: Path, overrides: Sequence[str], workspace: Workspace, located: Path | None = None, *, estimate: bool = True
) -> SweepPlan:
    """Read a sweep file and plan it; see `make_plan`. Mistakes in its form and in its data are told together."""
    document = with_overrides(read(file), overrides)
    try:
        spec = from_document(document)
    except UserInputError as error:
        raise UserInputError([*error.problems, *_data_problems(document, workspace, located)]) from None
    return make_plan(spec, workspace, located, estimate=estimate)


def make_plan(
    spec: SweepSpec, workspace: Workspace, located: Path | None = None, *, estimate: bool = True
) -> SweepPlan:
    """Prepare the data, resolve the space and ask the backend whether it would accept the trials.

    `located` is where the user says that the data is. With `estimate`, and where the file limits money or tokens, the
    backend also says what trials take, which may need seconds. Raises UserInputError with every problem found,
    SweepError where something is out of reach.
    """
    data = _prepared(spec.data, spec.document, workspace.root, located)
    problems: list[Problem] = []
    space = None
    try:
        space = _resolved(spec, data, {})
        if spec.search.sampler == "grid":
            space.grid()  # raises where the space has no grid
    except SpaceError as error:
        problems += space_problems(error, spec.document)
    problems += _objective_problems(spec, data)
    problems += champion_problems(spec, data)
    if problems or space is None:
        raise UserInputError(problems)

    concurrency, placement = _place(spec)
    base_model = str(spec.backend_options.model_dump().get("model", ""))
    plan = SweepPlan(
        spec=spec,
        data=data,
        space=space,
        base_model=base_model,
        evaluation=Evaluation(
            per_epoch=spec.evaluation.per_epoch,
            train_examples=spec.evaluation.train_examples,
            keep_metric=spec.objective.metric,
            keep_maximum=spec.objective.direction == "maximize",
        ),
        concurrency=concurrency,
        placement=placement,
        folder=workspace.sweep(spec.name),
        estimate=None,
        findings=(*data.findings, *_left_out(spec, space)),
        fingerprint=_fingerprint(spec, data, space),
    )
    with closing(_opened(plan)) as backend:
        for request in _probes(plan):
            problems += [
                Problem(spec.document.place(("backend",)), each.message, each.detail) for each in backend.check(request)
            ]
        if problems:
            raise UserInputError(dict.fromkeys(problems))
        if not estimate and not spec.budget.limits_spend:
            return plan
        plan = replace(
            plan, estimate=_estimated(backend, next(iter(_probes(plan)))), most_expensive=_dearest(plan, backend)
        )
    if problems := list(_limit_problems(plan)):
        raise UserInputError(problems)
    return plan


def _data_problems(document: Document, workspace: Workspace, located: Path | None) -> Sequence[Problem]:
    """What is wrong with the data of a file that is wrong elsewhere, as far as that is seen without asking the hub."""
    spec: DataSpec | None = section(document, "data")
    if spec is None or (located is None and (spec.source == "snli" or spec.source.startswith("hf:"))):
        return ()
    try:
        _prepared(spec, document, workspace.root, located)
    except UserInputError as error:
        return error.problems
    return ()


def _prepared(spec: DataSpec, document: Document, root: Path, located: Path | None) -> PreparedData:
    """Prepare the data; what the sweep file says wrongly of them gets its line there. Raises UserInputError."""
    try:
        data = prepare(spec, root, located)
    except UserInputError as error:
        raise UserInputError(replace(each, place=_in_file(each.place, document)) for each in error.problems) from None
    return replace(data, findings=tuple(replace(each, place=_in_file(each.place, document)) for each in data.findings))


def _in_file(place: str, document: Document) -> str:
    return document.place(tuple(place.split("."))) if place.startswith("data.") else place


def _resolved(spec: SweepSpec, data: PreparedData, ends: Mapping[str, tuple[float, float]]) -> ResolvedSpace:
    """Resolve the space; `ends` take the place of the written ends of ranges. Raises SpaceError."""
    capabilities = spec.capabilities
    examples, scope = data.dataset.train.examples, capabilities.recommendation_scope
    return spec.space.resolve(examples, limits(capabilities), scope, ends)


def _left_out(spec: SweepSpec, space: ResolvedSpace) -> Iterable[Finding]:
    for name in space.left_out:
        place = spec.document.place(("space", name))
        yield warning("optional-left-out", place, f"{name} is left out: this backend and model have no such thing")


def with_gpus(plan: SweepPlan, available: float) -> SweepPlan:
    """Give each in-process trial a GPU where there are any and the file does not say otherwise.

    Raises SweepError where the file asks for more than there is.
    """
    wanted = plan.spec.resources.gpus_per_trial
    if wanted is not None:
        if wanted > available:
            hint = "set `resources: {gpus_per_trial: 0}`, or give `--address` of a Ray cluster that has GPUs"
            raise SweepError(f"a trial needs {wanted:g} GPU, and Ray sees {available:g}", hint)
        return plan
    if available < 1 or not plan.spec.capabilities.in_process:
        return plan
    concurrency = plan.spec.search.concurrency or int(available)
    return replace(plan, concurrency=concurrency, placement=replace(plan.placement, gpus=1.0))


def _summary(data: PreparedData) -> dict[str, Any]:
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
        "digests": dict(data.digests),
        "fingerprint": data.fingerprint,
        "training_examples": data.dataset.train.examples,
        "validation_examples": data.dataset.valid.examples,
        "test_examples": data.test.examples if data.test is not None else 0,
    }


def _opened(plan: SweepPlan) -> Backend:
    try:
        return plan.open_backend()
    except BackendError as error:
        raise SweepError(error.failure.message, error.failure.detail) from error


def _estimated(backend: Backend, request: TrainingRequest) -> Estimate:
    try:
        return backend.estimate(request)
    except BackendError as error:
        raise SweepError(error.failure.message, error.failure.detail) from error


def _dearest(plan: SweepPlan, backend: Backend) -> Estimate:
    """The estimate that may cost most, of the base models at the most epochs.

    One that a limit does not cover, if there is any; else one without a price.
    """

    def worth(each: Estimate) -> tuple[bool, bool, float, int]:
        most = at_most(each)
        return not covers(plan.spec.budget, most), most.usd is None, most.usd or 0.0, most.tokens or 0

    longest = {"n_epochs": int(plan.max_epochs)} if plan.space.parameter("n_epochs") is not None else {}
    requests = (replace(each, hyperparameters={**each.hyperparameters, **longest}) for each in _probes(plan))
    return max((_estimated(backend, each) for each in requests), key=worth)


def _limit_problems(plan: SweepPlan) -> Iterable[Problem]:
    """Limits that cannot be held, and limits under which no trial would ever start."""
    limit = plan.spec.budget
    if not limit.limits_spend or plan.estimate is None or plan.most_expensive is None:
        return
    most, monthly = at_most(plan.most_expensive), limit.monthly_usd
    key = "usd" if limit.usd is not None else "tokens"
    if monthly is not None and (limit.usd is None or monthly < limit.usd):  # no night may spend more than its month
        limit, key = limit.model_copy(update={"usd": monthly}), "monthly_usd"
    if not covers(limit, most):
        if limit.usd is not None and most.usd is None:
            hint = f"give the backend a price where it takes one (`sweep backends {plan.spec.backend_type}`), or limit "
            hint += "hours" if most.tokens is None else "tokens or hours"
            named = "usd" if plan.spec.budget.usd is not None else "monthly_usd"
            yield Problem(plan.spec.document.place(("budget", named)), f"{NO_PRICE}, so no limit can be held", hint)
        if limit.tokens is not None and most.tokens is None:
            hint = "limit hours" if most.usd is None else "limit usd or hours"
            yield Problem(plan.spec.document.place(("budget", "tokens")), f"{NO_COUNT}, so no limit can be held", hint)
        return
    need, bound = plan.least, at_most(plan.estimate)
    if not covers(limit, bound) or not within(need, limit):
        with_finals = " and the finals" if plan.spec.finals is not None else ""
        known = [f"${need.usd:,.2f}"] if bound.usd is not None else []
        known += [f"{need.tokens:,} tokens"] if bound.tokens is not None else []
        yield Problem(
            plan.spec.document.place(("budget", key)),
            f"the limit does not cover one trial{with_finals}: {', '.join(known)} at most",
            "raise it, or train on fewer examples or epochs",
        )


def _probes(plan: SweepPlan) -> Iterable[TrainingRequest]:
    """Requests that between them name every base model that the sweep can ask for."""
    centre = plan.space.seed_points[0]
    models = plan.space.parameter("base_model")
    for model in _values(models) if models is not None else (plan.base_model,):
        point = {**centre, "base_model": str(model)} if models is not None else centre
        yield _probe(plan, point, str(model))


def _probe(plan: SweepPlan, point: Mapping[str, Scalar], model: str) -> TrainingRequest:
    return plan.request(Trial(0, "plan", model, point, plan.spec.search.seed))


def _values(parameter: ResolvedParameter) -> tuple[Any, ...]:
    """The extreme values, or the choices, of a parameter."""
    match parameter.distribution:
        case None:
            return (parameter.fixed,)
        case CategoricalDistribution(choices=choices):
            return tuple(choices)
        case IntDistribution(low=low, high=high) | FloatDistribution(low=low, high=high):
            return (low, high)
        case other:
            raise TypeError(f"unknown distribution {other!r}")


def _objective_problems(spec: SweepSpec, data: PreparedData) -> Iterable[Problem]:
    for each in spec.objectives:
        metric = each.objective.metric
        if metric in spec.capabilities.label_metrics and not data.dataset.labels:
            yield Problem(
                spec.document.place(("objective",)),
                f"`{metric}` needs labels, and this data set has none",
                "minimize valid_loss, or name the labels: `data: {task: classification}`",
            )


def _place(spec: SweepSpec) -> tuple[int, Placement]:
    wanted, cpus = spec.search.concurrency, spec.resources.cpus_per_trial
    gpus = spec.resources.gpus_per_trial or 0.0
    if not spec.capabilities.in_process:
        allowed = spec.capabilities.max_concurrent
        concurrency = wanted or min(allowed or DEFAULT_SERVICE_CONCURRENCY, spec.search.trials)
        return min(concurrency, allowed or concurrency), Placement(cpus or 0.0, gpus)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Two trials of one thread each beat one trial of two threads (docs/log.md), so a core a trial is the default.
    concurrency = wanted or max(1, int(available // (cpus or 1.0)))
    return concurrency, Placement(cpus or float(max(1, available // concurrency)), gpus)


def _fingerprint(spec: SweepSpec, data: PreparedData, space: ResolvedSpace) -> str:
    """Digest of what makes two sweeps the same; limits such as trials, hours or concurrency may change on resume."""
    identity = {
        "data": data.fingerprint,
        "space": space.fingerprint,
        "backend": [spec.backend_type, spec.training_options],
        "objectives": [(each.objective.metric, each.objective.direction) for each in spec.objectives],
        "evaluation": spec.evaluation.model_dump(),
        "seed": spec.search.seed,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
