"""The pure part of planning: hand-made data and answers in, a plan or all problems out."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from plans_by_hand import FOLDER, plan, prepared_data, spec
from sweep_files import GOOD

from backends.contract import Estimate, Failure, FailureKind, Hyperparameter
from backends.metrics.contract import CostBound
from search_spaces.space import SearchSpace
from sweeps.errors import Problem, UserInputError
from sweeps.planning.decisions import BackendAnswers, complete_plan, probe_requests, resolve_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.loading import from_document
from sweeps.spec.yaml_source import parse
from sweeps.study.steering import Change

pytestmark = pytest.mark.unit


def problems(*overrides: str, **changes: object) -> list[Problem]:
    with pytest.raises(UserInputError) as caught:
        plan(*overrides, **changes)
    return list(caught.value.problems)


def estimate(usd: float | None = 0.5, tokens: int | None = 1000, seconds: float = 60.0) -> Estimate:
    return Estimate(tokens=tokens, seconds=seconds, usd=usd, disk_bytes=10, basis="by hand")


def rejected(resolved: SweepPlan, answers: BackendAnswers) -> list[Problem]:
    with pytest.raises(UserInputError) as caught:
        complete_plan(resolved, answers)
    return list(caught.value.problems)


# ---------------------------------------------------------------------------------------- resolving
def test_a_plan_holds_the_spec_resolved_against_the_data() -> None:
    resolved = plan()
    batch_size = resolved.space.parameter("batch_size")
    assert batch_size is not None
    assert (batch_size.distribution.low, batch_size.distribution.high) == (10, 40)  # type: ignore[union-attr]
    assert (resolved.base_model, resolved.folder) == ("fake-small", FOLDER)
    assert (resolved.evaluation.keep_metric, resolved.evaluation.keep_maximum) == ("valid_accuracy", True)
    assert [finding.code for finding in resolved.findings] == ["imbalance"]
    assert resolved.estimate is None


def test_an_optional_hyperparameter_that_the_backend_lacks_is_left_out_with_a_finding_at_its_line() -> None:
    resolved = plan("space.unheard_of={value: 3, optional: true}")
    assert [(finding.code, finding.place) for finding in resolved.findings[1:]] == [
        ("optional-left-out", "--set space.unheard_of")
    ]
    assert resolved.space.parameter("unheard_of") is None


def test_all_problems_of_space_objective_and_champion_are_raised_together() -> None:
    found = problems(
        "space.batch_size=0.00001%",
        "search.sampler=grid",
        "space.prompt_loss_weight={low: 0, high: 1}",
        "champion={max_cost_usd: 3}",
        labels=(),
        tested=False,
    )
    places = [problem.place for problem in found]
    assert places.count("--set champion") >= 3, "no labels, no test split, and a backend that cannot register"
    assert "--set champion.max_cost_usd" not in places, "it was set as a whole"
    assert "f.yaml:8" in places, "accuracy needs labels"
    assert any(place.startswith("--set space") for place in places)


def test_a_batch_larger_than_the_data_is_a_problem_or_where_it_need_not_be_a_warning() -> None:
    data = prepared_data()
    few = replace(data, dataset=replace(data.dataset, train=replace(data.dataset.train, examples=40)))

    def planned(batch_size: str) -> SweepPlan:
        return resolve_plan(spec(f"space.batch_size={batch_size}"), few, 4, FOLDER)

    for written in ("41", "[41, 80]", "{low: 41, high: 80}"):
        with pytest.raises(UserInputError, match="only 40 training examples") as caught:
            planned(written)
        assert [problem.place for problem in caught.value.problems] == ["--set space.batch_size"]
    for written in ("{low: 4, high: 41}", "[4, 41]"):
        codes = [finding.code for finding in planned(written).findings]
        assert codes.count("batch-above-data") == 1, written
    for written in ("{low: 4, high: 40}", "40", "recommended"):
        codes = [finding.code for finding in planned(written).findings]
        assert "batch-above-data" not in codes, written


def test_a_metric_of_labels_needs_labels() -> None:
    (only,) = problems(labels=())
    assert (only.place, only.message) == ("f.yaml:8", "`valid_accuracy` needs labels, but this data set has none")
    assert plan("objective={minimize: valid_loss}", labels=()).spec.objective.metric == "valid_loss"


def test_the_fingerprint_changes_with_what_is_searched_and_not_with_limits() -> None:
    first = plan().fingerprint
    for unchanged in ("search.trials=50", "budget.hours=2", "search.concurrency=1", "finals={}", "description=other"):
        assert plan(unchanged).fingerprint == first, unchanged
    for changed in ("search.seed=8", "space.n_epochs=2", "evaluation.per_epoch=2", "objective={minimize: valid_loss}"):
        assert plan(changed).fingerprint != first, changed
    other_data = replace(prepared_data(), fingerprint="4567")
    assert resolve_plan(spec(), other_data, 4, FOLDER).fingerprint != first


def test_prices_do_not_change_the_fingerprint() -> None:
    assert plan("backend.price_usd_per_token=1e-6").fingerprint == plan().fingerprint


def test_planning_the_same_facts_twice_gives_the_same_plan() -> None:
    one, other = plan("finals={}", "budget.usd=90"), plan("finals={}", "budget.usd=90")
    assert json.dumps(one.to_json(), sort_keys=True) == json.dumps(other.to_json(), sort_keys=True)


# ------------------------------------------------------------------------------- asking the backend
def test_the_probes_cover_every_base_model_at_the_centre_and_with_the_most_epochs() -> None:
    any_model = Hyperparameter("base_model", "str", "the model to start from")
    written = {"base_model": ["small", "large"], "n_epochs": {"low": 1, "high": 7}}
    loaded = spec()
    capabilities = replace(loaded.capabilities, hyperparameters=(*loaded.capabilities.hyperparameters, any_model))
    loaded = replace(loaded, capabilities=capabilities, space=SearchSpace.parse(written))
    resolved = resolve_plan(loaded, prepared_data(), 4, FOLDER)
    probes = probe_requests(resolved)
    assert {request.base_model for request in probes.central} == {"small", "large"}
    assert [request.base_model for request in probes.longest] == [request.base_model for request in probes.central]
    assert {request.hyperparameters["n_epochs"] for request in probes.longest} == {7}
    assert all(request.hyperparameters["n_epochs"] < 7 for request in probes.central)
    assert all(request.dataset is resolved.data.dataset for request in probes.central)


def test_a_space_without_epochs_and_models_has_one_probe_of_the_files_model() -> None:
    lines = [line for line in GOOD.splitlines(keepends=True) if "n_epochs" not in line]
    resolved = resolve_plan(from_document(parse("".join(lines), "f.yaml")), prepared_data(), 4, FOLDER)
    probes = probe_requests(resolved)
    assert [request.base_model for request in probes.central] == ["fake-small"]
    assert probes.longest == probes.central


def test_objections_of_the_backend_are_problems_at_its_section_each_once() -> None:
    objection = Failure(FailureKind.USER, "no such model", "try another")
    found = rejected(plan(), BackendAnswers(failures=(objection, objection)))
    assert found == [Problem("f.yaml:3", "no such model", "try another")]


def test_a_plan_without_estimates_is_complete_as_it_is() -> None:
    resolved = plan()
    assert complete_plan(resolved, BackendAnswers()) == resolved


def test_the_most_expensive_estimate_is_the_one_with_the_highest_bound() -> None:
    bounded = replace(estimate(usd=0.1), max_usd=7.0)
    completed = complete_plan(plan(), BackendAnswers((), estimate(), (estimate(usd=2.0), bounded, estimate(usd=3.0))))
    assert completed.estimate == estimate()
    assert completed.most_expensive == bounded


def test_an_estimate_that_leaves_a_limited_quantity_unknown_counts_as_the_most_expensive() -> None:
    answers = BackendAnswers((), estimate(), (estimate(usd=9.0), estimate(usd=None)))
    (only,) = rejected(plan("budget.usd=100"), answers)
    assert "price of a trial is unknown" in only.message
    assert complete_plan(plan(), answers).most_expensive == estimate(usd=None)


# ------------------------------------------------------------------------------------------ budgets
@pytest.mark.parametrize(
    ("overrides", "answer", "place", "words"),
    [
        (("budget.usd=0.4",), estimate(), "--set budget.usd", "does not cover one trial: up to $0.50"),
        (("budget.tokens=999",), estimate(), "--set budget.tokens", "up to $0.50, 1,000 tokens"),
        (("budget.monthly_usd=0.4",), estimate(), "--set budget.monthly_usd", "does not cover one trial"),
        (("budget.usd=9", "budget.monthly_usd=0.4"), estimate(), "--set budget.monthly_usd", "does not cover"),
        (("budget.usd=4", "finals={}"), estimate(), "--set budget.usd", "one trial and the finals: up to $5.00"),
        (("budget.usd=9",), estimate(usd=None), "--set budget.usd", "the price of a trial is unknown"),
        (("budget.monthly_usd=9",), estimate(usd=None), "--set budget.monthly_usd", "cannot keep this limit"),
        (("budget.tokens=9",), estimate(tokens=None), "--set budget.tokens", "number of tokens that a trial"),
    ],
)
def test_a_budget_that_cannot_be_kept_or_starts_nothing_is_a_problem(
    overrides: tuple[str, ...], answer: Estimate, place: str, words: str
) -> None:
    (only,) = rejected(plan(*overrides), BackendAnswers((), answer, (answer,)))
    assert only.place == place
    assert words in only.message
    assert only.hint


@pytest.mark.parametrize("overrides", [("budget.usd=0.5",), ("budget.usd=5", "finals={}"), ("budget.tokens=1000",)])
def test_a_budget_that_covers_the_first_trial_and_the_finals_exactly_is_enough(overrides: tuple[str, ...]) -> None:
    assert complete_plan(plan(*overrides), BackendAnswers((), estimate(), (estimate(),))).estimate == estimate()


def test_costs_of_the_whole_sweep_are_bounded_by_the_most_expensive_trial_and_the_budget() -> None:
    answers = BackendAnswers((), estimate(), (estimate(usd=2.0),))
    completed = complete_plan(plan("finals={candidates: 2, seeds: 3}"), answers)
    assert completed.final_trials == 6
    assert completed.max_usd == (4 + 6) * 2.0
    assert complete_plan(plan("budget.usd=7"), answers).max_usd == 7
    assert completed.required_budget.usd == 0.5 + 6 * 0.5
    assert completed.max_disk_bytes == 10 * (3 + 6 + 2 * completed.concurrency)
    assert completed.seconds_without_early_stopping == 60.0 * (4 // 4 + 2)


@pytest.mark.parametrize(("at_end", "times"), [(False, 5), (True, 1)])
def test_a_metric_that_costs_money_is_paid_as_often_as_the_backend_measures_it(at_end: bool, times: int) -> None:
    judge = "{judge: {host: 'http://h', model: m, rubric: r, price_per_million_tokens: {input: 1, output: 1}}}"
    resolved = plan(f"evaluation.metrics=[{judge}]", "evaluation.generate={per_epoch: 1}")
    capabilities = replace(resolved.spec.capabilities, task_metrics_at_end=at_end)
    priced = replace(
        resolved,
        spec=replace(resolved.spec, capabilities=capabilities),
        measurement_bound=CostBound(usd=0.1, tokens=9, basis="by hand"),
    )
    request = replace(probe_requests(resolved).central[0], hyperparameters={"n_epochs": 4})
    completed = priced.with_metric_costs(estimate(usd=0.5), request)
    assert completed.usd == completed.max_usd == pytest.approx(0.5 + times * 0.1)


def test_quantities_without_an_estimate_are_unknown_and_the_required_budget_is_zero() -> None:
    resolved = plan()
    assert (resolved.max_usd, resolved.max_disk_bytes, resolved.seconds_without_early_stopping) == (None, None, None)
    assert (resolved.required_budget.usd, resolved.required_budget.tokens) == (0.0, 0)


# ----------------------------------------------------------------------------------------- steering
def test_steering_moves_within_the_backends_limits_and_the_files_bounds() -> None:
    resolved = plan("bounds={n_epochs: [2, 5]}")
    declared = resolved.spec.capabilities.hyperparameter("batch_size")
    assert declared is not None
    assert resolved.steering_bounds["n_epochs"] == (2, 5)
    assert resolved.steering_bounds["batch_size"] == (declared.low, declared.high)


def test_of_two_changes_of_a_range_the_later_one_counts() -> None:
    changes = [Change("n_epochs", (1.0, 4.0), low, high, "reason", (0,), 1) for low, high in ((1.0, 3.0), (2.0, 6.0))]
    moved = plan().steered_space(changes).parameter("n_epochs")
    assert moved is not None
    assert (moved.distribution.low, moved.distribution.high) == (2, 6)  # type: ignore[union-attr]
