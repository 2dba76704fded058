"""The benchmarks of free text: the truth about a run, misses of a stop, selection by the metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from backends.contract import Measured
from benchmarks.fit import free_text, free_text_runs
from benchmarks.fit.free_text_runs import ORACLE, RIGHT, TASKS, TextRecipe, TextRun
from benchmarks.search import by_metric

pytestmark = pytest.mark.unit

METRIC, ERROR = RIGHT, 0.02


def text_run(
    visible: Sequence[float],
    oracle: Sequence[float],
    loss: Sequence[float],
    name: str = "text-000",
    rate: float = 1e-3,
) -> TextRun:
    """Return a run whose base model knows nothing."""
    recipe = TextRecipe(name, "swaps", 100, 200, len(visible), rate, 0.3, 1, 1)
    states = [(0.0, 3.0), *zip(visible, loss, strict=True)]
    measurements = tuple(
        Measured(n, float(n), {"train_loss": 2.0**-n, "valid_loss": value, f"valid_{METRIC}": metric}, "evaluation")
        for n, (metric, value) in enumerate(states)
    )
    errors = tuple((ERROR,) * n for n in range(len(states)))
    return TextRun(recipe, measurements, {METRIC: (0.0, *oracle)}, {METRIC: errors})


RISING_LOSS = [0.8, 1.0, 1.3, 1.7]


def test_the_kept_epoch_is_that_of_the_side_that_decides() -> None:
    run = text_run([0.2, 0.5, 0.5, 0.4], [0.2, 0.45, 0.6, 0.4], RISING_LOSS)
    assert (free_text.kept(run, METRIC, "metric"), free_text.kept(run, METRIC, "loss")) == (2, 1)
    assert free_text.kept(run, METRIC, "metric", 1) == 1
    by_loss = free_text.measure_epochs([run], METRIC, "loss")
    assert (by_loss.other_epoch, by_loss.clearly_worse) == (1.0, 1.0)
    assert by_loss.lost == pytest.approx(0.4)


def test_a_difference_within_two_errors_is_none() -> None:
    run = text_run([0.5] * 4, [0.5, 0.53, 0.49, 0.5], RISING_LOSS)
    assert not free_text.is_better(run, METRIC, 2, 1)
    assert free_text.is_better(text_run([0.5] * 2, [0.5, 0.55], [1.0, 1.0]), METRIC, 2, 1)
    truths = [free_text.truth(text_run([0.5] * 3, [0.5, 0.56, last], [1.0] * 3), METRIC) for last in (0.53, 0.515, 0.5)]
    assert truths == ["fine", "between", "overfits"]


def test_a_rising_loss_is_a_false_call_where_the_answers_get_better() -> None:
    better = text_run([0.2, 0.4, 0.6, 0.7], [0.2, 0.4, 0.6, 0.7], RISING_LOSS)
    by_loss, by_the_metric = (free_text.measure_calls([better], METRIC, way) for way in ("loss", "metric"))
    assert (by_loss.runs["fine"], by_loss.called["fine"]) == (1, 1)
    assert (by_the_metric.runs["fine"], by_the_metric.called["fine"]) == (1, 0)


def test_a_stop_misses_a_later_state_that_answers_better() -> None:
    run = text_run([0.3, 0.2, 0.2, 0.5], [0.3, 0.2, 0.2, 0.5], RISING_LOSS)
    stops = free_text.measure_stops([run], METRIC, "metric", lambda curve: len(curve.points) == 2)
    assert (stops.stopped, stops.saved, stops.missed) == (1, 0.5, 1)
    assert stops.lost == pytest.approx(0.2)
    never = free_text.measure_stops([run], METRIC, "metric", lambda curve: False)
    assert (never.stopped, never.missed, never.lost) == (0, 0, 0.0)


def test_patience_follows_the_side_that_decides() -> None:
    run = text_run([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], RISING_LOSS)
    assert free_text.stop_of(run, run.curve(METRIC, "loss"), free_text.by_patience) == 3
    assert free_text.stop_of(run, run.curve(METRIC, "metric"), free_text.by_patience) is None


def test_a_stored_run_is_the_same_after_reading(tmp_path: Path) -> None:
    runs = [text_run([0.2, 0.5], [0.25, 0.5], [1.0, 0.5], name) for name in ("text-001", "text-000")]
    for run in runs:
        free_text_runs.append(run, tmp_path / "runs.jsonl.gz")
    assert free_text_runs.read(tmp_path / "runs.jsonl.gz")[0].oracle == runs[0].oracle
    free_text_runs.write(free_text_runs.read(tmp_path / "runs.jsonl.gz"), tmp_path / "runs.jsonl.gz")
    stored = free_text_runs.read(tmp_path / "runs.jsonl.gz")
    assert [run.recipe.id for run in stored] == ["text-000", "text-001"]
    assert stored[1].recipe == runs[0].recipe
    assert stored[1].curve(METRIC, "metric").points == runs[0].curve(METRIC, "metric").points


@pytest.mark.parametrize("task", TASKS)
def test_no_example_of_a_task_is_in_two_parts_and_noise_is_only_in_training(task: str) -> None:
    recipe = TextRecipe("x", task, 50, 60, 1, 1e-3, 0.5, 1, 3)
    noisy = free_text_runs.parts(recipe)
    clean = free_text_runs.parts(TextRecipe("x", task, 50, 60, 1, 1e-3, 0.0, 1, 3))
    assert [len(part) for part in noisy] == [50, 60, ORACLE]
    assert len({prompt for part in noisy for prompt, _ in part}) == 110 + ORACLE
    assert [prompt for prompt, _ in noisy[0]] == [prompt for prompt, _ in clean[0]]
    assert 5 < sum(one != other for one, other in zip(noisy[0], clean[0], strict=True)) <= 35
    assert all(completion.startswith(" ") for part in clean for _, completion in part)


def test_the_sweep_selects_and_keeps_by_what_decides() -> None:
    short, middle, *_, long = sorted(by_metric.EPOCHS)
    late = long - short
    calm = text_run([0.3] * long, [0.3] * long, [0.5, *[0.6] * (long - 1)])
    bold = text_run([0.3] * short + [0.6] * late, [0.35] * short + [0.65] * late, [0.7] * long, rate=2e-3)
    by_loss, by_the_metric = (by_metric.winner([calm, bold], METRIC, way) for way in ("loss", "metric"))
    assert by_loss == by_metric.Winner(1e-3, short, 1, 0.3)
    assert by_the_metric == by_metric.Winner(2e-3, middle, short + 1, 0.65)


def test_a_sweep_counts_when_all_its_runs_are_there() -> None:
    names = [recipe.id for recipe in by_metric.recipes(1)]
    assert by_metric.sweeps_of([text_run([0.1], [0.1], [1.0], name) for name in names[1:]]) == {}
    complete = by_metric.sweeps_of([text_run([0.1], [0.1], [1.0], name) for name in reversed(names)])
    assert [run.recipe.id for run in complete[1]] == names


def test_the_stored_runs_are_those_of_the_recipes() -> None:
    runs = free_text.stored_runs()
    pool = [recipe for seed in range(1, by_metric.SEEDS + 1) for recipe in by_metric.recipes(seed)]
    wanted = {recipe.id: recipe for recipe in (*free_text.recipes(), *pool)}
    assert len({run.recipe.id for run in runs}) == len(runs) >= 60
    assert all(wanted[run.recipe.id] == run.recipe for run in runs)
    assert len(by_metric.sweeps_of(runs)) == by_metric.SEEDS
