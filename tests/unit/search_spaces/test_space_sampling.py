"""Laws of a resolved space: samples are inside, conditions hold, and sizes are correct."""

from __future__ import annotations

import itertools
import json
import math
import pickle
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from search_spaces.space import Limit, ResolvedParameter, ResolvedSpace, SearchSpace, SpaceError

pytestmark = pytest.mark.unit

optuna.logging.set_verbosity(optuna.logging.WARNING)

LIMITS = {
    "method": Limit("str", choices=("full", "lora"), default="full"),
    "packing": Limit("bool", default=True),
    "n_epochs": Limit("int", 1, 50, default=3),
    "batch_size": Limit("int", 1, 100_000, default=300),
    "learning_rate": Limit("float", 1e-8, 1.0, default=3e-5),
    "dropout": Limit("float", 0.0, 0.9, default=0.0),
    "lora_rank": Limit("int", 1, 64, default=8, requires={"method": ("lora",)}),
}


def ranges(numbers: st.SearchStrategy[Any], log: bool = True) -> st.SearchStrategy[dict[str, Any]]:
    ends = st.tuples(numbers, numbers).map(sorted)
    return st.builds(lambda low_high, log: {"low": low_high[0], "high": low_high[1], "log": log}, ends, st.just(log))


def lists(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=1, max_size=4, unique=True)


EPOCHS = st.integers(1, 50)
RATES = st.floats(1e-8, 1.0, allow_subnormal=False)
DROPOUTS = st.integers(0, 90).map(lambda number: number / 100)
SHARES = st.decimals(0, 100, places=2).map(lambda number: f"{number} %")
FORMS: Mapping[str, st.SearchStrategy[Any]] = {
    "method": lists(st.sampled_from(["full", "lora"])) | st.just("lora"),
    "packing": lists(st.booleans()) | st.booleans(),
    "n_epochs": EPOCHS
    | lists(EPOCHS)
    | ranges(EPOCHS)
    | ranges(EPOCHS, log=False)
    | st.builds(lambda span, step: {**span, "step": step}, ranges(EPOCHS, log=False), st.integers(1, 9))
    | st.just("recommended"),
    "batch_size": SHARES | lists(SHARES) | st.just("recommended"),
    "learning_rate": RATES | lists(RATES) | ranges(RATES) | ranges(RATES, log=False) | st.just("recommended"),
    "dropout": lists(DROPOUTS)
    | ranges(DROPOUTS, log=False)
    | st.builds(
        lambda span, step: {**span, "step": step}, ranges(DROPOUTS, log=False), st.sampled_from([0.05, 0.1, 0.3])
    ),
    "lora_rank": st.integers(1, 64) | lists(st.integers(1, 64)),
}
CONDITIONS = {
    "packing": ("method", ["full"]),
    "dropout": ("packing", [True]),
    "n_epochs": ("packing", [False]),
    "learning_rate": ("n_epochs", [1, 2, 3, 5]),
}


@st.composite
def spaces(draw: st.DrawFn) -> ResolvedSpace:
    names = draw(st.lists(st.sampled_from(sorted(FORMS)), min_size=1, unique=True))
    written: dict[str, Any] = {}
    for name in names:
        form = draw(FORMS[name])
        other, values = CONDITIONS.get(name, (None, []))
        if other in names and draw(st.booleans()):
            if form == "recommended":
                form = {"recommended": True}
            elif not isinstance(form, dict):
                form = {"choices" if isinstance(form, list) else "value": form}
            form = {**form, "when": {other: values}}
        written[name] = form
    try:
        return SearchSpace.parse(written).resolve(draw(st.integers(1, 100_000)), LIMITS, "local")
    except SpaceError as error:  # the drawn values cannot meet a condition
        assume(not all("never" in problem.message or "no effect" in problem.message for problem in error.problems))
        raise


def loss(point: Mapping[str, Any]) -> float:
    return float(sum(value for value in point.values() if not isinstance(value, str)))


more_examples = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@more_examples
@given(spaces(), st.integers(0, 1000), st.booleans())
def test_every_sample_is_inside_its_space(space: ResolvedSpace, seed: int, tpe: bool) -> None:
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
    if tpe:
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=3, multivariate=True)
    study = optuna.create_study(sampler=sampler)
    for _ in range(6):
        trial = study.ask()
        point = space.suggest(trial)
        assert space.violations(point) == []
        for parameter in space:
            expected = all(point.get(name) in values for name, values in parameter.condition.items())
            assert (parameter.name in point) == expected
        assert {type(value) for value in point.values()} <= {bool, int, float, str}
        study.tell(trial, loss(point))


