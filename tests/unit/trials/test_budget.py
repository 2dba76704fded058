"""Limits on money and tokens: the sums, the checks before anything starts, and a law.

The law: no schedule of events exceeds a limit. Its service is a small simulation that knows what
everything really costs.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backends.contract import (
    Backend,
    Charged,
    Estimate,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Handle,
    Measured,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.fake import FakeBackend
from sweeps.errors import UserInputError
from sweeps.execution.outcome import SweepEnd
from sweeps.execution.running_trial import TrialEnd
from sweeps.execution.session import Session
from sweeps.planning.plan import make_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.loading import from_document
from sweeps.spec.sweep_file import BudgetSpec
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.study.study import Study, StudyDefinition
from sweeps.trials.budget import Amount, cost_bound, ledger
from sweeps.trials.running_ledger import RunningLedger
from sweeps.trials.trial import CostBound, Spend, Trial, TrialState
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small, price_usd_per_token: 0.001}
space:
  n_epochs: [1, 2, 3, 4]
  batch_size: {low: 1, high: 8}
search: {sampler: random, trials: 12, concurrency: 3, retries: 2}
objective: {maximize: valid_accuracy}
"""


def planned(root: Path, *overrides: str) -> SweepPlan:
    return make_plan(from_document(with_overrides(parse(FILE, "f.yaml"), overrides)), Workspace(root), estimate=False)


def open_study(location: Path, plan: SweepPlan) -> Study:
    objectives = [spec.objective for spec in plan.spec.objectives]
    definition = StudyDefinition("pairs", plan.fingerprint, plan.space, objectives, plan.spec.search, plan.base_model)
    return Study.open(location, definition)


def trial(number: int, *, bound_usd: float, spent: float = 0.0, settled: bool = False, **more: Any) -> Trial:
    return Trial(
        number, f"k-{number}", "m", {}, 1, spend=Spend(tokens=10, usd=spent),
        cost_bound=CostBound(tokens=100, usd=bound_usd), settled=settled, **more,
    )  # fmt: skip


def fits(candidate: Trial, others: Sequence[Trial], reserved_for_later: Amount, limit: BudgetSpec) -> bool:
    running = RunningLedger()
    for other in others:
        running.update(other, may_become_finalist=False)
    return running.fits(candidate, reserved_for_later, limit)


def test_a_running_trial_counts_with_its_cost_bound_and_a_settled_one_with_its_cost() -> None:
    running, settled = trial(0, bound_usd=3.0, spent=1.0), trial(1, bound_usd=3.0, spent=2.0, settled=True)
    sums = ledger([running, settled, trial(2, bound_usd=9.0, duplicate_of=1)])
    assert sums.spent == Amount(3.0, 20)
    assert sums.reserved == Amount(2.0, 90)
    assert sums.usd_left(BudgetSpec(usd=6.0)) == 1.0
    assert sums.usd_left(BudgetSpec()) is None


@pytest.mark.parametrize(("limit", "expected"), [(5.0, True), (4.99, False)])
def test_a_trial_fits_up_to_the_limit_itself(limit: float, expected: bool) -> None:
    others = [trial(0, bound_usd=3.0, spent=1.0)]
    assert fits(trial(1, bound_usd=2.0), others, Amount(), BudgetSpec(usd=limit)) is expected


def test_a_trial_without_a_price_fits_no_limit_on_money_but_one_on_tokens() -> None:
    unpriced = replace(trial(0, bound_usd=0.0), cost_bound=CostBound(tokens=5))
    assert not fits(unpriced, [], Amount(), BudgetSpec(usd=100.0))
    assert fits(unpriced, [], Amount(), BudgetSpec(tokens=5))
    assert not fits(unpriced, [], Amount(), BudgetSpec(tokens=4))


def test_a_trial_with_unknown_tokens_fits_no_limit_on_tokens_but_one_on_money() -> None:
    uncounted = replace(trial(0, bound_usd=0.0), cost_bound=CostBound(usd=5.0))
    assert not fits(uncounted, [], Amount(), BudgetSpec(tokens=10**9))
    assert fits(uncounted, [], Amount(), BudgetSpec(usd=5.0))
    assert cost_bound(Estimate(None, None, 5.0, None, "x")) == CostBound(usd=5.0)


