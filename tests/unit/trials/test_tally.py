"""The running figures over the ended trials equal those that a walk over all trials would give."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.spec.objective import Objective
from sweeps.trials.tally import SearchTally
from sweeps.trials.trial import Spend, Trial, TrialState, leaderboard
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = pytest.mark.unit

VALUES = st.none() | st.sampled_from([0.1, 0.2, 0.3]) | st.floats(0, 1)


@st.composite
def records(draw: st.DrawFn) -> Trial:
    kind = draw(st.none() | st.sampled_from(list(VerdictKind)))
    value = draw(VALUES)
    return Trial(
        number=draw(st.integers(0, 12)),
        key="k",
        base_model="m",
        hyperparameters={},
        seed=1,
        state=draw(st.sampled_from(list(TrialState))),
        values=None if value is None else (value,),
        model=draw(st.none() | st.just("model")),
        spend=Spend(seconds=draw(st.sampled_from([0.0, 1.0, 2.5]))),
        verdict=None if kind is None else FitVerdict(kind, "", ""),
    )


@given(st.lists(records() | st.integers(0, 12), max_size=40), st.sampled_from(["minimize", "maximize"]))
def test_figures_after_any_updates_are_those_of_the_trials_that_count(
    changes: list[Trial | int], direction: str
) -> None:
    objective = Objective("acc", "maximize" if direction == "maximize" else "minimize")
    tally, expected = SearchTally(objective), dict[int, Trial]()
    for change in changes:
        number = change if isinstance(change, int) else change.number
        expected.pop(number, None)
        if isinstance(change, int):
            tally.remove(change)
            continue
        tally.update(change)
        if change.state.ended:
            expected[number] = change
    ended = list(expected.values())
    board = leaderboard(ended, objective)
    assert tally.ended == ended
    assert len(tally) == len(ended)
    assert tally.last_ended(3) == ended[-3:]
    assert tally.ranking == [trial.number for trial in board]
    assert tally.best == (board[0] if board else None)
    assert tally.best_with_model(2) == [trial.number for trial in board if trial.model][:2]
    assert +tally.verdicts == Counter(trial.verdict.kind for trial in ended if trial.verdict)
    assert tally.timed == sum(trial.spend.seconds > 0 for trial in ended)
    assert tally.seconds == pytest.approx(sum(trial.spend.seconds for trial in ended))


def test_after_a_resume_the_trials_come_in_the_order_of_their_ends() -> None:
    tally = SearchTally(Objective("acc", "maximize"))
    trials = [Trial(number, "k", "m", {}, 1, TrialState.COMPLETE) for number in range(3)]
    for trial, ended_at in zip(trials, (30.0, 10.0, 20.0), strict=True):
        tally.update(replace(trial, ended_at=ended_at))
    tally.sort_by_end()
    assert [trial.number for trial in tally.ended] == [1, 2, 0]