@more_examples
@given(spaces())
def test_seed_points_are_inside_and_the_study_returns_them_unchanged(space: ResolvedSpace) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    assert 1 <= len(space.seed_points) <= 2
    for point in space.seed_points:
        assert space.violations(point) == []
        study.enqueue_trial(point)
    assert [space.suggest(study.ask()) for _ in space.seed_points] == list(space.seed_points)


@more_examples
@given(spaces())
def test_the_size_is_the_number_of_distinct_points(space: ResolvedSpace) -> None:
    size = space.size()
    continuous = [parameter.name for parameter in space if parameter.size is None]
    assert (size is None) == bool(continuous)
    assume(size is not None)
    values = [_values(parameter) for parameter in space]
    assume(math.prod(map(len, values)) <= 20_000)
    distinct = set()
    for combination in itertools.product(*values):
        candidates = dict(zip((parameter.name for parameter in space), combination, strict=True))
        point = space.suggest(FixedTrial(candidates))
        distinct.add(json.dumps(point, sort_keys=True))
    assert size == len(distinct)


def _values(parameter: ResolvedParameter) -> list[Any]:
    match parameter.distribution:
        case None:
            return [parameter.fixed]
        case CategoricalDistribution() as choice:
            return list(choice.choices)
        case IntDistribution() as whole:
            return list(range(whole.low, whole.high + 1, whole.step))
        case FloatDistribution(low=low, high=high, step=step):
            assert step is not None
            return [round(low + number * step, 9) for number in range(int((high - low) / step + 1.5))]


@more_examples
@given(spaces())
def test_a_point_outside_has_a_violation(space: ResolvedSpace) -> None:
    point = dict(space.seed_points[0])
    assert space.violations({**point, "stranger": 1}) == ["stranger is not in this space"]
    for name in point:
        changed: dict[str, Any] = {**point, name: "something else"}
        assert any(reason.startswith(f"{name} is something else, not in") for reason in space.violations(changed))
        missing = {key: value for key, value in point.items() if key != name}
        assert f"{name} has no value" in space.violations(missing)


@more_examples
@given(spaces())
def test_a_space_survives_pickling_and_json(space: ResolvedSpace) -> None:
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space
    assert copy.fingerprint == space.fingerprint
    assert json.loads(json.dumps(space.to_json()))["size"] == space.size()


@more_examples
@given(spaces())
def test_the_static_space_is_the_searched_part_without_conditions(space: ResolvedSpace) -> None:
    static = space.distributions()
    assert set(static) <= set(space.searched)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask(static)
    assert set(static) <= set(space.suggest(trial))


@pytest.mark.parametrize(
    ("written", "point"),
    [
        ({"dropout": {"low": 0, "high": 0.5, "step": 0.1}}, {"dropout": 0.25}),
        ({"n_epochs": {"low": 1, "high": 9, "step": 4}}, {"n_epochs": 3}),
        ({"n_epochs": [1, 2]}, {"n_epochs": True}),
        ({"n_epochs": {"low": 1, "high": 2}}, {"n_epochs": True}),
        ({"n_epochs": 1}, {"n_epochs": True}),
        ({"packing": [True, False]}, {"packing": 1}),
        ({"learning_rate": {"low": 0.1, "high": 0.2}}, {"learning_rate": 0.3}),
    ],
)
def test_values_between_steps_or_of_another_type_are_outside(written: Any, point: dict[str, Any]) -> None:
    assert len(resolve(written).violations(point)) == 1


def test_a_value_on_a_step_has_no_rounding_error() -> None:
    space = resolve({"dropout": {"low": 0, "high": 0.5, "step": 0.1}})
    assert space.suggest(FixedTrial({"dropout": 0.1 + 0.2})) == {"dropout": 0.3}


# --------------------------------------------------------------------------------------------- grid
def resolve(written: Any, **options: Any) -> ResolvedSpace:
    return SearchSpace.parse(written).resolve(1000, LIMITS, "local", **options)


