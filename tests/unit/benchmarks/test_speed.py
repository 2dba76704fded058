"""The speed benchmarks: pairs, rejection, medians, marginal costs, equal work, tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measure import ProcessUsage, TimedRun, drift, marginal_ms, ratios
from benchmarks.report import tables
from benchmarks.run import UnequalWorkError, WayResult, verify_equal_work

pytestmark = pytest.mark.unit

_speeds = st.floats(10.0, 200.0)


def _run(way: str, number: int, seconds: float, before: float = 100.0, after: float = 100.0) -> TimedRun:
    return TimedRun(way, number, seconds, before, after)


def test_ratios_pair_the_runs_of_the_same_round() -> None:
    runs = [_run("peer", 0, 30), _run("ours", 0, 10), _run("ours", 1, 20), _run("peer", 1, 20), _run("peer", 2, 50)]
    compared = ratios(runs, "peer", "ours")
    assert compared.accepted == (3.0, 1.0)
    assert (compared.low, compared.median, compared.high, compared.rejected) == (1.0, 2.0, 3.0, 0)


def test_a_pair_is_rejected_if_the_machine_drifted_around_either_run() -> None:
    runs = [
        _run("peer", 0, 30), _run("ours", 0, 10, 100, 79),
        _run("peer", 1, 30, 130, 130), _run("ours", 1, 10),
        _run("peer", 2, 30, 100, 105), _run("ours", 2, 10, 105, 109),
    ]  # fmt: skip
    compared = ratios(runs, "peer", "ours")
    assert compared.accepted == (3.0,)
    assert compared.rejected == 2


def test_without_accepted_pairs_there_are_no_numbers() -> None:
    compared = ratios([_run("peer", 0, 30, 100, 50), _run("ours", 0, 10)], "peer", "ours")
    assert (compared.low, compared.median, compared.high, compared.rejected) == (None, None, None, 1)


@given(st.lists(_speeds, min_size=1, max_size=8), st.floats(0.1, 10.0))
def test_drift_depends_on_neither_order_nor_unit(speeds: list[float], unit: float) -> None:
    assert drift(speeds) >= 0
    assert drift(speeds) == drift(speeds[::-1])
    assert drift([speed * unit for speed in speeds]) == pytest.approx(drift(speeds), abs=1e-9)


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=1, max_size=9))
def test_the_median_lies_in_the_range_and_swapping_the_pair_inverts_it(seconds: list[tuple[float, float]]) -> None:
    runs = [
        _run(way, n, duration) for n, pair in enumerate(seconds) for way, duration in zip(("a", "b"), pair, strict=True)
    ]
    forward, backward = ratios(runs, "a", "b"), ratios(runs, "b", "a")
    assert forward.median is not None
    assert forward.low is not None
    assert forward.high is not None
    assert backward.low is not None
    assert forward.low <= forward.median <= forward.high
    assert backward.low == pytest.approx(1 / forward.high)


@given(st.floats(0, 60), st.floats(0.1, 500), st.integers(1, 50), st.integers(1, 1000))
def test_marginal_cost_excludes_the_start(start_s: float, cost_ms: float, few: int, more: int) -> None:
    def seconds(trials: int) -> float:
        return start_s + trials * cost_ms / 1000

    cost = marginal_ms(few, seconds(few), few + more, seconds(few + more))
    assert cost == pytest.approx(cost_ms, rel=1e-6, abs=1e-6)


def test_marginal_cost_needs_two_sizes() -> None:
    with pytest.raises(ValueError, match="not more"):
        marginal_ms(10, 1.0, 10, 2.0)


def _result(way: str, **changed: float) -> WayResult:
    trial = {"point": {"batch_size": 8.0}, "steps": 10, "examples": 80, "evaluations": 2, "scored": 40, "tokens": 900}
    trial |= {"valid_loss": 1.0, "valid_accuracy": 0.5, **changed}
    return WayResult(way, [trial], ProcessUsage(1.0, 1.0, 1, 1), 1.0)


@pytest.mark.parametrize("changed", [{"steps": 9}, {"examples": 79}, {"evaluations": 1}, {"scored": 39}])
def test_unequal_work_is_an_error(changed: dict[str, float]) -> None:
    with pytest.raises(UnequalWorkError, match="peer did"):
        verify_equal_work([_result("ours"), _result("peer", **changed)])


def test_losses_that_differ_too_much_are_an_error() -> None:
    verify_equal_work([_result("ours"), _result("peer", valid_loss=1.2)])
    with pytest.raises(UnequalWorkError, match="mean loss"):
        verify_equal_work([_result("ours"), _result("peer", valid_loss=1.3)])


def test_tables_say_when_no_pair_was_accepted() -> None:
    machine = {"packages": {"torch": "1"}, "revision": "abc", "cpus": 2, "cpu": "chip", "memory_gib": 4.0}
    machine |= {"system": "Linux", "python": "3.11", "load_before": 0.1}
    runs = [{"way": way, "round": 0, "seconds": 2.0, "before": 1.0, "after": 9.0} for way in ("sweep", "peer")]
    ratio = ratios([TimedRun(**run) for run in runs], "peer", "sweep").to_json()  # type: ignore[arg-type]
    work = {way: _result(way).trials for way in ("sweep", "peer")}
    result = {
        "date": "2026-01-01", "machine": machine, "work": work, "runs": runs, "runs_without_start": runs,
        "ratios": [ratio], "ratios_without_start": [ratio],
        "processes": [{"way": way, "cpu_seconds": 1.0, "tree_peak_bytes": 2**20} for way in ("sweep", "peer")],
        "workload": {"trials": 1, "grid": {"batch_size": [8]}, "model": "m", "train_examples": 80,
                     "valid_examples": 20, "train_sample": 20, "sequential_threads": 1},
    }  # fmt: skip
    text = tables({"embedded": result})
    assert "no accepted pair" in text
    assert "(1 rejected)" in text
