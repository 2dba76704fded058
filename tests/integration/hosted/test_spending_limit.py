"""The spending limit with hosted jobs, whose cost differs from the estimate: no Ray here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_host import KEY, ConnectionCutError, Job, ScriptedHost, change_behaviour, serving

from backends import credentials
from backends.contract import TERMINAL_EVENTS, Handle
from sweeps.execution.budget_ledger import BudgetLedger
from sweeps.execution.outcome import SweepEnd
from sweeps.execution.running_trial import TrialEnd
from sweeps.execution.session import Session
from sweeps.planning.plan import make_plan
from sweeps.spec.loading import from_document
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.study.study import NoTrial, Study, StudyDefinition
from sweeps.trials.trial import Trial
from sweeps.workspace import Workspace

pytestmark = pytest.mark.integration

PRICE = 1000.0
FILE = """\
name: pairs
data: {{checks: quick, source: "builtin:nli", prompt: "{{premise}} {{hypothesis}}", completion: " {{label}}",
       train_examples: 30, valid_examples: 12, test_examples: 12}}
backend: {{type: hosted, host: local, model: base-chat, base_url: "{address}", price_per_million_tokens: {price},
          poll_s: 0, create_grace_s: 0, max_concurrent: 4}}
space: {{n_epochs: 3, batch_size: [5, 6, 10, 15]}}
search: {{sampler: random, scheduler: none, trials: 3, concurrency: 2, seed: 3}}
objective: {{minimize: valid_loss}}
budget: {{usd: {usd}}}
"""
BOUND_USD = 10.602
"""The cost bound of a trial while the host has not counted: one token per byte."""

TRUE_USD = 0.9
"""The cost of a trial by the count of the host."""


class Sweep:
    """A sweep whose trials the test drives. `reopened` is the sweep in a new process."""

    def __init__(self, folder: Path, address: str, usd: float, *overrides: str) -> None:
        self._arguments = (folder, address, usd, *overrides)
        text = FILE.format(address=address, price=PRICE, usd=usd)
        self.plan = make_plan(from_document(with_overrides(parse(text, "f.yaml"), overrides)), Workspace(folder))
        objectives = [objective.objective for objective in self.plan.spec.objectives]
        study = Study.open(
            folder / "journal",
            StudyDefinition(
                "pairs", self.plan.fingerprint, self.plan.space, objectives, self.plan.spec.search, self.plan.base_model
            ),
        )
        self.backend = self.plan.open_backend()
        self.session = Session(self.plan, study, [], backend=self.backend)
        self.handles: dict[int, Handle] = {}

    def reopened(self) -> Sweep:
        self.backend.close()
        return Sweep(*self._arguments)

    @property
    def usd(self) -> float:
        return self.session.budget_ledger.ledger.spent.usd

    @property
    def reserved(self) -> float:
        return self.session.budget_ledger.ledger.reserved.usd

    def start(self) -> Trial:
        trial = self.session.next_trial()
        assert isinstance(trial, Trial), trial
        self.handles[trial.number] = self.backend.submit(self.plan.request(trial))
        return trial

    def poll(self, trial: Trial) -> bool:
        """Report the new events of a trial to the session. Returns whether the trial has ended."""
        handle = self.handles[trial.number]
        events = self.backend.events(handle, 0)
        self.session.observe(trial.number, handle, 0, events)
        if not (events and isinstance(events[-1], TERMINAL_EVENTS)):
            return False
        self.session.trial_ended(trial.number, TrialEnd.ITSELF)
        return True

    def complete(self, trial: Trial) -> None:
        deadline = time.monotonic() + 30
        while not self.poll(trial):
            assert time.monotonic() < deadline


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedHost]:
    credentials.use_secrets_from({"SWEEP_SERVER_KEY": KEY})
    monkeypatch.setattr("backends.hosted.rate_limiter.FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr("backends.hosted.job_creation.RECHECK_S", 0.01)
    yield ScriptedHost()
    credentials.use_secrets_from({})


@pytest.fixture
def open_sweep(host: ScriptedHost, tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    opened: list[Sweep] = []
    with serving(host) as address:

        def opening(usd: float, *overrides: str) -> Sweep:
            opened.append(Sweep(tmp_path, address, usd, *overrides))
            return opened[-1]

        yield opening
        for sweep in opened:
            sweep.backend.close()


def charged_by(host: ScriptedHost) -> float:
    """Return what the host charges: its own token count of every job times the price."""
    return sum(host.trained_tokens(job) for job in host.jobs.values()) * PRICE / 1e6


def test_the_cost_bound_of_a_running_trial_keeps_the_next_from_starting(
    host: ScriptedHost, open_sweep: Callable[..., Sweep]
) -> None:
    sweep = open_sweep(BOUND_USD * 1.5)
    first = sweep.start()
    assert sweep.reserved == pytest.approx(BOUND_USD)
    assert sweep.session.next_trial() is NoTrial.WAIT
    assert len(host.jobs) == 1
    sweep.complete(first)
    assert (sweep.usd, sweep.reserved) == (pytest.approx(TRUE_USD), 0.0)
    second, third = sweep.start(), sweep.start()
    assert sweep.reserved == pytest.approx(BOUND_USD + TRUE_USD), "from now on the count of the host is the bound"
    for trial in (second, third):
        sweep.complete(trial)
    assert sweep.usd == pytest.approx(charged_by(host)) == pytest.approx(3 * TRUE_USD)
    assert sweep.session.next_trial() is NoTrial.EXHAUSTED
    assert sweep.session.finish() is SweepEnd.TRIALS


def test_a_waiting_trial_starts_when_the_count_of_the_host_lowers_its_cost_bound(
    open_sweep: Callable[..., Sweep],
) -> None:
    sweep = open_sweep(BOUND_USD * 1.05)
    first = sweep.start()
    assert sweep.session.next_trial() is NoTrial.WAIT
    sweep.complete(first)
    for _ in range(2):
        sweep.complete(sweep.start())
    assert sweep.session.finish() is SweepEnd.TRIALS


def test_a_job_that_costs_more_than_its_bound_ends_the_sweep(
    host: ScriptedHost, open_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    true_tokens = ScriptedHost.trained_tokens
    monkeypatch.setattr(ScriptedHost, "trained_tokens", lambda self, job: 30 * true_tokens(self, job))
    sweep = open_sweep(BOUND_USD * 1.5)
    sweep.complete(sweep.start())
    assert sweep.usd == pytest.approx(30 * TRUE_USD) == pytest.approx(charged_by(host)), (
        "the true charge, although it exceeds the limit"
    )
    assert sweep.session.next_trial() is NoTrial.EXHAUSTED
    assert sweep.session.finish() is SweepEnd.BUDGET
    assert len(host.jobs) == 1
    assert sweep.session.budget_ledger.ledger.usd_left(sweep.plan.spec.budget) == 0.0


@pytest.mark.parametrize("counts", [True, False], ids=["counts tokens", "counts nothing"])
def test_the_spend_until_a_stop_is_charged(host: ScriptedHost, open_sweep: Callable[..., Sweep], counts: bool) -> None:
    change_behaviour(host, reports_trained_tokens=counts, epochs_per_poll=0.5)
    sweep = open_sweep(BOUND_USD * 1.5)
    trial = sweep.start()
    (job,) = host.jobs.values()
    while not any(measurement.epoch >= 1 for running in sweep.session.running for measurement in running.curve):
        sweep.poll(trial)
    sweep.session.trial_ended(trial.number, TrialEnd.SCHEDULER)
    assert sweep.reserved > 0, "the charge is not known yet"
    assert sweep.session.budget_ledger.settle(5.0)
    assert job.status == "cancelled"
    assert sweep.reserved == 0.0
    if counts:
        assert sweep.usd == pytest.approx(charged_by(host))
    else:
        begun = min(3, int(job.epoch) + 1)
        assert sweep.usd == pytest.approx(begun * BOUND_USD / 3), "the upper bound, with the epoch in progress in full"
    assert charged_by(host) <= sweep.usd <= BOUND_USD


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "answer lost"])
def test_after_a_crash_each_job_is_counted_once(
    host: ScriptedHost, open_sweep: Callable[..., Sweep], answered: bool
) -> None:
    sweep = open_sweep(100.0)
    sweep.complete(sweep.start())
    if not answered:
        lose = iter([True])

        def fault(operation: str, moment: str) -> None:
            if (operation, moment) == ("POST fine_tuning/jobs", "after") and next(lose, False):
                raise ConnectionCutError

        host.fault = fault
    running = sweep.start()
    sweep.poll(running)
    at_most = sweep.usd + sweep.reserved
    sweep = sweep.reopened()  # without settling first
    assert sweep.usd + sweep.reserved == pytest.approx(at_most), "the reservation survives"
    adopted = sweep.start()
    assert adopted.key == running.key
    sweep.complete(adopted)
    sweep.complete(sweep.start())
    assert len(host.jobs) == 3
    assert (sweep.usd, sweep.reserved) == (pytest.approx(charged_by(host)), 0.0)
    again = sweep.reopened()
    assert (again.usd, again.reserved) == (pytest.approx(charged_by(host)), 0.0)
    again.backend.close()


def test_a_lost_job_keeps_its_reservation_and_nobody_waits_for_it(
    host: ScriptedHost, open_sweep: Callable[..., Sweep]
) -> None:
    sweep = open_sweep(BOUND_USD * 2.5, "search.retries=0")
    trial = sweep.start()
    sweep.poll(trial)
    deleted: Job = host.jobs.pop(next(iter(host.jobs)))
    sweep.complete(trial)
    assert sweep.usd == 0.0
    assert sweep.reserved == pytest.approx(BOUND_USD)
    assert sweep.reserved >= host.trained_tokens(deleted) * PRICE / 1e6
    began = time.monotonic()
    assert not sweep.session.budget_ledger.settle(60.0)
    assert time.monotonic() - began < 5
    second: Any = sweep.start()
    assert sweep.session.next_trial() is NoTrial.WAIT, "the lost job may have cost its whole bound"
    sweep.complete(second)


def test_settling_waits_until_the_host_reports_the_charge(host: ScriptedHost, open_sweep: Callable[..., Sweep]) -> None:
    sweep = open_sweep(BOUND_USD * 1.5)
    trial = sweep.start()
    sweep.poll(trial)
    sweep.session.trial_ended(trial.number, TrialEnd.SCHEDULER)
    slept: list[float] = []

    def unreachable(operation: str, moment: str) -> None:
        raise ConnectionCutError

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            host.fault = lambda operation, moment: None
        time.sleep(0.03)

    host.fault = unreachable
    assert BudgetLedger(sweep.plan, sweep.session.study, sweep.backend, sleep).settle(60.0)
    assert len(slept) >= 3
