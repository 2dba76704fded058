"""The benchmarks of decisions: intervals, tables, replayed sweeps, savings and misses of a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backends.training_logs.learning_curve import CurvePoint, LearningCurve
from benchmarks.fit.records import Oracle, Record
from benchmarks.fit.stopping import by_patience, by_verdict
from benchmarks.fit.stopping import replay as replay_stops
from benchmarks.search.run import interval, tables
from benchmarks.search.selection_bias import SEEDS, RunPool, load_pools, replay, save_pool

pytestmark = pytest.mark.unit


def record(valid: list[float], oracle: list[float], train: list[float]) -> Record:
    points = tuple(
        CurvePoint(n + 1.0, n + 1, train_loss=t, valid_loss=v)
        for n, (t, v) in enumerate(zip(train, valid, strict=True))
    )
    curve = LearningCurve(points, valid_examples=1000, best_by="loss")
    oracle_series = Oracle(5000, 2.0, 1.0, tuple(oracle), tuple(train), 0.5, 0.5, 0.5, 2.0)
    return Record("r", "torch", "d", "overfit", "x", curve, oracle_series)


RISING = [1.0, 0.8, 1.1, 1.5, 2.0]
FALLING = [1.0, 0.6, 0.4, 0.2, 0.1]


def test_a_stop_after_the_turn_saves_the_rest_and_misses_nothing() -> None:
    stopped, saved, missed, _ = replay_stops(record(RISING, RISING, FALLING), by_patience(1))
    assert (stopped, missed) == (True, False)
    assert saved == pytest.approx(0.4)
    assert replay_stops(record(RISING, RISING, FALLING), by_verdict)[0]


def test_a_stop_before_a_second_fall_misses_the_better_state() -> None:
    humped = [1.0, 0.8, 0.9, 0.5, 0.4]
    assert replay_stops(record(humped, humped, FALLING), by_patience(1)) == (True, pytest.approx(0.4), True, True)
    assert replay_stops(record(humped, humped, FALLING), by_patience(3)) == (False, 0.0, False, False)


def test_a_state_that_is_worse_than_no_training_counts_only_as_useless() -> None:
    fallen = [9e5, 8e5, 9e5, 9e3, 8e3]
    assert replay_stops(record(fallen, fallen, FALLING), by_patience(1)) == (True, pytest.approx(0.4), False, True)


def test_a_run_that_only_improves_is_never_stopped() -> None:
    for rule in (by_verdict, by_patience(1)):
        assert replay_stops(record(FALLING, FALLING, FALLING), rule) == (False, 0.0, False, False)


def test_an_interval_contains_the_mean() -> None:
    mean, low, high = interval([0.1, 0.2, 0.3, 0.4])
    assert mean == pytest.approx(0.25)
    assert 0.1 <= low < mean < high <= 0.4


def test_the_tables_pair_the_same_seeds() -> None:
    base = {"seconds": 1.0, "verdicts": [], "finals_mean": None, "finals_test": None, "best_test": None}
    results = [
        {"space": "well placed", "what": what, "seed": seed, "best": best, "tokens": 10, "changes": [], **base}
        for seed in (1, 2)
        for what, best in (("off", 0.5), ("act", 0.5 + seed / 10))
    ]
    machine = {"cpu": "c", "packages": {"torch": "1", "optuna": "2"}, "revision": "r"}
    assert "| well placed | 0.500 | 0.650 | +0.150 (+0.100 .. +0.200) | 0.0 | 1.00 |" in tables(results, machine)


def pool(quality: list[float]) -> RunPool:
    """Return runs whose configuration is the probability of a correct answer to an example."""
    random = np.random.default_rng(3)
    right = random.random((len(quality), 1 + SEEDS, 2000)) < np.array(quality)[:, None, None]
    return RunPool(1, (10.0,) * len(quality), right)


def test_among_equal_configurations_the_best_single_run_is_optimistic_and_the_finals_less_so() -> None:
    rows = list(replay(pool([0.7] * 8), trials=8, validation_examples=50, draws=60))
    single = np.mean([row.single - row.single_true for row in rows])
    finals = np.mean([row.finals - row.finals_true for row in rows])
    assert single > 0.05
    assert finals < single / 2


def test_if_one_configuration_is_far_better_its_score_is_not_optimistic() -> None:
    rows = list(replay(pool([0.95, 0.4, 0.4, 0.4]), trials=4, validation_examples=500, draws=60))
    assert np.mean([row.single - row.single_true for row in rows]) == pytest.approx(0.0, abs=0.01)
    assert min(row.selected_true for row in rows) > 0.9


def test_a_replay_is_reproducible() -> None:
    runs = pool([0.5, 0.6, 0.7, 0.8])
    assert list(replay(runs, 4, 50, 5)) == list(replay(runs, 4, 50, 5))


def test_a_saved_pool_is_loaded_unchanged(tmp_path: Path) -> None:
    written = pool([0.5, 0.6])
    save_pool(tmp_path, written)
    (read,) = load_pools(tmp_path)
    assert (read.data_seed, read.cost) == (written.data_seed, written.cost)
    assert np.array_equal(read.correct, written.correct)
