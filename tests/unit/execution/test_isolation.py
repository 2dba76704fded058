"""A worker that is cut off ends itself in time; a slow control service does not end it."""

from __future__ import annotations

import pytest

from sweeps.execution.isolation import CUT_OFF_S, IsolationGuard

pytestmark = pytest.mark.unit


class Situation:
    def __init__(self) -> None:
        self.now = 0.0
        self.answer: bool | Exception = True
        self.ended: list[str] = []
        self.guard = IsolationGuard(self.ask, self.ended.append, lambda: self.now)

    def ask(self) -> bool:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.now += 1.0
            self.guard.ask_once()
            self.guard.check()


def test_an_answer_keeps_the_worker_alive() -> None:
    situation = Situation()
    situation.pass_time(300)
    assert situation.ended == []


def test_silence_ends_the_worker_and_a_short_one_does_not() -> None:
    situation = Situation()
    situation.answer = OSError("unreachable")
    situation.pass_time(CUT_OFF_S - 1)
    situation.answer = True
    situation.pass_time(5)
    assert situation.ended == []
    situation.answer = RuntimeError("unreachable")
    situation.pass_time(CUT_OFF_S + 1)
    assert "no answer of Ray's control service" in situation.ended[0]


def test_a_question_that_never_returns_counts_as_silence() -> None:
    situation = Situation()
    situation.now = CUT_OFF_S + 1.0
    situation.guard.check()
    assert situation.ended


def test_a_machine_that_ray_has_given_up_ends_at_once() -> None:
    situation = Situation()
    situation.answer = False
    situation.pass_time(1)
    assert situation.ended == ["Ray has declared this machine dead"]
