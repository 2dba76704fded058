"""The progress messages of a running sweep, without a terminal."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from backends.contract import Measured
from backends.waiting import Waiting
from sweeps.cli import progress as progress_module
from sweeps.cli.progress import Progress, seconds_left
from sweeps.execution.session import Session
from sweeps.reports.formatting import moment
from sweeps.spec.objective import Objective
from sweeps.trials.tally import SearchTally
from sweeps.trials.trial import Spend, Trial, TrialState

pytestmark = pytest.mark.unit

LIMIT = "creating a job: rate-limited: 2 requests per day (HTTP 429)"


def trial(number: int) -> Trial:
    return Trial(number, f"k{number}", "base", {}, 1)


def test_a_pause_of_several_trials_is_reported_once() -> None:
    written, now = io.StringIO(), time.time()
    progress = Progress(Console(file=written, width=40))
    progress.trial_waiting(trial(3), Waiting(LIMIT, now + 3600))
    progress.trial_waiting(trial(4), Waiting(LIMIT, now + 3600.5))
    progress.trial_waiting(trial(3), Waiting(LIMIT, now + 3700))
    assert written.getvalue() == f"trial 3 waits until {moment(now + 3600, now)}: {LIMIT}\n"
    progress.trial_waiting(trial(3), Waiting(LIMIT, now + 7200))
    progress.trial_waiting(trial(4), Waiting("the host cannot be reached", now + 60))
    assert [line.split(" waits ")[0] for line in written.getvalue().splitlines()] == [
        "trial 3",
        "trial 3",
        "trial 4",
    ]


def test_a_time_on_another_day_has_its_date() -> None:
    now = datetime(2026, 11, 26, 23, 30).timestamp()
    assert moment(now + 600, now) == "23:40"
    assert moment(now + 3600, now) == "2026-11-27 00:30"


def session_of(running: list[Trial], ended: list[Trial]) -> Session:
    """A stand-in for a session of six trials, two at a time, with what `Progress` needs of it."""
    tally = SearchTally(Objective("valid_accuracy", "maximize"))
    for ended_trial in ended:
        tally.update(ended_trial)
    capabilities = SimpleNamespace(priced=False)
    spec = SimpleNamespace(
        search=SimpleNamespace(trials=6), budget=SimpleNamespace(hours=None), capabilities=capabilities
    )
    return cast(
        Session,
        SimpleNamespace(
            running=running,
            study=SimpleNamespace(search_trial_count=len(running) + len(ended), tally=tally, repeats=[]),
            plan=SimpleNamespace(spec=spec, concurrency=2, final_trials=0),
            objective=Objective("valid_accuracy", "maximize"),
            seconds=100.0,
        ),
    )


def trial_at(number: int, epoch: float) -> Trial:
    """A trial of four epochs that started at second 900 and has reached this epoch."""
    report = Measured(10, epoch, {"batch_loss": 0.5}, "step")
    return replace(trial(number), hyperparameters={"n_epochs": 4}, started_at=900.0, loop_reports=(report,))


def test_the_remaining_time_is_estimated_before_the_first_trial_ends() -> None:
    assert seconds_left(session_of([trial_at(0, 0.1)], []), 1000.0) is None, (
        "a fortieth of a trial is too little for an estimate"
    )
    # A trial takes 400 s. The two running ones need 300 s more: 600 s. The four waiting ones need
    # 1,600 s. Two run at a time: 2,200 s / 2.
    assert seconds_left(session_of([trial_at(0, 1.0), trial_at(1, 1.0)], []), 1000.0) == pytest.approx(1100.0)
    done = replace(trial(2), state=TrialState.COMPLETE, spend=Spend(seconds=200.0))
    assert seconds_left(session_of([trial_at(0, 1.0), trial_at(1, 1.0)], [done]), 1000.0) == pytest.approx(400.0)


def test_the_remaining_time_of_short_trials_follows_the_pace_of_the_sweep() -> None:
    ended = [replace(trial(n), state=TrialState.COMPLETE, spend=Spend(seconds=0.1)) for n in range(8)]
    session = session_of([], ended)  # 100 s for eight trials
    session.study.search_trial_count = 8
    session.plan.spec.search.trials = 48
    assert seconds_left(session, 1000.0) == pytest.approx(500.0)
    session.study.tally = session_of([], ended[:7]).study.tally  # too few for a pace
    assert seconds_left(session, 1000.0) == pytest.approx(2.0)


def test_a_long_epoch_is_reported_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    written = io.StringIO()
    progress = Progress(Console(file=written, width=200))
    running = trial_at(0, 1.4)
    progress.sweep_started(session_of([running], []))
    for second in (30.0, 59.0, 61.0, 90.0, 122.0):
        now[0] = second
        progress.events_received(running, 0, running.loop_reports)
    first, summary, second, _ = written.getvalue().splitlines()
    assert first == second == "trial 0 epoch 1.4/4  batch_loss 0.5"
    assert summary.startswith("  0 of 6 trials · 1:40 spent · about ")
