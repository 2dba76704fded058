"""The closing screen: the answer first, its honest numbers, and only trials that are explained."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from session_driver import drive, open_session

from sweeps.cli import outcome_view
from sweeps.execution.environment import Environment
from sweeps.execution.outcome import Outcome, SweepEnd, outcome_of
from sweeps.spec.objective import Objective
from sweeps.study.finals import CandidateScore, FinalsResult
from sweeps.workspace import Workspace

pytestmark = pytest.mark.unit


@pytest.fixture
def ended(tmp_path: Path) -> Outcome:
    """A sweep of five trials on the fake backend, without finals."""
    session = open_session(tmp_path)
    drive(session)
    assert session.finish() is SweepEnd.TRIALS
    environment = Environment(workspace=Workspace(tmp_path), tracking_uri="sqlite:///unused", storage=None)
    return outcome_of(session.plan, session.study, SweepEnd.TRIALS, environment, None, (), None)


def finals_of(outcome: Outcome, test: tuple[float, float, float] | None) -> FinalsResult:
    assert outcome.best is not None
    score = CandidateScore(outcome.best.number, 0.8, 0.75, 0.85, 0.0, 0.0, 1.0, (0.79, 0.81))
    return FinalsResult("valid_accuracy", (score,), score.number, "the only one", 0.93, test, "no test examples")


def lines(outcome: Outcome, width: int = 80) -> list[str]:
    written = io.StringIO()
    Console(file=written, width=width, force_terminal=True, color_system=None).print(outcome_view.outcome(outcome))
    return [line.rstrip() for line in written.getvalue().splitlines()]


def test_the_first_line_is_the_answer(ended: Outcome) -> None:
    assert ended.best is not None
    shown = lines(ended)
    assert shown[0] == ""
    assert shown[1].startswith("best: ")
    text = " ".join(shown)
    assert f"(trial {ended.best.number})" in text
    assert "the best of 5 single runs" in text


def test_after_finals_the_mean_of_the_named_trial_stands_first(ended: Outcome) -> None:
    assert ended.best is not None
    repeated = replace(ended.best, number=17, repeat_of=ended.best.number)
    shown = lines(replace(ended, best=repeated, finals=finals_of(ended, (0.79, 0.7, 0.88))))
    text = " ".join(line.strip() for line in shown)
    assert f"(trial {ended.best.number})" in text, "the trial of the table, not its repetition"
    assert "trial 17" not in text
    assert "valid_accuracy 0.8 (0.75 .. 0.85), the mean of 2 seeds; 0.93 in the search" in text
    assert "test split, scored once: accuracy 0.79 (0.7 .. 0.88)" in text
    assert "warning" not in text


def test_a_test_score_far_below_the_validation_score_is_said(ended: Outcome) -> None:
    text = " ".join(lines(replace(ended, finals=finals_of(ended, (0.5, 0.4, 0.6)))))
    assert "warning: the test score is clearly worse than the validation score" in text
    unscored = " ".join(lines(replace(ended, finals=finals_of(ended, None))))
    assert "not scored on a test split: no test examples" in unscored


@pytest.mark.parametrize(
    ("direction", "test", "metric", "expected"),
    [
        ("maximize", (0.5, 0.4, 0.74), "accuracy", True),
        ("maximize", (0.5, 0.4, 0.75), "accuracy", False),
        ("maximize", (0.5, 0.4, 0.6), "macro_f1", False),
        ("minimize", (0.9, 0.86, 0.95), "accuracy", True),
        ("minimize", (0.5, 0.4, 0.6), "accuracy", False),
    ],
)
def test_only_intervals_of_one_metric_that_do_not_overlap_are_far_apart(
    ended: Outcome, direction: str, test: tuple[float, float, float], metric: str, expected: bool
) -> None:
    finals = replace(finals_of(ended, test), test_metric=metric)
    objective = Objective("valid_accuracy", "maximize" if direction == "maximize" else "minimize")
    assert finals.is_far_worse_on_test(objective) is expected


def test_a_sweep_without_a_model_says_so_first(ended: Outcome) -> None:
    assert lines(replace(ended, best=None))[1].startswith("no trial produced a model")