def test_nothing_fits_while_the_cost_bound_of_an_unsettled_trial_is_unknown() -> None:
    """This happens when the limit is added later: the running trial started without it."""
    uncounted, unpriced = (
        replace(trial(0, bound_usd=0.0), cost_bound=bound) for bound in (CostBound(usd=1.0), CostBound(tokens=1))
    )
    assert not fits(trial(1, bound_usd=1.0), [uncounted], Amount(), BudgetSpec(tokens=10**9))
    assert not fits(trial(1, bound_usd=1.0), [unpriced], Amount(), BudgetSpec(usd=10**9))
    for unsettled in (uncounted, unpriced):
        assert fits(
            trial(1, bound_usd=1.0), [replace(unsettled, settled=True)], Amount(), BudgetSpec(usd=10.0, tokens=1000)
        )


def test_the_maxima_of_an_estimate_count_and_not_its_expectations() -> None:
    assert cost_bound(Estimate(10, None, 1.0, None, "x", max_tokens=40, max_usd=4.0)) == CostBound(tokens=40, usd=4.0)
    assert cost_bound(Estimate(10, None, 1.0, None, "x")) == CostBound(tokens=10, usd=1.0)


def test_a_limit_on_money_is_refused_if_the_price_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UserInputError) as caught:
        planned(tmp_path, "budget.usd=5", "backend.price_usd_per_token=null")
    [problem] = caught.value.problems
    assert "the price of a trial is unknown" in problem.message
    assert "limit tokens or hours" in problem.hint


def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the fake backend unable to estimate the tokens of a run, from now on."""
    known = FakeBackend.estimate

    def unknown(self: FakeBackend, request: TrainingRequest) -> Estimate:
        return replace(known(self, request), tokens=None, max_tokens=None)

    monkeypatch.setattr(FakeBackend, "estimate", unknown)


def test_a_limit_on_tokens_is_refused_if_the_backend_does_not_count_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uncounted(monkeypatch)
    assert planned(tmp_path, "budget.usd=1000").estimate is not None, "a limit on money still works"
    for limits, hint in (
        (["budget.tokens=1000000000"], "limit usd or hours"),
        (["budget.tokens=1000000000", "budget.usd=1000"], "limit usd or hours"),
        (["budget.tokens=1000000000", "backend.price_usd_per_token=null"], "limit hours"),
    ):
        with pytest.raises(UserInputError) as caught:
            planned(tmp_path, *limits)
        [problem] = caught.value.problems
        assert problem.place == "--set budget.tokens"
        assert "the number of tokens that a trial trains on is unknown" in problem.message
        assert problem.hint == hint


def test_a_trial_whose_tokens_become_unknown_after_planning_is_never_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend could estimate the tokens when the plan was made, and cannot any more."""
    plan = planned(tmp_path, "budget.tokens=1000000000")
    study = open_study(tmp_path / "j", plan)
    uncounted(monkeypatch)
    session = Session(plan, study, [], lambda: 1.0, plan.open_backend())
    assert not isinstance(session.next_trial(), Trial)
    session.finish()
    assert session.end is SweepEnd.BUDGET


def test_a_limit_that_covers_no_trial_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="does not cover one trial"):
        planned(tmp_path, "budget.usd=0.01")
    with pytest.raises(UserInputError, match="does not cover one trial and the finals"):
        planned(tmp_path, "budget.usd=60", "finals.candidates=3")


def test_spend_can_be_the_second_objective_but_not_the_first(tmp_path: Path) -> None:
    front = ["objective=[{maximize: valid_accuracy}, {minimize: usd}]", "search.scheduler=none"]
    assert planned(tmp_path, *front).spec.objectives[1].objective.metric == "usd"
    with pytest.raises(UserInputError, match="cannot be the first objective"):
        planned(tmp_path, "objective={minimize: usd}")
    with pytest.raises(UserInputError, match="the price of a trial is unknown"):
        planned(tmp_path, *front, "backend.price_usd_per_token=null")


