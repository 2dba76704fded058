"""`sweep watch` shows a stored sweep as `sweep run` shows it, whoever runs it."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from backends.contract import Handle, Measured
from sweeps.cli.watch import screen
from sweeps.spec.objective import Objective
from sweeps.study.state import SweepState
from sweeps.trials.budget import Amount, Ledger
from sweeps.trials.trial import Trial, TrialState
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = pytest.mark.unit


def trial(number: int, value: float | None = None) -> Trial:
    measured = Measured(4, 1.0, {"valid_accuracy": value or 0.5}, "evaluation")
    made = Trial(number, f"k{number}", "m", {"n_epochs": 2 + number}, 1, curve=(measured,), handle=Handle("fake", "x"))
    if value is None:
        return made
    verdict = FitVerdict(VerdictKind.HEALTHY, "it learned")
    return replace(
        made, state=TrialState.COMPLETE, values=(value,), best_epoch=1.0, verdict=verdict, ended_at=float(number)
    )


def state(*trials: Trial, is_running: bool = True) -> SweepState:
    return SweepState(
        name="snli",
        plan={"data": {"name": "x"}, "search": {"trials": 4}},
        objective=Objective("valid_accuracy", "maximize"),
        trials=trials,
        is_running=is_running,
        ledger=Ledger(Amount(1.5, 1200), Amount()),
    )


def drawn(shown: SweepState) -> list[str]:
    written = io.StringIO()
    Console(file=written, width=80, height=24, force_terminal=True, color_system=None).print(screen(shown))
    return written.getvalue().splitlines()


def test_a_running_sweep_shows_how_far_it_is_and_its_open_trials_first() -> None:
    lines = drawn(state(trial(0, 0.7), trial(1, 0.8), trial(2)))
    assert "2 of 4 trials · running" in lines[0]
    assert lines[1].startswith("best valid_accuracy 0.8 (trial 1): 3 epochs")
    assert lines[2] == "2 healthy"
    assert lines[3] == "$1.50 spent · 1,200 tokens trained"
    rows = [line.split()[0] for line in lines[5:]]
    assert rows == ["2", "1", "0"]
    assert "running" in lines[5]


def test_a_sweep_that_nothing_runs_says_how_to_go_on_unless_it_is_complete() -> None:
    assert drawn(state(trial(0, 0.7), trial(2), is_running=False))[-1].endswith("to go on: sweep resume snli")
    complete = state(*(trial(number, 0.7) for number in range(4)), is_running=False)
    assert "to go on" not in drawn(complete)[-1]


def test_a_sweep_without_an_ended_trial_says_so() -> None:
    assert drawn(state(trial(0)))[1] == "no trial has ended yet"
