"""Every format of a training log: samples as programs write them, and their points."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from backends import codec
from backends.contract import Charged, Failed, Failure, FailureKind, Finished, Measured, Queued
from backends.training_logs import ImportedCurve, RunDetails, TrainingLogError, read
from sweeps.trials.trial import Trial, TrialState
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import judge
from sweeps.verdicts.verdict import VerdictKind

pytestmark = pytest.mark.unit


def read_one(text: str | bytes, details: RunDetails | None = None) -> ImportedCurve:
    [imported] = read(text if isinstance(text, bytes) else text.encode(), details, "history")
    return imported


def read_json(value: Any, details: RunDetails | None = None) -> ImportedCurve:
    return read_one(json.dumps(value), details)


def values_of(imported: ImportedCurve, field: str) -> list[tuple[float, float]]:
    """Return (epoch, value) of each point that has a value."""
    points = [(point.epoch, getattr(point, field)) for point in imported.curve.points]
    return [(epoch, value) for epoch, value in points if value is not None]


# ----------------------------------------------------------------------------- fine-tuning services
OPENAI = """\
step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy
1,2.1,0.50,2.0,0.52
2,1.8,0.55,,
3,1.5,0.60,1.6,0.58
4,1.2,0.66,,
"""

AZURE = """\
step,train_loss,train_mean_token_accuracy,valid_loss,validation_mean_token_accuracy,full_valid_loss,full_valid_mean_token_accuracy
1,2.4,0.4,9.9,0.1,,
2,2.0,0.5,9.9,0.1,1.9,0.55
3,1.6,0.6,-1.0,-1.0,-1.0,-1.0
4,1.2,0.7,9.9,0.1,1.5,0.65
5,0.9,0.8,,,,
6,0.6,0.9,9.9,0.1,1.8,0.64
"""

LEGACY = """\
step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy,\
validation_loss,validation_sequence_accuracy,validation_token_accuracy,classification/accuracy,classification/weighted_f1_score
1,100,8,0.9,0.1,0.5,0.8,0.2,0.6,,
2,200,16,0.7,0.3,0.6,,,,0.61,0.60
3,300,24,0.5,0.5,0.7,0.6,0.4,0.7,,
4,400,32,0.3,0.7,0.8,,,,0.72,0.71
"""


def test_a_result_file_of_mini_batches_counts_steps_and_notes_it() -> None:
    imported = read_one(OPENAI)
    assert imported.format == "fine-tuning result file"
    assert imported.axis == "step"
    assert any("counts steps" in note for note in imported.notes)
    assert values_of(imported, "valid_loss") == [(1.0, 2.0), (3.0, 1.6)]
    assert imported.curve.metric == "token_accuracy"
    assert values_of(imported, "train_metric")[0] == (1.0, 0.5), (
        "the service calls the accuracy of tokens train_accuracy"
    )
    assert imported.curve.best_by == "loss"


def test_base64_and_a_byte_order_mark_are_decoded() -> None:
    plain = read_one(OPENAI).curve
    assert read_one(base64.b64encode(OPENAI.encode())).curve == plain
    assert read_one(base64.encodebytes(OPENAI.encode())).curve == plain
    assert read_one(b"\xef\xbb\xbf" + OPENAI.encode()).curve == plain


def test_whole_validation_is_preferred_and_marks_the_epochs() -> None:
    imported = read_one(AZURE)
    assert imported.axis == "epoch"
    assert values_of(imported, "valid_loss") == [(1.0, 1.9), (2.0, 1.5), (3.0, 1.8)]
    assert values_of(imported, "valid_metric") == [(1.0, 0.55), (2.0, 0.65), (3.0, 0.64)]
    assert values_of(imported, "train_loss") == [(1.0, 2.0), (2.0, 1.2), (3.0, 0.6)], "the later half of each epoch"
    assert any("whole validation set" in note for note in imported.notes)
    assert any("mini-batches" in note for note in read_one(OPENAI).notes)


def test_whole_validation_at_uneven_steps_does_not_mark_epochs() -> None:
    assert read_one("step,train_loss,full_valid_loss\n10,2,3\n15,1,2\n18,1,1\n").axis == "step"


def test_minus_one_means_missing_in_result_files_only() -> None:
    assert values_of(read_one("step,train_loss,full_valid_loss\n1,2,-1.0\n2,1,3\n4,1,2\n"), "valid_loss") == [
        (1.0, 3),
        (2.0, 2),
    ]
    assert values_of(read_one("epoch,train_loss,valid_loss\n1,2,-1.0\n2,1,3\n"), "valid_loss") == [
        (1.0, -1.0),
        (2.0, 3.0),
    ]


def test_the_accuracy_of_a_result_file_is_an_exact_match_and_does_not_decide_the_kept_epoch() -> None:
    rows = "".join(f"{n},{3 / n},0.0,{3 / n},0.0,0.{n},0.{n}\n" for n in (1, 2, 3))
    head = "step,training_loss,training_accuracy,validation_loss,valid_accuracy,"
    head += "training_token_accuracy,validation_token_accuracy\n"
    imported = read_one(head + rows)
    assert (imported.curve.metric, imported.curve.best_by) == ("token_accuracy", "loss")
    assert read_one(head + rows, RunDetails(metric="sequence_accuracy")).curve.metric == "sequence_accuracy"


def test_a_legacy_result_file_gets_its_epochs_from_whole_validation_or_elapsed_examples() -> None:
    imported = read_one(LEGACY)
    assert (imported.curve.metric, imported.scope, imported.axis) == ("accuracy", "gpt3-classification", "epoch")
    assert values_of(imported, "valid_metric") == [(1.0, 0.61), (2.0, 0.72)]
    assert values_of(imported, "valid_loss") == [(0.5, 0.8), (1.5, 0.6)]
    by_size = read_one(LEGACY.replace("classification/", "x_"), RunDetails(train_examples=32))
    assert [point.epoch for point in by_size.curve.points] == [0.25, 0.75]
    assert by_size.axis == "epoch"


def test_events_and_checkpoints_of_a_service_are_read_newest_first() -> None:
    metrics = [{"step": n, "train_loss": 3 / n, "full_valid_loss": 4 / n} for n in (10, 20, 30)]
    events = [{"object": "fine_tuning.job.event", "type": "metrics", "data": entry} for entry in metrics]
    events.append({"object": "fine_tuning.job.event", "type": "message", "data": None, "message": "done"})
    imported = read_json({"object": "list", "data": events[::-1], "has_more": False})
    assert values_of(imported, "valid_loss") == [(1.0, 0.4), (2.0, 0.2), (3.0, 4 / 30)]
    checkpoints = [
        {"object": "fine_tuning.job.checkpoint", "step_number": n, "metrics": {"full_valid_loss": 4 / n}}
        for n in (20, 10)
    ]
    assert values_of(read_json({"object": "list", "data": checkpoints}), "valid_loss") == [(1.0, 0.4), (2.0, 0.2)]


# --------------------------------------------------------------------------------- Keras, Lightning
def test_epoch_0_of_keras_is_the_first_epoch() -> None:
    imported = read_one("epoch,accuracy,loss,val_accuracy,val_loss\n0,0.5,1.0,0.4,1.1\n1,0.7,0.8,0.6,0.9\n")
    assert imported.format == "Keras CSV log"
    assert [asdict(point) for point in imported.curve.points] == [
        {"epoch": 1.0, "step": 1, "train_loss": 1.0, "valid_loss": 1.1, "train_metric": 0.5, "valid_metric": 0.4},
        {"epoch": 2.0, "step": 2, "train_loss": 0.8, "valid_loss": 0.9, "train_metric": 0.7, "valid_metric": 0.6},
    ]
    assert imported.curve.baseline is None


def test_of_a_log_with_several_runs_only_the_last_run_counts() -> None:
    imported = read_one("epoch,loss,val_loss\n0,9,9\n1,8,8\n2,7,7\n0,3,4\n1,2,3\n")
    assert values_of(imported, "valid_loss") == [(1.0, 4.0), (2.0, 3.0)]
    assert any("starts again" in note for note in imported.notes)


LIGHTNING = """\
epoch,lr,step,train_loss_epoch,train_loss_step,val_acc,val_loss
0,0.1,1,,2.0,,
0,,4,,,0.5,1.5
0,,4,1.8,,,
1,0.1,6,,1.0,,
1,,9,,,0.6,1.2
1,,9,1.1,,,
"""


def test_lightning_rows_of_an_epoch_become_one_point() -> None:
    imported = read_one(LIGHTNING)
    assert imported.format == "Lightning CSV log"
    assert values_of(imported, "valid_loss") == [(1.0, 1.5), (2.0, 1.2)]
    assert values_of(imported, "valid_metric") == [(1.0, 0.5), (2.0, 0.6)]
    assert values_of(imported, "train_loss") == [(1.0, 1.8), (2.0, 1.1)], "an epoch's own mean wins over its steps"
    assert imported.ignored == ("lr",)


def test_lightning_validation_within_an_epoch() -> None:
    rows = [(0, 4, 3.0), (0, 9, 2.0), (1, 14, 1.5), (1, 19, 1.2)]
    imported = read_one("epoch,step,val_loss\n" + "".join(f"{e},{s},{v}\n" for e, s, v in rows))
    assert values_of(imported, "valid_loss") == [(0.5, 3.0), (1.0, 2.0), (1.5, 1.5), (2.0, 1.2)]


def test_a_mini_batch_loss_that_is_not_finite_counts_although_the_mean_of_the_epoch_is_used() -> None:
    imported = read_one(LIGHTNING.replace("1,0.1,6,,1.0,,", "1,0.1,6,,nan,,"))
    assert judge(imported.curve, Advice()).kind is VerdictKind.DIVERGED


def test_steps_may_start_again_in_every_epoch() -> None:
    rows = [(0, 0, "3,"), (0, 1, "2,2.5"), (1, 0, "1.5,"), (1, 1, "1,2")]
    imported = read_one("epoch,step,loss,val_loss\n" + "".join(f"{e},{s},{values}\n" for e, s, values in rows))
    assert values_of(imported, "valid_loss") == [(1.0, 2.5), (2.0, 2.0)]


def test_rows_without_epoch_and_step_are_left_out_with_a_note() -> None:
    imported = read_one("epoch,loss,val_loss\n1,2,2\n,1,1\n3,1,1\n")
    assert values_of(imported, "valid_loss") == [(1.0, 2.0), (3.0, 1.0)]
    assert any(note == "rows without epoch and step are left out: 1" for note in imported.notes)


# --------------------------------------------------------------------------------------- JSON lists
def test_a_mapping_of_lists_may_use_any_known_names() -> None:
    expected = [(1.0, 1.1), (2.0, 0.9)]
    for train, valid in (
        ("train_loss", "valid_loss"),
        ("training_loss", "validation_loss"),
        ("loss", "val_loss"),
        ("train/loss", "eval/loss"),
        ("trainLoss", "valLoss"),
        ("Loss/train", "Loss/validation"),
    ):
        imported = read_json({train: [1.0, 0.5], valid: [1.1, 0.9]})
        assert values_of(imported, "valid_loss") == expected, (train, valid)
        assert values_of(imported, "train_loss") == [(1.0, 1.0), (2.0, 0.5)], (train, valid)
    for nested in (
        {"history": {"loss": [1, 0.5], "val_loss": [1.1, 0.9]}},
        {"train": {"loss": [1]}, "valid": {"loss": [1.1, 0.9]}},
    ):
        assert values_of(read_json(nested), "valid_loss") == expected


def test_lists_of_different_lengths_are_spread_over_the_epochs() -> None:
    imported = read_json({"train_loss": [4.0, 3.0, 2.0, 1.0], "valid_loss": [3.0, 2.0]})
    assert values_of(imported, "valid_loss") == [(1.0, 3.0), (2.0, 2.0)]
    assert values_of(imported, "train_loss") == [(1.0, 3.0), (2.0, 1.0)]
    assert any("spread evenly" in note for note in imported.notes)
    short = read_json({"train_loss": [4.0, 3.0], "valid_loss": [3.0, 2.0, 1.0]})
    assert values_of(short, "train_loss") == [(1.0, 4.0), (2.0, 3.0)]


def test_one_mapping_per_epoch_as_a_list_or_as_json_lines() -> None:
    rows = [{"epoch": n, "train_loss": 1 / n, "eval_loss": 2 / n, "eval_f1": n / 4} for n in (1, 2, 3)]
    imported = read_json(rows)
    assert read_one("\n".join(map(json.dumps, rows))).curve == imported.curve
    assert (imported.curve.metric, values_of(imported, "valid_metric")) == (
        "f1",
        [(1.0, 0.25), (2.0, 0.5), (3.0, 0.75)],
    )


def test_the_mapping_of_an_epoch_may_contain_mappings() -> None:
    for keys in (("train", "valid"), ("training", "eval")):
        rows = [{"epoch": n, keys[0]: {"loss": 1.0}, keys[1]: {"loss": 2.0 / n}} for n in (1, 2)]
        assert values_of(read_json(rows), "valid_loss") == [(1.0, 2.0), (2.0, 1.0)]
    wrapped = [{"epoch": n, "metrics": {"val_loss": 2.0 / n}} for n in (1, 2)]
    assert values_of(read_json(wrapped), "valid_loss") == [(1.0, 2.0), (2.0, 1.0)]


def test_an_untrained_first_row_is_the_baseline() -> None:
    imported = read_json(
        [
            {"epoch": 0, "eval_loss": 3.0},
            {"epoch": 1, "loss": 1.0, "eval_loss": 2.0},
            {"epoch": 2, "loss": 0.5, "eval_loss": 1.0},
        ]
    )
    assert imported.curve.baseline is not None
    assert imported.curve.baseline.valid_loss == 3.0
    assert values_of(imported, "valid_loss") == [(1.0, 2.0), (2.0, 1.0)]


# ------------------------------------------------------------------------------------ trainer_state
def trainer_state(*entries: dict[str, Any], step: int = 20, planned: int = 20) -> dict[str, Any]:
    return {"global_step": step, "max_steps": planned, "num_train_epochs": 2, "log_history": list(entries)}


def test_trainer_state_merges_logs_with_evaluations_and_omits_the_summary() -> None:
    imported = read_json(
        trainer_state(
            {"epoch": 0, "step": 0, "eval_loss": 3.0, "eval_accuracy": 0.3},
            {"epoch": 0.5, "step": 5, "loss": 2.0, "grad_norm": 1.0, "learning_rate": 1e-4},
            {"epoch": 1.0, "step": 10, "loss": 1.5},
            {"epoch": 1.0, "step": 10, "eval_loss": 1.4, "eval_accuracy": 0.5, "eval_runtime": 1.0},
            {"epoch": 1.5, "step": 15, "loss": 1.2},
            {"epoch": 2.0, "step": 20, "loss": 1.0},
            {"epoch": 2.0, "step": 20, "eval_loss": 1.3, "eval_accuracy": 0.6, "eval_runtime": 1.0},
            {"epoch": 2.0, "step": 20, "train_loss": 77.0, "train_runtime": 9.0, "total_flos": 1e9},
        )
    )
    assert values_of(imported, "train_loss") == [(1.0, 1.5), (2.0, 1.0)]
    assert values_of(imported, "valid_metric") == [(1.0, 0.5), (2.0, 0.6)]
    assert imported.curve.baseline is not None
    assert (imported.curve.baseline.valid_metric, imported.curve.ended) == (0.3, "complete")


def test_loop_reports_of_a_trainer_reveal_whether_its_learning_rate_came_down() -> None:
    def logged(*rates: float) -> ImportedCurve:
        losses, imported = (1.0, 0.5, 0.32, 0.25, 0.16, 0.13), []
        for n, (loss, rate) in enumerate(zip(losses, rates, strict=True), 1):
            imported.append({"epoch": n / 2, "step": 5 * n, "loss": loss, "grad_norm": 1.0, "learning_rate": rate})
            if n % 2 == 0:
                imported.append({"epoch": n / 2, "step": 5 * n, "eval_loss": loss + 0.07, "eval_accuracy": 0.8})
        return read_json(
            trainer_state({"epoch": 0, "step": 0, "eval_loss": 3.0, "eval_accuracy": 0.3}, *imported, step=30)
        )

    down, constant = logged(6e-4, 5e-4, 4e-4, 3e-4, 2e-4, 1e-4), logged(*[6e-4] * 6)
    assert [(report.epoch, report.learning_rate) for report in down.curve.loop_reports][-2:] == [
        (2.5, 2e-4),
        (3.0, 1e-4),
    ]
    assert not {"learning_rate", "grad_norm"} & set(down.ignored)
    assert judge(down.curve, Advice()).kind is VerdictKind.HEALTHY
    assert judge(constant.curve, Advice()).kind is VerdictKind.UNDERFIT


def test_trainer_state_of_an_incomplete_run_has_ended_stopped() -> None:
    state = trainer_state(
        {"epoch": 1, "step": 10, "eval_loss": 2}, {"epoch": 2, "step": 20, "eval_loss": 1}, planned=90
    )
    assert read_json(state).curve.ended == "stopped"


def test_a_trainers_zero_for_a_loss_that_is_not_finite_is_recognized() -> None:
    logs = [{"epoch": n, "step": 10 * n, "loss": 0.0, "grad_norm": math.nan, "eval_loss": 2.0} for n in (1, 2)]
    assert judge(read_json(trainer_state(*logs)).curve, Advice()).kind is VerdictKind.DIVERGED


# ------------------------------------------------------------------------------------------ our own
MEASURED = tuple(
    Measured(
        10 * n,
        float(n),
        {"train_loss": 3.0 - n, "valid_loss": 3.1 - n, "train_accuracy": 0.3 + n / 5, "valid_accuracy": 0.3 + n / 6},
        "evaluation",
    )
    for n in range(3)
)
TRIAL = Trial(4, "k", "m", {"n_epochs": 2}, 1, state=TrialState.COMPLETE, curve=MEASURED, values=(0.6,))


def test_trials_bare_curves_and_events_of_this_software_are_read() -> None:
    diverged = Trial(
        5,
        "k5",
        "m",
        {},
        1,
        state=TrialState.STOPPED,
        curve=MEASURED,
        reason="the batch loss is not finite after step 3",
    )
    listed = [codec.to_json(trial) for trial in (TRIAL, diverged)]
    status = {"name": "snli", "objective": {"metric": "valid_accuracy", "direction": "maximize"}, "trials": listed}
    for value in (status, {"best": listed[0], "trials": listed}, [status], listed):
        first, second = read(json.dumps(value).encode())
        assert first.name.endswith("trial 4")
        assert first.curve.baseline is not None
        assert values_of(first, "valid_metric") == [(1.0, 0.3 + 1 / 6), (2.0, 0.3 + 2 / 6)]
        assert (first.curve.ended, second.curve.ended) == ("complete", "diverged")
    bare = read_json(
        [{key: value for key, value in asdict(measured).items() if key != "kind"} for measured in MEASURED]
    )
    assert bare.curve == first.curve
    journal = [Queued(), *MEASURED, Charged(None, 5)]
    lines = [json.dumps(codec.to_json(event)) for event in journal]
    assert read_one("\n".join(lines)).curve.ended == "stopped"
    done = read_one("\n".join([*lines, json.dumps(codec.to_json(Finished("m")))]))
    assert done.curve == bare.curve
    blown = Failed(Failure(FailureKind.DIVERGED, "the batch loss is not finite"))
    assert read_one("\n".join([*lines, json.dumps(codec.to_json(blown))])).curve.ended == "diverged"


def test_a_damaged_trial_is_an_error_and_not_a_crash() -> None:
    value = codec.to_json(TRIAL)
    del value["state"]
    with pytest.raises(TrainingLogError, match=r"looks like the output of .* but is damaged"):
        read_json([value])


# ------------------------------------------------------------------------------- values and options
def test_missing_values_and_values_that_are_not_finite_differ() -> None:
    missing = read_one("epoch,loss,val_loss\n1,1,\n2,0.9,0.8\n3,0.8,null\n")
    assert values_of(missing, "valid_loss") == [(2.0, 0.8)]
    for written in ("nan", "NaN", "inf", "-Infinity"):
        imported = read_one(f"epoch,loss,val_loss\n1,1,1\n2,0.9,{written}\n")
        assert not math.isfinite(values_of(imported, "valid_loss")[1][1])
        assert not math.isfinite(values_of(read_json({"val_loss": [1, written], "loss": [1, 1]}), "valid_loss")[1][1])
    assert values_of(read_json({"val_loss": [1, None], "loss": [1, 1]}), "valid_loss") == [(1.0, 1.0)]
    assert math.isnan(values_of(read_one('{"val_loss": [1, NaN]}'), "valid_loss")[1][1])


def test_per_cent_becomes_a_share() -> None:
    details = RunDetails(baseline_metric=33.0, baseline_loss=2.0, classes=3, valid_examples=500, train_examples=100)
    imported = read_json({"train_acc": [50, 90.0], "val_acc": [40.0, 60.0]}, details)
    assert values_of(imported, "valid_metric") == [(1.0, 0.4), (2.0, 0.6)]
    assert any("per cent" in note for note in imported.notes)
    curve = imported.curve
    assert curve.baseline is not None
    assert (curve.baseline.valid_metric, curve.baseline.valid_loss) == (0.33, 2.0)
    assert (curve.classes, curve.valid_examples, curve.train_examples) == (3, 500, 100)


def test_the_metric_can_be_chosen_and_is_never_a_loss() -> None:
    history = {"val_accuracy": [0.1, 0.2], "val_f1": [0.3, 0.4], "val_bleu": [0.5, 0.6], "val_perplexity": [30, 20]}
    assert read_json(history).curve.metric == "accuracy"
    for written in ("f1", "val_f1", "F1"):
        assert values_of(read_json(history, RunDetails(metric=written)), "valid_metric") == [(1.0, 0.3), (2.0, 0.4)]
    assert read_json(history, RunDetails(metric="bleu")).curve.metric == "bleu"
    for loss in ("perplexity", "valid_loss", "wer"):
        with pytest.raises(TrainingLogError, match="is a loss and no metric"):
            read_json(history, RunDetails(metric=loss))
    with pytest.raises(TrainingLogError) as raised:
        read_json(history, RunDetails(metric="rouge"))
    assert "accuracy, f1, bleu" in raised.value.hint


def test_a_metric_of_an_unknown_side_is_ignored() -> None:
    lone = read_json({"train_loss": [1, 2], "valid_loss": [1, 2], "accuracy": [0.5, 0.6]})
    assert (lone.curve.metric, lone.ignored) == (None, ("accuracy",))
    assert read_json({"accuracy": [0.5, 0.6], "val_accuracy": [0.4, 0.5]}).curve.points[0].train_metric == 0.5


def test_a_log_without_validation_values_gets_a_note_with_its_columns() -> None:
    imported = read_json({"loss": [1, 0.5], "beta": [1, 2]})
    assert judge(imported.curve, Advice()).kind is VerdictKind.UNSETTLED
    assert any("beta" in note for note in imported.notes)


def test_a_test_set_is_judged_only_where_nothing_else_was_held_out() -> None:
    alone = read_json({"loss": [1, 0.5], "test_loss": [1, 2]})
    assert values_of(alone, "valid_loss") == [(1.0, 1.0), (2.0, 2.0)]
    assert any("test set" in note for note in alone.notes)
    beside = read_json({"loss": [1, 0.5], "val_loss": [1, 0.9], "test_loss": [1, 2]})
    assert values_of(beside, "valid_loss") == [(1.0, 1.0), (2.0, 0.9)]


# -------------------------------------------------------------------------------------- wrong files
@pytest.mark.parametrize(
    ("content", "place", "says"),
    [
        (b"", "history", "is empty"),
        (b" \n\n", "history", "is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "history", "neither CSV nor JSON"),
        (b"hello world", "history:1", "no known column"),
        (b"epoch,loss,val_loss\n", "history", "no rows"),
        (b"epoch,loss,val_loss\n1,2,3\n2,abc,3\n", "history:3", "`loss` is 'abc'"),
        (b"epoch,loss,val_loss\n\n1,2,3\n2,1_0,3\n", "history:4", "`loss` is '1_0'"),
        (b"epoch,loss,val_loss\n1,2,3\n2,1\n", "history:3", "has 2 cells, but the header has 3"),
        (b"epoch,loss,loss\n1,2,3\n2,1,1\n", "history:1", "twice"),
        (b"epoch,loss\n1,2\nepoch,loss\n1,2\n", "history:3", "second header"),
        (b'epoch,loss\n1,2\n2,"3\n', "history:3", "not a valid table"),
        (b"epoch,loss\n1,2\n-1,2\n", "history:3", "`epoch` is -1"),
        (b"epoch,loss,val_acc\n1,2,-0.5\n2,1,0.5\n", "history", "no share"),
        (b"epoch,loss,val_acc\n1,2,300\n2,1,0.5\n", "history", "no share"),
        (b"epoch,loss\n1,\n2,\n", "history", "no number under loss"),
        (b'{"loss": [1, 2}', "history:1", "not valid JSON"),
        (b'{"loss": 1}\n{"loss": 2}\n{"lo', "history:3", "not valid JSON"),
        (b'{"loss": [1, [2]]}', "history: item 2 of the lists", "no number"),
        (b'{"loss": [1, true]}', "history: item 2 of the lists", "no number"),
        (b'{"loss": [1, 2, 3], "epoch": [1, 2]}', "history", "differ in length"),
        (b'{"a": [1, 2]}', "history", "`a`"),
        (b'[{"a": 1}, {"a": 2}]', "history", "`a`"),
        (b"[]", "history", "empty list"),
        (b"[1, 2]", "history", "not a training log"),
        (b'{"log_history": []}', "history", "log_history is empty"),
        (b'{"log_history": [3]}', "history: log_history[0]", "not a mapping"),
        (b'{"name": "x", "trials": []}', "history: x", "no trials"),
        (b"[" * 100_000, "history", ""),
    ],
)
def test_a_source_that_is_not_a_log_is_one_error_with_its_place_and_remedy(
    content: bytes, place: str, says: str
) -> None:
    with pytest.raises(TrainingLogError) as raised:
        read_one(content)
    error = raised.value
    assert error.place.startswith(place)
    assert says in error.message + error.hint
    assert error.hint


def test_a_missing_or_unreadable_file_is_an_error(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "absent.csv", "no such file"), (tmp_path, "cannot be read")):
        with pytest.raises(TrainingLogError, match=says):
            read(path)


def test_a_line_separator_inside_a_text_does_not_end_a_json_line() -> None:
    rows = [{"epoch": n, "valid_loss": 1.0 / n, "train_loss": 0.9 / n, "note": f"a\u2028b {n}"} for n in (1, 2, 3)]
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    [found] = read(content)
    assert len(found.curve.points) == 3