# ------------------------------------------------------------------------------------------ the law
@dataclass
class Job:
    """A run as the service knows it.

    `cost` grows until the run ends, which may be some time after `stop`.
    """

    max_usd: float
    cost: float = 0.0
    events: list[Event] = field(default_factory=list)
    stopping: bool = False
    ended: bool = False

    @property
    def worst_case_usd(self) -> float:
        return self.cost if self.ended else self.max_usd


class Service:
    """The service that trains a plan's trials, with its jobs by key. It outlives the sessions."""

    def __init__(self, plan: SweepPlan) -> None:
        self._estimator: Backend = plan.open_backend()
        self.capabilities = self._estimator.capabilities
        self.jobs: dict[str, Job] = {}

    def estimate(self, request: TrainingRequest) -> Estimate:
        return self._estimator.estimate(request)

    def submit(self, key: str, max_usd: float) -> Job:
        return self.jobs.setdefault(key, Job(max_usd))

    def grow(self, key: str, share: float) -> None:
        job = self.jobs[key]
        if not job.ended:
            more = share * (job.max_usd - job.cost)
            job.cost += more
            job.events.append(Charged(more, round(1000 * more)))

    def end(self, key: str, event: Event) -> None:
        job = self.jobs[key]
        if not job.ended:
            job.ended = True
            job.events.append(event)

    def stop(self, handle: Handle) -> None:
        self.jobs[handle.id].stopping = True

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        return self.jobs[handle.id].events[after:]


@cache
def plan_with_limit(usd: float, finals: bool) -> SweepPlan:
    root = Path(tempfile.mkdtemp(prefix="test-budget-"))
    extra = ["finals.candidates=2", "finals.seeds=2"] if finals else []
    plan = planned(root, f"budget.usd={usd}", *extra)
    shutil.rmtree(root / "tmp", ignore_errors=True)
    return plan


class AnySchedule(RuleBasedStateMachine):
    """No order of starts, progress, ends, failures, early stops, crashes and resumes exceeds the
    limit."""

    finals = False
    covers = 2.5
    """How many trials at the centre of the space the limit covers."""

    def __init__(self) -> None:
        super().__init__()
        centre = (
            cost_bound(plan_with_limit(10_000.0, False).estimate or Estimate(None, None, None, None, "")).usd or 0.0
        )
        self.plan = plan_with_limit(round(centre * self.covers, 2), self.finals)
        self.limit = self.plan.spec.budget.usd or 0.0
        self.service = Service(self.plan)
        self.folder = Path(tempfile.mkdtemp(prefix="test-budget-"))
        self.running: dict[int, Trial] = {}
        self.open()

    def open(self) -> None:
        study = open_study(self.folder / "j", self.plan)
        backend: Any = self.service
        self.session = Session(self.plan, study, [], lambda: 1.0, backend)
        self.session.budget_ledger._sleep = lambda _: self.end_stopped_jobs(0.5)

    def end_stopped_jobs(self, share: float) -> None:
        for key, job in self.service.jobs.items():
            if job.stopping and not job.ended:
                self.service.grow(key, share)
                self.service.end(key, Stopped())

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def pick(self, index: int) -> Trial:
        return list(self.running.values())[index % len(self.running)]

    def tell(self, trial: Trial) -> None:
        events = self.service.jobs[trial.key].events
        self.session.observe(trial.number, Handle("service", trial.key), 0, events)

    @rule(times=st.integers(1, 3))
    def start(self, times: int) -> None:
        for _ in range(times):
            self.start_one()

    def start_one(self) -> None:
        next_trial = self.session.next_trial()
        if isinstance(next_trial, Trial):
            assert next_trial.cost_bound is not None
            self.service.submit(next_trial.key, next_trial.cost_bound.usd or 0.0)
            self.session.trial_started(next_trial.number)
            self.running[next_trial.number] = next_trial

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 9), share=st.floats(0, 1), value=st.floats(0, 1), is_told=st.booleans())
    def progress(self, index: int, share: float, value: float, is_told: bool) -> None:
        trial = self.pick(index)
        self.service.grow(trial.key, share)
        if not self.service.jobs[trial.key].ended:
            step = 1 + len(self.service.jobs[trial.key].events)
            measured = Measured(step, 1.0, {"valid_accuracy": value, "valid_loss": 1.0}, "evaluation")
            self.service.jobs[trial.key].events += [Started({}), measured] if step == 1 else [measured]
        if is_told:
            self.tell(trial)

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 9), kind=st.sampled_from([None, *FailureKind]))
    def end_by_itself(self, index: int, kind: FailureKind | None) -> None:
        trial = self.pick(index)
        event = Finished("model") if kind is None else Failed(Failure(kind, f"reason {trial.number}"))
        if kind is FailureKind.LOST:  # the client gives up; the job itself may go on
            events = [*self.service.jobs[trial.key].events, event]
            self.session.observe(trial.number, Handle("service", trial.key), 0, events)
        else:
            self.service.end(trial.key, event)
            self.tell(trial)
        self.session.trial_ended(trial.number, TrialEnd.ITSELF)
        del self.running[trial.number]

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 9), by=st.sampled_from([TrialEnd.SCHEDULER, TrialEnd.VERDICT, TrialEnd.CRASH]))
    def stop_early(self, index: int, by: TrialEnd) -> None:
        trial = self.pick(index)
        self.tell(trial)
        if not self.service.jobs[trial.key].ended and by is not TrialEnd.CRASH:
            self.service.stop(Handle("service", trial.key))
        self.session.trial_ended(trial.number, by)
        del self.running[trial.number]

    @rule(share=st.floats(0, 1))
    def time_passes(self, share: float) -> None:
        self.end_stopped_jobs(share)

    @rule(orderly=st.booleans())
    def resume(self, orderly: bool) -> None:
        if orderly:
            self.session.interrupt()
            self.session.finish()
        self.running.clear()
        self.open()

    @invariant()
    def the_limit_holds_in_the_worst_case(self) -> None:
        assert math.fsum(job.worst_case_usd for job in self.service.jobs.values()) <= self.limit * (1 + 1e-9)

    @invariant()
    def the_ledger_contains_every_known_cost(self) -> None:
        sums = self.session.budget_ledger.ledger
        assert sums.worst_case.usd <= self.limit * (1 + 1e-9)
        known = sum(
            trial.spend.usd or 0.0 for trial in self.session.study.trials if trial.state is not TrialState.RUNNING
        )
        assert sums.spent.usd >= known - 1e-9