def test_a_grid_contains_every_point_once_and_optuna_samples_it() -> None:
    space = resolve(
        {
            "method": ["lora", "full"],
            "n_epochs": {"low": 1, "high": 7, "step": 3},
            "dropout": {"low": 0, "high": 0.3, "step": 0.1},
            "packing": True,
        }
    )
    grid = space.grid()
    assert grid == {"method": ["full", "lora"], "n_epochs": [1, 4, 7], "dropout": [0.0, 0.1, 0.2, 0.3]}
    assert space.size() == 24
    study = optuna.create_study(sampler=optuna.samplers.GridSampler(grid, seed=1))
    points: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial) -> float:
        points.append(space.suggest(trial))
        return loss(points[-1])

    study.optimize(objective, n_trials=24)
    assert len({json.dumps(point, sort_keys=True) for point in points}) == 24
    assert all(space.violations(point) == [] for point in points)


def test_a_grid_refuses_all_continuous_and_conditional_parameters_together() -> None:
    space = resolve(
        {
            "method": ["lora", "full"],
            "lora_rank": {"choices": [2, 4], "when": {"method": "lora"}},
            "learning_rate": "recommended",
            "n_epochs": [1, 2],
        }
    )
    with pytest.raises(SpaceError) as caught:
        space.grid()
    assert {problem.path for problem in caught.value.problems} == {("lora_rank",), ("learning_rate",)}


# -------------------------------------------------------------------------------------------- seeds
@pytest.mark.parametrize(
    ("written", "first"),
    [
        ({"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}, {"learning_rate": 0.001}),
        ({"dropout": {"low": 0, "high": 0.5}}, {"dropout": 0.25}),
        ({"dropout": {"low": 0, "high": 0.5, "step": 0.2}}, {"dropout": 0.2}),
        ({"n_epochs": "recommended"}, {"n_epochs": 3}),
        ({"n_epochs": [20, 10]}, {"n_epochs": 20}),
        ({"method": "lora", "lora_rank": [2, 8]}, {"method": "lora", "lora_rank": 8}),
        ({"method": "lora", "lora_rank": [2, 4]}, {"method": "lora", "lora_rank": 2}),
        ({"method": "full", "learning_rate": "recommended"}, {"method": "full", "learning_rate": 3e-5}),
    ],
)
def test_the_first_point_is_the_recommended_default_or_the_centre(written: Any, first: dict[str, Any]) -> None:
    assert resolve(written).seed_points[0] == pytest.approx(first)


@pytest.mark.parametrize(
    ("written", "second"),
    [
        ({"batch_size": {"low": 1, "high": 64}}, {"batch_size": 64}),
        ({"batch_size": {"low": 400, "high": 900}}, {"batch_size": 400}),
        ({"n_epochs": {"low": 5, "high": 9, "step": 2}}, {"n_epochs": 5}),
        ({"n_epochs": [10, 5]}, {"n_epochs": 5}),
        ({"method": ["lora", "full"], "lora_rank": [2, 8]}, {"method": "full"}),
    ],
)
def test_the_second_point_is_the_backends_default_moved_into_the_space(written: Any, second: dict[str, Any]) -> None:
    assert resolve(written).seed_points[1] == second


def test_equal_seed_points_are_given_once() -> None:
    assert resolve({"n_epochs": "recommended"}).seed_points == ({"n_epochs": 3},)


# -------------------------------------------------------------------------------------- fingerprint
def test_the_fingerprint_depends_only_on_the_samples() -> None:
    as_list, in_other_order = (resolve({"n_epochs": values}) for values in ([1, 2], [2, 1]))
    assert as_list.fingerprint == in_other_order.fingerprint
    recommended, by_hand = (resolve({"n_epochs": form}) for form in ("recommended", {"low": 2, "high": 4}))
    assert recommended.fingerprint == by_hand.fingerprint
    different = [resolve({"n_epochs": form}).fingerprint for form in (2, 3, [2, 3], {"low": 2, "high": 3})]
    assert len(set(different)) == 4


def test_a_study_continues_when_steering_moves_the_bounds() -> None:
    written = {"n_epochs": "recommended", "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1, n_startup_trials=2, multivariate=True))
    for space in (resolve(written), resolve(written, bounds={"n_epochs": (4, 8), "learning_rate": (1e-3, 1e-2)})):
        for _ in range(4):
            trial = study.ask()
            point = space.suggest(trial)
            assert space.violations(point) == []
            study.tell(trial, loss(point))
