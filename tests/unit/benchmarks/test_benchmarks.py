"""The statistics of the benchmarks: pairs, their rejection and medians, marginal costs, equality of work, tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measure import Measured, Run, drift, marginal_ms, ratios
from benchmarks.report import tables
from benchmarks.run import Done, UnequalWorkError, verify

pytestmark = pytest.mark.unit

_speeds = st.floats(10.0, 200.0)


def _run(way: str, number: int, seconds: float, before: float = 100.0, after: float = 100.0) -> Run:
    return Run(way, number, seconds, before, after)


def test_ratios_pair_the_runs_of_the_same_round() -> None:
    runs = [_run("peer", 0, 30), _run("ours", 0, 10), _run("ours", 1, 20), _run("peer", 1, 20), _run("peer", 2, 50)]
    found = ratios(runs, "peer", "ours")
    assert found.accepted == (3.0, 1.0)
    assert (found.low, found.median, found.high, found.rejected) == (1.0, 2.0, 3.0, 0)


def test_a_pair_is_rejected_where_the_machine_drifted_around_either_run() -> None:
    runs = [
        _run("peer", 0, 30), _run("ours", 0, 10, 100, 79),
        _run("peer", 1, 30, 130, 130), _run("ours", 1, 10),
        _run("peer", 2, 30, 100, 105), _run("ours", 2, 10, 105, 109),
    ]  # fmt: skip
    found = ratios(runs, "peer", "ours")
    assert found.accepted == (3.0,)
    assert found.rejected == 2


def test_without_accepted_pairs_there_is_no_number() -> None:
    found = ratios([_run("peer", 0, 30, 100, 50), _run("ours", 0, 10)], "peer", "ours")
    assert (found.low, found.median, found.high, found.rejected) == (None, None, None, 1)


@given(st.lists(_speeds, min_size=1, max_size=8), st.floats(0.1, 10.0))
def test_drift_knows_neither_order_nor_unit(speeds: list[float], unit: float) -> None:
    assert drift(speeds) >= 0
    assert drift(speeds) == drift(speeds[::-1])
    assert drift([each * unit for each in speeds]) == pytest.approx(drift(speeds), abs=1e-9)


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100)), min_size=1, max_size=9))
def test_the_median_lies_in_the_range_and_turns_over_with_the_pair(seconds: list[tuple[float, float]]) -> None:
    runs = [_run(way, n, each) for n, pair in enumerate(seconds) for way, each in zip(("a", "b"), pair, strict=True)]
    there, back = ratios(runs, "a", "b"), ratios(runs, "b", "a")
    assert there.median is not None
    assert there.low is not None
    assert there.high is not None
    assert back.low is not None
    assert there.low <= there.median <= there.high
    assert back.low == pytest.approx(1 / there.high)


@given(st.floats(0, 60), st.floats(0.1, 500), st.integers(1, 50), st.integers(1, 1000))
def test_marginal_cost_leaves_the_start_out(start_s: float, cost_ms: float, few: int, more: int) -> None:
    def seconds(trials: int) -> float:
        return start_s + trials * cost_ms / 1000

    found = marginal_ms(few, seconds(few), few + more, seconds(few + more))
    assert found == pytest.approx(cost_ms, rel=1e-6, abs=1e-6)


def test_marginal_cost_needs_two_sizes() -> None:
    with pytest.raises(ValueError, match="not more"):
        marginal_ms(10, 1.0, 10, 2.0)


def _done(way: str, **changed: float) -> Done:
    trial = {"point": {"batch_size": 8.0}, "steps": 10, "examples": 80, "evaluations": 2, "scored": 40, "tokens": 900}
    trial |= {"valid_loss": 1.0, "valid_accuracy": 0.5, **changed}
    return Done(way, [trial], Measured(1.0, 1.0, 1, 1), 1.0)


@pytest.mark.parametrize("changed", [{"steps": 9}, {"examples": 79}, {"evaluations": 1}, {"scored": 39}])
def test_unequal_work_is_an_error(changed: dict[str, float]) -> None:
    with pytest.raises(UnequalWorkError, match="peer did"):
        verify([_done("ours"), _done("peer", **changed)])


def test_results_that_are_too_far_apart_are_an_error() -> None:
    verify([_done("ours"), _done("peer", valid_loss=1.2)])
    with pytest.raises(UnequalWorkError, match="mean loss"):
        verify([_done("ours"), _done("peer", valid_loss=1.3)])


def test_tables_say_when_no_pair_was_accepted() -> None:
    machine = {"packages": {"torch": "1"}, "revision": "abc", "cpus": 2, "cpu": "chip", "memory_gib": 4.0}
    machine |= {"system": "Linux", "python": "3.11", "load_before": 0.1}
    runs = [{"way": way, "round": 0, "seconds": 2.0, "before": 1.0, "after": 9.0} for way in ("sweep", "peer")]
    ratio = ratios([Run(**each) for each in runs], "peer", "sweep").to_json()  # type: ignore[arg-type]
    work = {way: _done(way).trials for way in ("sweep", "peer")}
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
