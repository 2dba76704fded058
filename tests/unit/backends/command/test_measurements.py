"""Rows of logs become measurements: names, steps, epochs, evaluations in several rows, replays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import codec
from backends.command.measurements import Timeline, named
from backends.contract import Measured

pytestmark = pytest.mark.unit

Rows = Sequence[Mapping[str, Any]]


def measured(rows: Rows, timeline: Timeline | None = None, *, has_ended: bool = True) -> list[Measured]:
    now, events = (timeline or Timeline()).after(named(row, {}) for row in rows)
    return [*events, *now.ended()[1]] if has_ended else events


def evaluations(events: Sequence[Measured]) -> list[tuple[int, float, dict[str, float]]]:
    return [(event.step, event.epoch, dict(event.values)) for event in events if event.scope == "evaluation"]


def loop_reports(events: Sequence[Measured]) -> list[tuple[int, float, dict[str, float]]]:
    return [(event.step, event.epoch, dict(event.values)) for event in events if event.scope == "step"]


# -------------------------------------------------------------------------------------------- names
@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("eval_loss", "valid_loss"),
        ("val_loss", "valid_loss"),
        ("eval/loss", "valid_loss"),
        ("eval_mean_token_accuracy", "valid_token_accuracy"),
        ("eval_rewards/accuracies", "valid_rewards_accuracies"),
        ("eval_german_loss", "valid_german_loss"),
        ("val_acc", "valid_accuracy"),
        ("loss", "batch_loss"),
        ("train/loss", "batch_loss"),
        ("train_loss_step", "batch_loss"),
        ("train_loss_epoch", "train_loss"),
        ("train_loss", "train_loss"),
        ("train/learning_rate", "learning_rate"),
        ("lr", "learning_rate"),
        ("train/grad_norm", "grad_norm"),
    ],
)
def test_usual_columns_have_our_names(column: str, name: str) -> None:
    row = named({column: "0.5"}, {})
    assert {**row.scores, **row.loop} == {name: 0.5}


@pytest.mark.parametrize(
    "column",
    [
        "eval_runtime",
        "eval_samples_per_second",
        "eval_num_tokens",
        "total_flos",
        "percentage",
        "rewards/chosen",
        "text",
    ],
)
def test_other_columns_are_left_out(column: str) -> None:
    assert named({column: 1.0, "text": "words"}, {}).scores == {}


def test_a_rename_decides_also_about_steps_epochs_and_loop_reports() -> None:
    rename = {"iteration_number": "step", "pass": "epoch", "cost": "batch_loss", "quality": "valid_quality"}
    row = named({"iteration_number": 3, "pass": 0.5, "cost": 2.0, "quality": 0.9, "eval_loss": 1.0}, rename)
    assert (row.step, row.epoch, row.loop) == (3.0, 0.5, {"batch_loss": 2.0})
    assert row.scores == {"valid_quality": 0.9, "valid_loss": 1.0}


# ------------------------------------------------------------------------------- steps and epochs
def test_a_log_of_the_hugging_face_trainer() -> None:
    events = measured(
        [
            {"loss": 2.0, "grad_norm": 1.0, "learning_rate": 0.1, "epoch": 0.5, "step": 5},
            {"loss": 1.5, "grad_norm": 1.0, "learning_rate": 0.1, "epoch": 1.0, "step": 10},
            {"eval_loss": 1.4, "eval_runtime": 0.1, "epoch": 1.0, "step": 10},
            {"loss": 1.0, "grad_norm": 1.0, "learning_rate": 0.1, "epoch": 1.5, "step": 15},
            {"eval_loss": 1.2, "eval_runtime": 0.1, "epoch": 2.0, "step": 20},
        ]
    )
    assert [(step, epoch) for step, epoch, _ in loop_reports(events)] == [(5, 0.5), (10, 1.0), (15, 1.5)]
    assert evaluations(events) == [
        (10, 1.0, {"train_loss": 1.5, "valid_loss": 1.4}),
        (20, 2.0, {"train_loss": 1.0, "valid_loss": 1.2}),
    ]


def test_an_evaluation_of_the_trainer_is_reported_at_once() -> None:
    rows = [{"loss": 2.0, "epoch": 1.0, "step": 10}, {"eval_loss": 1.4, "epoch": 1.0, "step": 10}]
    assert evaluations(measured(rows, has_ended=False)) == [(10, 1.0, {"train_loss": 2.0, "valid_loss": 1.4})]


def test_epochs_counted_from_0_are_counted_from_1() -> None:
    rows = [{"epoch": n, "loss": 1.0, "val_loss": 2.0 - n} for n in range(3)]  # as CSVLogger of Keras
    assert [(step, epoch) for step, epoch, _ in evaluations(measured(rows))] == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_epochs_of_a_log_with_nothing_but_validation_are_counted_from_1() -> None:
    rows = [{"epoch": n, "valid_loss": 2.0 - n} for n in range(3)]
    assert [epoch for _, epoch, _ in evaluations(measured(rows))] == [1.0, 2.0, 3.0]
    assert evaluations(measured(rows[:1])) == [(1, 1.0, {"valid_loss": 2.0})]


@pytest.mark.parametrize("with_steps", [True, False])
def test_an_evaluation_before_training_is_the_base_model(with_steps: bool) -> None:
    rows: list[dict[str, float]] = [{"epoch": 0, "step": 0, "valid_loss": 3.0}]
    for n in (1, 2):
        rows += [{"epoch": n, "step": 10 * n, "loss": 1.0}, {"epoch": n, "step": 10 * n, "valid_loss": 2.0 - n}]
    if not with_steps:
        for row in rows:
            del row["step"]
    places = [(step, epoch) for step, epoch, _ in evaluations(measured(rows))]
    assert places == ([(0, 0.0), (10, 1.0), (20, 2.0)] if with_steps else [(0, 0.0), (1, 1.0), (2, 2.0)])


def test_lightning_counts_steps_and_epochs_from_0_and_adds_the_epochs_loss_later() -> None:
    rows: list[dict[str, float]] = []
    for n in range(3):
        rows += [
            {"epoch": n, "step": 10 * n + 4, "train_loss_step": 1.0},
            {"epoch": n, "step": 10 * n + 9, "val_loss": 2.0 - n},
            {"epoch": n, "step": 10 * n + 9, "train_loss_epoch": 0.5},
        ]
    events = measured(rows, Timeline(first_step=0))
    assert evaluations(events) == [
        (10, 1.0, {"train_loss": 1.0, "valid_loss": 2.0}),
        (20, 2.0, {"train_loss": 0.5, "valid_loss": 1.0}),
        (30, 3.0, {"train_loss": 0.5, "valid_loss": 0.0}),
    ]
    assert all("train_loss" not in values for _, _, values in loop_reports(events)), "one value for each step"


def test_steps_that_an_evaluation_shows_to_be_counted_from_0() -> None:
    rows = [{"step": n, "train_loss": 1.0, "val_loss": 2.0 - n} for n in range(3)]  # mlflow.autolog counts epochs so
    assert [step for step, _, _ in evaluations(measured(rows))] == [1, 2, 3]


def test_steps_that_begin_again_in_every_epoch_are_added_up() -> None:
    rows: list[dict[str, float]] = []
    for epoch in (1, 2, 3):
        rows += [{"epoch": epoch, "step": step, "loss": 1.0} for step in (5, 10)]
        rows.append({"epoch": epoch, "step": 10, "valid_loss": 1.0 / epoch})
    events = measured(rows)
    assert [step for step, _, _ in loop_reports(events)] == [5, 10, 15, 20, 25, 30]
    assert [(step, epoch) for step, epoch, _ in evaluations(events)] == [(10, 1.0), (20, 2.0), (30, 3.0)]


def test_steps_that_begin_again_at_0_are_added_up() -> None:
    rows: list[dict[str, float]] = []
    for epoch in range(3):
        rows += [{"epoch": epoch, "step": step, "loss": 1.0} for step in (0, 5, 9)]
        rows.append({"epoch": epoch, "step": 9, "valid_loss": 1.0})
    events = measured(rows)
    assert [step for step, _, _ in loop_reports(events)] == [0, 5, 9, 10, 15, 19, 20, 25, 29]
    assert [(step, epoch) for step, epoch, _ in evaluations(events)] == [(9, 1.0), (19, 2.0), (29, 3.0)]


def test_an_epoch_that_was_rounded_to_0_does_not_shift_the_later_ones() -> None:
    rows = [{"epoch": 0.0, "step": 1, "loss": 1.0}, {"epoch": 0.0, "step": 1, "eval_loss": 1.0}]
    rows += [{"epoch": 0.5, "step": 100, "eval_loss": 0.9}, {"epoch": 2.0, "step": 400, "eval_loss": 0.8}]
    assert evaluations(measured(rows))[-1][:2] == (400, 2.0)


def test_rows_without_steps_count_evaluations() -> None:
    rows = [{"loss": 2.0, "epoch": 0.5}, {"loss": 1.9, "epoch": 1.0}, {"eval_loss": 1.5, "epoch": 1.0}]
    rows += [{"loss": 1.7, "epoch": 1.5}, {"eval_loss": 1.4, "epoch": 2.0}]
    events = measured(rows)
    assert [(step, epoch) for step, epoch, _ in evaluations(events)] == [(1, 1.0), (2, 2.0)]
    assert [values["batch_loss"] for _, _, values in loop_reports(events)] == [2.0, 1.9, 1.7]


def test_rows_with_neither_steps_nor_epochs() -> None:
    rows = [{"train_loss": 2.0}, {"valid_loss": 1.5}, {"train_loss": 1.0}, {"valid_loss": 0.5}]
    assert evaluations(measured(rows)) == [
        (1, 1.0, {"train_loss": 2.0, "valid_loss": 1.5}),
        (2, 2.0, {"train_loss": 1.0, "valid_loss": 0.5}),
    ]


def test_evaluations_without_steps_in_a_log_with_steps_have_the_step_of_the_loop() -> None:
    rows = [{"step": 10, "loss": 1.0}, {"epoch": 1, "eval_loss": 0.9}, {"step": 20, "loss": 0.8}]
    rows.append({"epoch": 2, "eval_loss": 0.7})
    assert [(step, epoch) for step, epoch, _ in evaluations(measured(rows))] == [(10, 1.0), (20, 2.0)]


# --------------------------------------------------------------------- evaluations in several rows
def two_sets(step: int) -> Rows:
    return [
        {"eval_easy_loss": 1.0 / step, "epoch": step / 10, "step": step},
        {"eval_hard_loss": 2.0 / step, "epoch": step / 10, "step": step},
    ]


def test_named_validation_sets_make_one_evaluation() -> None:
    rows = [row for step in (10, 20, 30) for row in two_sets(step)]
    for metric in ("valid_easy_loss", "valid_hard_loss"):
        events = evaluations(measured(rows, Timeline(metric=metric)))
        assert [(step, sorted(values)) for step, _, values in events] == [
            (step, ["valid_easy_loss", "valid_hard_loss"]) for step in (10, 20, 30)
        ]


def test_later_evaluations_in_several_rows_do_not_wait_for_the_next_step() -> None:
    rows = [row for step in (10, 20) for row in two_sets(step)]
    timeline = Timeline(metric="valid_easy_loss")
    assert [step for step, _, _ in evaluations(measured(rows, timeline, has_ended=False))] == [10, 20]


def test_columns_after_the_metric_are_reported_and_expected_from_then_on() -> None:
    rows = [row for step in (1, 2) for row in ({"step": step, "valid_loss": 1.0}, {"step": step, "valid_f1": 0.5})]
    events = measured(rows)
    assert [values for _, _, values in evaluations(events)] == [
        {"valid_loss": 1.0},
        {"valid_loss": 1.0, "valid_f1": 0.5},
    ]
    assert loop_reports(events) == [(1, 1.0, {"valid_f1": 0.5})]


def test_a_log_with_one_column_in_a_row() -> None:
    rows: list[dict[str, float]] = []
    for step in (10, 20):
        rows += [
            {"step": step, "train/loss": 1.0},
            {"step": step, "train/learning_rate": 0.1},
            {"step": step, "train/epoch": step / 10},
            {"step": step, "eval/loss": 2.0},
            {"step": step, "eval/accuracy": 0.5},
            {"step": step, "train/epoch": step / 10},
        ]
    events = measured(rows, Timeline(by_column=True))
    assert evaluations(events) == [
        (step, step / 10, {"train_loss": 1.0, "valid_loss": 2.0, "valid_accuracy": 0.5}) for step in (10, 20)
    ]
    assert loop_reports(events) == [(step, step / 10, {"batch_loss": 1.0, "learning_rate": 0.1}) for step in (10, 20)]


def test_training_values_of_an_epoch_in_a_row_of_their_own_are_reports_of_the_loop() -> None:
    rows = [{"epoch": 1, "step": 5, "train_loss": 2.0}, {"epoch": 1, "step": 6, "train_loss": 1.0}]
    assert [values for _, _, values in loop_reports(measured(rows))] == [{"batch_loss": 2.0}, {"batch_loss": 1.0}]


def test_the_loss_of_a_step_is_reported_once() -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 1, "train_loss": 1.5}, {"step": 2, "loss": 1.0}]
    assert [values for _, _, values in loop_reports(measured(rows))] == [
        {"batch_loss": 2.0},
        {"train_loss": 1.5},
        {"batch_loss": 1.0},
    ]


# ------------------------------------------------------------------------------------- other facts
@pytest.mark.parametrize("norm", ["nan", "inf", math.inf])
def test_a_loss_of_0_with_a_gradient_that_is_not_finite_is_nan(norm: object) -> None:
    [report] = measured([{"loss": 0.0, "grad_norm": norm, "epoch": 0.1, "step": 1}])
    assert math.isnan(report.values["batch_loss"])
    [report] = measured([{"loss": 0.0, "grad_norm": 1.0, "epoch": 0.1, "step": 1}])
    assert report.values["batch_loss"] == 0.0


def test_a_loss_that_is_not_finite_is_kept() -> None:
    [evaluation] = measured([{"eval_loss": float("nan"), "epoch": 1.0, "step": 1}])
    assert math.isnan(evaluation.values["valid_loss"])


def test_the_training_loss_of_an_evaluation_is_the_mean_of_the_later_half() -> None:
    losses = [8.0, 4.0, float("nan"), 2.0, 1.0]
    rows: list[dict[str, float]] = [{"step": n + 1, "loss": loss} for n, loss in enumerate(losses)]
    [(_, _, values)] = evaluations(measured([*rows, {"step": 5, "valid_loss": 3.0}]))
    assert values == {"train_loss": 1.5, "valid_loss": 3.0}


def test_rows_of_a_resumed_program_that_are_known_are_left_out() -> None:
    def rows(steps: range) -> Rows:
        return [
            row
            for step in steps
            for row in (
                {"step": step, "epoch": step / 2, "loss": 1.0},
                {"step": step, "epoch": step / 2, "val_loss": 1.0},
            )
        ]

    once = measured(rows(range(1, 9)))
    assert measured([*rows(range(1, 6)), *rows(range(3, 9))]) == once


def test_numbers_that_are_no_place_are_ignored() -> None:
    [evaluation] = measured([{"step": float("nan"), "epoch": float("inf"), "valid_loss": 1.0}])
    assert (evaluation.step, evaluation.epoch) == (1, 1.0)


# --------------------------------------------------------------------------------------------- laws
cells = st.dictionaries(
    st.sampled_from(["loss", "grad_norm", "train_loss", "eval_loss", "eval_a_loss", "eval_b_loss", "val_acc", "lr"]),
    st.sampled_from([0.0, 0.5, 1.0, math.inf]),
    max_size=3,
)
places = st.fixed_dictionaries(
    {}, optional={"step": st.integers(0, 12), "epoch": st.sampled_from([0, 0.5, 1, 1.5, 2, 3])}
)
logs = st.lists(st.tuples(places, cells).map(lambda parts: {**parts[0], **parts[1]}), max_size=25)
timelines = st.builds(
    Timeline,
    metric=st.sampled_from(["valid_loss", "valid_a_loss", "valid_accuracy"]),
    by_column=st.booleans(),
    first_step=st.sampled_from([0, 1]),
)


@given(logs, timelines, st.integers(0, 25))
def test_a_prefix_of_a_log_gives_a_prefix_of_the_measurements(log: Rows, timeline: Timeline, length: int) -> None:
    whole = measured(log, timeline, has_ended=False)
    part = measured(log[:length], timeline, has_ended=False)
    assert repr(part) == repr(whole[: len(part)])  # NaN is not equal to itself


@given(logs, timelines, st.lists(st.integers(0, 25), max_size=4))
def test_a_log_in_pieces_gives_the_same_measurements(log: Rows, timeline: Timeline, cuts: list[int]) -> None:
    bounds = sorted({0, len(log), *(cut for cut in cuts if cut < len(log))})
    events: list[Measured] = []
    now = timeline
    for begin, end in pairwise(bounds):
        now = codec.from_json(Timeline, codec.to_json(now))  # as another process takes over
        now, more = now.after(named(row, {}) for row in log[begin:end])
        events += more
    assert repr([*events, *now.ended()[1]]) == repr(measured(log, timeline))


@given(logs, timelines)
def test_steps_and_epochs_never_decrease_and_each_step_is_evaluated_once(log: Rows, timeline: Timeline) -> None:
    events = measured(log, timeline)
    assert [event.step for event in events] == sorted(event.step for event in events)
    steps = [event.step for event in events if event.scope == "evaluation"]
    assert steps == sorted(set(steps))
    epochs = [event.epoch for event in events]
    assert epochs == sorted(epochs)
    assert all(
        any(name.startswith("valid_") for name in event.values) for event in events if event.scope == "evaluation"
    )


@given(logs, timelines)
def test_a_name_has_one_value_at_a_step_of_a_log_with_steps(log: Rows, timeline: Timeline) -> None:
    events = measured([{**row, "step": n // 2} for n, row in enumerate(log)], timeline)
    places = [(event.step, name) for event in events for name in event.values]
    assert len(places) == len(set(places))


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=12), st.integers(1, 12))
def test_a_replay_from_any_evaluation_changes_nothing(losses: list[tuple[float, float]], begin: int) -> None:
    rows: list[dict[str, float]] = []
    for n, (loss, valid) in enumerate(losses, 1):
        rows += [{"step": n, "epoch": n / 4, "loss": loss}, {"step": n, "epoch": n / 4, "eval_loss": valid}]
    assert measured([*rows, *rows[2 * (begin - 1) :]]) == measured(rows)
