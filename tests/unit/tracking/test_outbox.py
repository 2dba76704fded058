"""The outbox writes everything when it can, in as few writes as possible; no caller waits for
it.
"""

from __future__ import annotations

import threading
import time

import pytest

from sweeps.tracking import outbox
from sweeps.tracking.outbox import Outbox, RejectedError, UnreachableError
from sweeps.tracking.projection import Point, Projection

pytestmark = pytest.mark.unit


class Receiver:
    """Remembers what was written. It can be set to be unreachable, and it rejects some tags."""

    def __init__(self) -> None:
        self.written: dict[str, Projection] = {}
        self.writes = 0
        self.unreachable = threading.Event()
        self.tried = threading.Event()

    def write(self, key: str, projection: Projection) -> None:
        self.tried.set()
        if self.unreachable.is_set():
            raise UnreachableError("no answer")
        if "forbidden" in projection.tags:
            raise RejectedError("rejected")
        if "broken" in projection.tags:
            raise ZeroDivisionError("a bug")
        self.writes += 1
        self.written.setdefault(key, Projection()).add(projection)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Receiver:
    monkeypatch.setattr(outbox, "PAUSE_S", 0.01)
    monkeypatch.setattr(outbox, "FIRST_RETRY_S", 0.005)
    monkeypatch.setattr(outbox, "LONGEST_RETRY_S", 0.01)
    return Receiver()


def point(step: int) -> Projection:
    return Projection(points=[Point("loss", 1.0, step, 0)], tags={"cursor": str(step)})


def test_changes_from_before_the_start_are_written_in_one_write(receiver: Receiver) -> None:
    box = Outbox(receiver.write, "test")
    for step in range(100):
        box.put("a", point(step))
    box.start()
    assert box.close(5, 5)
    assert [point.step for point in receiver.written["a"].points] == list(range(100))
    assert receiver.written["a"].tags == {"cursor": "99"}
    assert receiver.writes == 1


def test_a_receiver_that_was_unreachable_gets_everything_in_order(receiver: Receiver) -> None:
    receiver.unreachable.set()
    box = Outbox(receiver.write, "test")
    box.start()
    for step in range(50):
        box.put("ab"[step % 2], point(step))
    assert receiver.tried.wait(5)
    deadline = time.monotonic() + 5
    while not box.problems and time.monotonic() < deadline:
        time.sleep(0.001)
    assert "no answer" in box.problems[0]
    receiver.unreachable.clear()
    assert box.close(5, 5)
    assert box.problems == ()
    assert [point.step for point in receiver.written["a"].points] == list(range(0, 50, 2))
    assert [point.step for point in receiver.written["b"].points] == list(range(1, 50, 2))


@pytest.mark.parametrize(("tag", "problem"), [("forbidden", "rejected"), ("broken", "ZeroDivisionError: a bug")])
def test_a_rejected_or_failed_write_is_noted_and_the_others_continue(
    receiver: Receiver, tag: str, problem: str
) -> None:
    box = Outbox(receiver.write, "test")
    box.put("a", Projection(tags={tag: "1"}))
    box.put("b", point(1))
    box.start()
    assert box.close(5, 5)
    assert box.problems == (problem,)
    assert list(receiver.written) == ["b"]


def test_closing_gives_up_on_a_receiver_that_stays_unreachable(receiver: Receiver) -> None:
    receiver.unreachable.set()
    box = Outbox(receiver.write, "test")
    box.put("a", point(1))
    box.start()
    began = time.monotonic()
    assert not box.close(30, 0.05)
    assert time.monotonic() - began < 5
    receiver.unreachable.clear()  # lets the thread end
    assert box.close(5, 5)


