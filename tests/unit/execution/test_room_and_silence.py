"""Whether a trial fits on a machine, and what the screen says while nothing happens."""

from __future__ import annotations

import itertools

import pytest

from backends.waiting import Waiting
from sweeps.errors import SweepError
from sweeps.execution.room import Machine, require_room
from sweeps.execution.silence import (
    LOOK_AGAIN_S,
    MAX_QUIET_S,
    QUIET_S,
    REPEAT_WAIT_S,
    UNANSWERED_AGAIN_S,
    UNANSWERED_S,
    AnswerWatch,
    MeasurementWatch,
    SilenceWatch,
)

pytestmark = pytest.mark.unit

TWO_SMALL: list[Machine] = [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def room(
    needs: Machine,
    machines: list[Machine],
    *,
    requested: list[Machine | None] | None = None,
    said: list[str] | None = None,
) -> None:
    clock = Clock()
    require_room(
        needs,
        lambda: machines if clock.now_s < 25 else [*machines, {"CPU": 8.0, "GPU": 8.0}],
        grow=None if requested is None else requested.append,
        say=(said if said is not None else []).append,
        should_end=lambda: clock.now_s > 100,
        clock=clock,
        sleep=clock.sleep,
    )


@pytest.mark.parametrize(
    "needs", [{"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 0.01, "GPU": 0.25}, {"CPU": 2.0, "x": 9}]
)
def test_a_trial_that_fits_on_one_machine_starts_at_once(needs: Machine) -> None:
    said: list[str] = []
    room(needs, TWO_SMALL, said=said)
    assert said == []


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        ({"CPU": 3.0}, "a trial needs 3 CPU on one machine, but Ray has a machine with 2 CPU and 1 GPU"),
        ({"CPU": 1.0, "GPU": 2.0}, "a trial needs 1 CPU and 2 GPU on one machine"),
        ({"CPU": 1.0, "GPU": 1.5}, "Ray shares only one GPU between trials"),
    ],
)
def test_a_trial_that_fits_on_no_machine_is_an_error_with_a_remedy(needs: Machine, told: str) -> None:
    """Two machines together have enough, but a trial runs on one."""
    with pytest.raises(SweepError) as caught:
        room(needs, TWO_SMALL)
    assert told in caught.value.message
    assert "resources" in caught.value.hint


def test_a_cluster_that_grows_is_waited_for_aloud() -> None:
    said: list[str] = []
    requested: list[Machine | None] = []
    room({"CPU": 3.0}, TWO_SMALL, requested=requested, said=said)
    assert len(said) == 3
    assert requested == [{"CPU": 3.0}, None], "the request is taken back once the machine is there"
    assert set(said) == {"waiting for a machine with 3 CPU; Ray has a machine with 2 CPU and 1 GPU (Ctrl-C stops)"}


def test_waiting_for_a_machine_ends_with_the_sweep() -> None:
    clock = Clock()
    require_room(
        {"CPU": 3.0},
        lambda: [],
        grow=lambda _: None,
        say=lambda _: None,
        should_end=lambda: clock.now_s > 5,
        clock=clock,
        sleep=clock.sleep,
    )
    assert clock.now_s < 10


def test_silence_is_broken_ever_more_rarely_and_news_start_it_again() -> None:
    said: list[str] = []
    clock = Clock()
    watch = SilenceWatch(said.append, clock)
    for _ in range(1000):
        clock.sleep(1.0)
        watch.look(lambda: "trial 0 waits")
    assert said[0] == f"no news for {QUIET_S:.0f} s: trial 0 waits"
    assert 4 <= len(said) <= 7
    watch.news()
    said.clear()
    clock.sleep(QUIET_S - 1)
    watch.look(lambda: "trial 0 waits")
    assert said == []
    clock.sleep(1.0)
    watch.look(lambda: "trial 0 waits")
    assert len(said) == 1


def test_a_long_silence_is_still_broken_from_time_to_time() -> None:
    said: list[float] = []
    clock = Clock()
    watch = SilenceWatch(lambda _: said.append(clock.now_s), clock)
    for _ in range(10 * int(MAX_QUIET_S)):
        clock.sleep(1.0)
        watch.look(lambda: "trial 0 waits")
    gaps = [later - earlier for earlier, later in itertools.pairwise(said)]
    assert max(gaps) <= MAX_QUIET_S


def test_a_service_that_does_not_answer_is_named_within_seconds_and_again_from_time_to_time() -> None:
    said: list[tuple[float, str]] = []
    clock = Clock()
    watch = AnswerWatch(lambda text: said.append((clock.now_s, text)), clock)
    watch.heard(3)
    watch.heard(4)
    for _ in range(100):
        clock.sleep(0.5)
        watch.heard(4)
        watch.look()
    assert said[0] == (
        UNANSWERED_S,
        "trial 3 has waited 8 s for an answer of the service; a run that has begun goes on there",
    )
    assert [later - earlier for (earlier, _), (later, _) in itertools.pairwise(said)] == [UNANSWERED_AGAIN_S] * 2
    watch.heard(3)
    said.clear()
    clock.sleep(0.5)
    watch.look()
    assert said == []


def test_several_trials_that_wait_for_an_answer_share_one_line() -> None:
    said: list[str] = []
    clock = Clock()
    watch = AnswerWatch(said.append, clock)
    for trial in (0, 1, 2):
        watch.heard(trial)
    watch.forget(0)
    for _ in range(10):
        clock.sleep(1.0)
        watch.look()
    assert [text.partition(" has")[0] for text in said] == ["trial 1 (and 1 more)"]


def test_a_driver_that_was_suspended_blames_no_service() -> None:
    said: list[str] = []
    clock = Clock()
    watch = AnswerWatch(said.append, clock)
    watch.heard(0)
    clock.sleep(3600.0)
    watch.look()
    assert said == []


def test_a_measurement_that_waits_is_told_once_for_each_reason_and_again_if_it_takes_much_longer() -> None:
    clock, said = Clock(), list[str]()
    wait: list[Waiting | None] = [None]
    watch = MeasurementWatch(lambda: wait[0], said.append, clock)

    def look() -> bool:
        clock.sleep(LOOK_AGAIN_S)
        return watch.look()

    assert not look()
    wait[0] = Waiting("the judge does not answer", 1000.0)
    assert look()
    assert "the judge does not answer" in said[0]
    wait[0] = Waiting("the judge does not answer", 1010.0)
    assert not look()
    wait[0] = Waiting("the judge does not answer", 1000.0 + REPEAT_WAIT_S)
    assert look()
    wait[0] = Waiting("the other judge does not answer", 1000.0)
    assert look()
    assert len(said) == 3


def test_measurements_are_not_looked_at_all_the_time() -> None:
    clock, looks = Clock(), list[float]()
    watch = MeasurementWatch(lambda: looks.append(clock()), [].append, clock)
    for _ in range(int(LOOK_AGAIN_S) * 10):
        clock.sleep(0.1)
        watch.look()
    assert len(looks) == 1