class AnyScheduleWithFinals(AnySchedule):
    finals = True
    covers = 6.5


_SETTINGS = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
TestAnySchedule = AnySchedule.TestCase
TestAnySchedule.settings = _SETTINGS
TestAnyScheduleWithFinals = AnyScheduleWithFinals.TestCase
TestAnyScheduleWithFinals.settings = _SETTINGS


def test_a_sweep_ends_when_no_trial_fits_and_goes_on_with_a_higher_limit(tmp_path: Path) -> None:
    def run(limit: str) -> Session:
        plan = planned(tmp_path, f"budget.usd={limit}", "search.concurrency=1")
        study = open_study(tmp_path / "j", plan)
        backend = plan.open_backend()
        session = Session(plan, study, [], lambda: 1.0, backend)
        while isinstance(next_trial := session.next_trial(), Trial):
            handle = backend.submit(plan.request(next_trial))
            session.observe(next_trial.number, handle, 0, backend.events(handle, 0))
            session.trial_ended(next_trial.number, TrialEnd.ITSELF)
        session.finish()
        return session

    one = cost_bound(planned(tmp_path, "budget.usd=1000").estimate or Estimate(None, None, None, None, "")).usd or 0.0
    first = run(f"{2.5 * one:.4f}")
    spent = first.budget_ledger.ledger.spent.usd
    assert first.end is SweepEnd.BUDGET
    assert 0 < spent <= 2.5 * one
    done = sum(trial.state.ended for trial in first.study.search_trials)
    second = run(f"{1000 * one:.4f}")
    assert second.end is SweepEnd.TRIALS
    assert sum(trial.state.ended for trial in second.study.search_trials) == 12 > done
    charged: Mapping[int, float | None] = {trial.number: trial.spend.usd for trial in second.study.search_trials}
    assert math.isclose(second.budget_ledger.ledger.spent.usd, sum(usd or 0.0 for usd in charged.values()))