def test_the_oldest_of_too_many_waiting_points_are_dropped_and_noted(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MOST_POINTS", 100)
    box = Outbox(receiver.write, "test")
    for step in range(1000):
        box.put("a", point(step))
    box.start()
    assert box.close(5, 5)
    kept = [point.step for point in receiver.written["a"].points]
    assert len(kept) <= 100
    assert kept == list(range(1000 - len(kept), 1000))
    assert "dropped" in box.problems[0]


def test_closing_says_what_it_waits_for_and_for_how_long_at_most(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "NOTICE_S", 0.0)
    receiver.unreachable.set()
    box = Outbox(receiver.write, "test")
    box.put("a", point(1))
    box.put("b", point(1))
    box.start()
    said: list[str] = []

    def say(message: str) -> None:
        said.append(message)
        receiver.unreachable.clear()

    assert box.close(60, 60, say)
    assert said[0].startswith("waiting for MLflow, at most 60 s: 2 runs are not written")
    assert box.unwritten == ()


def test_what_is_not_written_is_named_by_its_keys(receiver: Receiver) -> None:
    box = Outbox(receiver.write, "test")
    box.put("a", Projection(tags={"forbidden": "1"}))
    box.put("b", point(1))
    box.start()
    assert box.close(5, 5)
    assert box.unwritten == ("a",), "a run with a refused part is not as it should be"
    receiver.unreachable.set()
    other = Outbox(receiver.write, "test")
    other.put("c", point(1))
    other.start()
    assert not other.close(30, 0.05)
    assert other.unwritten == ("c",)
    other.abandon()


def test_a_later_change_joins_one_that_is_built_when_its_turn_comes(receiver: Receiver) -> None:
    built: list[int] = []

    def build() -> Projection:
        built.append(1)
        return point(1)

    box = Outbox(receiver.write, "test")
    box.put_lazily("a", build)
    assert built == []
    box.put("a", point(2))
    box.put_lazily("b", build)
    box.start()
    assert box.close(5, 5)
    assert [point.step for point in receiver.written["a"].points] == [1, 2]
    assert [point.step for point in receiver.written["b"].points] == [1]


def test_a_change_that_cannot_be_built_is_noted_and_the_others_continue(receiver: Receiver) -> None:
    box = Outbox(receiver.write, "test")
    box.put_lazily("a", lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    box.put("b", point(1))
    box.start()
    assert box.close(5, 5)
    assert (box.unwritten, list(receiver.written)) == (("a",), ["b"])


def test_a_run_that_keeps_failing_does_not_hold_up_the_others(receiver: Receiver) -> None:
    def write(key: str, projection: Projection) -> None:
        if key == "a":
            raise UnreachableError("this run is too large")
        receiver.write(key, projection)

    box = Outbox(write, "test")
    for key in "abcdef":
        box.put(key, point(1))
    box.start()
    assert not box.close(30, 0.5)
    assert (box.unwritten, list(receiver.written)) == (("a",), list("bcdef"))
    box.abandon()


def test_an_abandoned_outbox_writes_nothing_any_more(receiver: Receiver) -> None:
    receiver.unreachable.set()
    box = Outbox(receiver.write, "test")
    box.put("a", point(1))
    box.start()
    assert not box.close(30, 0.05)
    box.abandon()
    receiver.unreachable.clear()
    box._thread.join(5)
    assert not box._thread.is_alive()
    assert receiver.written == {}


def test_an_outage_is_said_once_and_so_is_its_end(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "SAID_AWAY_S", 0.0)
    said: list[str] = []
    box = Outbox(receiver.write, "test", say=said.append)
    receiver.unreachable.set()
    box.start()
    for step in range(3):
        receiver.tried.clear()
        box.put("a", point(step))
        assert receiver.tried.wait(30)
    receiver.unreachable.clear()
    assert box.close(30, 30)
    assert said == [
        "no answer; the study has everything, and MLflow gets the rest once it answers",
        "MLflow answers again",
    ]


def test_a_short_outage_is_not_said(receiver: Receiver) -> None:
    said: list[str] = []
    box = Outbox(receiver.write, "test", say=said.append)
    receiver.unreachable.set()
    box.start()
    box.put("a", point(0))
    assert receiver.tried.wait(30)
    receiver.unreachable.clear()
    assert box.close(30, 30)
    assert said == []
