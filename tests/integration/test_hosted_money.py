"""The limit of money over jobs of a host, which may cost other than was expected: the session without Ray."""

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
data: {{source: "builtin:nli", prompt: "{{premise}} {{hypothesis}}", completion: " {{label}}",
       train_examples: 30, valid_examples: 12, test_examples: 12}}
backend: {{type: hosted, host: local, model: base-chat, base_url: "{address}", price_per_million_tokens: {price},
          poll_s: 0, create_grace_s: 0, max_concurrent: 4}}
space: {{n_epochs: 3, batch_size: [5, 6, 10, 15]}}
search: {{sampler: random, scheduler: none, trials: 3, concurrency: 2, seed: 3}}
objective: {{minimize: valid_loss}}
budget: {{usd: {usd}}}
"""
WORST_USD = 10.602
"""Of a trial as long as nobody has counted: a token a byte."""

TRUE_USD = 0.9


class Sweep:
    """A sweep whose trials are driven by hand. `again` is what a new process makes of it."""

    def __init__(self, folder: Path, address: str, usd: float, *overrides: str) -> None:
        self._made_of = (folder, address, usd, *overrides)
        text = FILE.format(address=address, price=PRICE, usd=usd)
        self.plan = make_plan(from_document(with_overrides(parse(text, "f.yaml"), overrides)), Workspace(folder))
        objectives = [each.objective for each in self.plan.spec.objectives]
        study = Study.open(
            folder / "journal",
            StudyDefinition("pairs",
            self.plan.fingerprint,
            self.plan.space,
            objectives,
            self.plan.spec.search,
            self.plan.base_model),
        )
        self.backend = self.plan.open_backend()
        self.session = Session(self.plan, study, [], backend=self.backend)
        self.handles: dict[int, Handle] = {}

    def again(self) -> Sweep:
        self.backend.close()
        return Sweep(*self._made_of)

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

    def look(self, trial: Trial) -> bool:
        """Pass on what is new of a trial. Returns whether it has ended."""
        handle = self.handles[trial.number]
        events = self.backend.events(handle, 0)
        self.session.observe(trial.number, handle, 0, events)
        if not (events and isinstance(events[-1], TERMINAL_EVENTS)):
            return False
        self.session.trial_ended(trial.number, TrialEnd.ITSELF)
        return True

    def complete(self, trial: Trial) -> None:
        deadline = time.monotonic() + 30
        while not self.look(trial):
            assert time.monotonic() < deadline


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedHost]:
    credentials.use_secrets_from({"SWEEP_SERVER_KEY": KEY})
    monkeypatch.setattr("backends.hosted.rate_limiter.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("backends.hosted.job_creation.LOOK_AGAIN_S", 0.01)
    yield ScriptedHost()
    credentials.use_secrets_from({})


@pytest.fixture
def begin(host: ScriptedHost, tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    begun: list[Sweep] = []
    with serving(host) as address:

        def beginning(usd: float, *overrides: str) -> Sweep:
            begun.append(Sweep(tmp_path, address, usd, *overrides))
            return begun[-1]

        yield beginning
        for backend in begun:
            backend.backend.close()


def told(host: ScriptedHost) -> float:
    """What the host would charge: its own count of every job."""
    return sum(host.trained_tokens(job) for job in host.jobs.values()) * PRICE / 1e6


def test_the_worst_case_of_what_runs_keeps_the_next_from_starting(
    host: ScriptedHost, begin: Callable[..., Sweep]
) -> None:
    sweep = begin(WORST_USD * 1.5)
    first = sweep.start()
    assert sweep.reserved == pytest.approx(WORST_USD)
    assert sweep.session.next_trial() is NoTrial.WAIT
    assert len(host.jobs) == 1
    sweep.complete(first)
    assert (sweep.usd, sweep.reserved) == (pytest.approx(TRUE_USD), 0.0)
    second, third = sweep.start(), sweep.start()
    assert sweep.reserved == pytest.approx(WORST_USD + TRUE_USD), "the host's own count is the bound from now on"
    for each in (second, third):
        sweep.complete(each)
    assert sweep.usd == pytest.approx(told(host)) == pytest.approx(3 * TRUE_USD)
    assert sweep.session.next_trial() is NoTrial.EXHAUSTED
    assert sweep.session.finish() is SweepEnd.TRIALS


def test_a_trial_that_had_to_wait_is_weighed_anew_by_what_the_host_has_counted(begin: Callable[..., Sweep]) -> None:
    sweep = begin(WORST_USD * 1.05)
    first = sweep.start()
    assert sweep.session.next_trial() is NoTrial.WAIT
    sweep.complete(first)
    for _ in range(2):
        sweep.complete(sweep.start())
    assert sweep.session.finish() is SweepEnd.TRIALS


def test_a_job_that_ends_dearer_than_its_worst_case_ends_the_sweep(
    host: ScriptedHost, begin: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap = ScriptedHost.trained_tokens
    monkeypatch.setattr(ScriptedHost, "trained_tokens", lambda self, job: 30 * cheap(self, job))
    sweep = begin(WORST_USD * 1.5)
    sweep.complete(sweep.start())
    assert sweep.usd == pytest.approx(30 * TRUE_USD) == pytest.approx(told(host)), "the truth, though past the limit"
    assert sweep.session.next_trial() is NoTrial.EXHAUSTED
    assert sweep.session.finish() is SweepEnd.BUDGET
    assert len(host.jobs) == 1
    assert sweep.session.budget_ledger.ledger.usd_left(sweep.plan.spec.budget) == 0.0


@pytest.mark.parametrize("counts", [True, False], ids=["it counts", "it says nothing"])
def test_what_was_spent_until_a_stop_is_charged(host: ScriptedHost, begin: Callable[..., Sweep], counts: bool) -> None:
    change_behaviour(host, reports_trained_tokens=counts, epochs_per_poll=0.5)
    sweep = begin(WORST_USD * 1.5)
    trial = sweep.start()
    (job,) = host.jobs.values()
    while not any(measured.epoch >= 1 for each in sweep.session.running for measured in each.curve):
        sweep.look(trial)
    sweep.session.trial_ended(trial.number, TrialEnd.SCHEDULER)
    assert sweep.reserved > 0, "nobody knows yet"
    assert sweep.session.budget_ledger.settle(5.0)
    assert job.status == "cancelled"
    assert sweep.reserved == 0.0
    if counts:
        assert sweep.usd == pytest.approx(told(host))
    else:
        begun = min(3, int(job.epoch) + 1)
        assert sweep.usd == pytest.approx(begun * WORST_USD / 3), "the most that it may have been, the epoch in full"
    assert told(host) <= sweep.usd <= WORST_USD


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "answer lost"])
def test_after_a_crash_each_job_is_counted_once(
    host: ScriptedHost, begin: Callable[..., Sweep], answered: bool
) -> None:
    sweep = begin(100.0)
    sweep.complete(sweep.start())
    if not answered:
        lose = iter([True])

        def fault(operation: str, moment: str) -> None:
            if (operation, moment) == ("POST fine_tuning/jobs", "after") and next(lose, False):
                raise ConnectionCutError

        host.fault = fault
    running = sweep.start()
    sweep.look(running)
    at_most = sweep.usd + sweep.reserved
    sweep = sweep.again()  # nobody has closed the books
    assert sweep.usd + sweep.reserved == pytest.approx(at_most), "what may still come is remembered"
    adopted = sweep.start()
    assert adopted.key == running.key
    sweep.complete(adopted)
    sweep.complete(sweep.start())
    assert len(host.jobs) == 3
    assert (sweep.usd, sweep.reserved) == (pytest.approx(told(host)), 0.0)
    again = sweep.again()
    assert (again.usd, again.reserved) == (pytest.approx(told(host)), 0.0)
    again.backend.close()


def test_a_lost_job_keeps_its_worst_case_and_is_not_waited_for(host: ScriptedHost, begin: Callable[..., Sweep]) -> None:
    sweep = begin(WORST_USD * 2.5, "search.retries=0")
    trial = sweep.start()
    sweep.look(trial)
    gone: Job = host.jobs.pop(next(iter(host.jobs)))
    sweep.complete(trial)
    assert sweep.usd == 0.0
    assert sweep.reserved == pytest.approx(WORST_USD)
    assert sweep.reserved >= host.trained_tokens(gone) * PRICE / 1e6
    began = time.monotonic()
    assert not sweep.session.budget_ledger.settle(60.0)
    assert time.monotonic() - began < 5
    second: Any = sweep.start()
    assert sweep.session.next_trial() is NoTrial.WAIT, "the lost one may have cost as much as it could"
    sweep.complete(second)


def test_accounts_wait_for_what_may_yet_be_said(host: ScriptedHost, begin: Callable[..., Sweep]) -> None:
    sweep = begin(WORST_USD * 1.5)
    trial = sweep.start()
    sweep.look(trial)
    sweep.session.trial_ended(trial.number, TrialEnd.SCHEDULER)
    slept: list[float] = []

    def away(operation: str, moment: str) -> None:
        raise ConnectionCutError

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            host.fault = lambda operation, moment: None
        time.sleep(0.03)

    host.fault = away
    assert BudgetLedger(sweep.plan, sweep.session.study, sweep.backend, sleep).settle(60.0)
    assert len(slept) >= 3
