"""Kinds of files that strangers have published, and that were read wrongly or refused."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from backends.training_logs import ImportedCurve, RunDetails, TrainingLogError, columns_option, delimited_text, read
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import judge
from sweeps.verdicts.verdict import VerdictKind

pytestmark = pytest.mark.unit

TRAIN = [0.95, 0.68, 0.50, 0.36, 0.27, 0.21, 0.16, 0.13]
VALID = [0.90, 0.69, 0.61, 0.60, 0.64, 0.70, 0.76, 0.82]
ROWS = list(enumerate(zip(TRAIN, VALID, strict=True), start=1))


def one(content: str | bytes, name: str = "log", **details: object) -> ImportedCurve:
    found = read(content.encode() if isinstance(content, str) else content, RunDetails(**details), name)  # type: ignore[arg-type]
    assert len(found) == 1
    return found[0]


def values(imported: ImportedCurve, field: str) -> list[float]:
    return [value for point in imported.curve.points if (value := getattr(point, field)) is not None]


def assert_read(imported: ImportedCurve, *, train: Sequence[float] = TRAIN) -> None:
    assert values(imported, "valid_loss") == pytest.approx(VALID)
    assert values(imported, "train_loss") == pytest.approx(train)
    assert judge(imported.curve, Advice()).kind is VerdictKind.OVERFIT


def state(*entries: dict[str, object]) -> str:
    return json.dumps({"log_history": entries, "global_step": 100, "max_steps": 100})


# ---------------------------------------------------------------------- trainer_state.json
def test_each_named_validation_set_gets_a_curve() -> None:
    entries = [
        {"epoch": float(epoch), "step": epoch, "loss": train, "eval_a_loss": valid, "eval_b_loss": 2 * valid}
        for epoch, (train, valid) in ROWS
    ]
    first, second = read(state(*entries).encode())
    assert (first.evaluation_set, second.evaluation_set) == ("a", "b")
    assert_read(first)
    assert values(second, "valid_loss") == pytest.approx([2 * valid for valid in VALID])
    assert "on b" in second.title


def test_a_part_of_the_loss_beside_the_loss_is_no_validation_set() -> None:
    entries = [{"epoch": float(e), "eval_loss": v, "eval_contrastive_loss": 9.0, "loss": t} for e, (t, v) in ROWS]
    assert_read(one(state(*entries)))


def test_rounded_epochs_lose_no_evaluation() -> None:
    losses = [1.2, 0.5, 0.8, 1.1]
    entries = [
        {"epoch": round(0.005 * n, 2), "step": 100 * n, "eval_loss": loss} for n, loss in enumerate(losses, start=1)
    ]
    imported = one(state(*entries))
    assert imported.axis == "step"
    assert values(imported, "valid_loss") == losses
    assert any("epochs are rounded" in note for note in imported.notes)


@pytest.mark.parametrize("has_summary", [True, False])
def test_a_second_evaluation_at_the_end_does_not_replace_the_last_one(has_summary: bool) -> None:
    """As after `load_best_model_at_end`, or for a test set."""
    entries: list[dict[str, object]] = []
    for epoch, (train, valid) in ROWS:
        entries += [{"epoch": float(epoch), "loss": train, "step": epoch}]
        entries += [{"epoch": float(epoch), "eval_loss": valid, "step": epoch}]
    if has_summary:
        entries.append({"epoch": 8.0, "train_runtime": 9, "train_loss": 0.3, "step": 8})
    entries.append({"epoch": 8.0, "eval_loss": 0.60, "step": 8})
    imported = one(state(*entries))
    assert_read(imported)
    assert any("further evaluation" in text or "after training" in text for text in imported.left_out)


def test_the_size_of_the_validation_set_is_in_its_runtime_and_speed() -> None:
    entries = [
        {"epoch": float(e), "loss": t, "eval_loss": v, "eval_runtime": 147.0, "eval_samples_per_second": 275.03}
        for e, (t, v) in ROWS
    ]
    assert one(state(*entries)).curve.valid_examples == pytest.approx(40430, abs=2)
    assert one(state(*entries), valid_examples=77).curve.valid_examples == 77
    without = [{key: value for key, value in entry.items() if key != "eval_runtime"} for entry in entries]
    assert one(state(*without)).curve.valid_examples is None


def test_a_single_evaluation_is_unsettled() -> None:
    imported = one(state({"epoch": 1.0, "loss": 0.58, "step": 661}, {"epoch": 1.0, "eval_loss": 0.51, "step": 661}))
    assert judge(imported.curve, Advice()).kind is VerdictKind.UNSETTLED


# ---------------------------------------------------------------------- long tables
@pytest.mark.parametrize("column", ["phase", "split", "mode"])
def test_rows_of_phases_become_columns(column: str) -> None:
    lines = [f"epoch,{column},loss"]
    for epoch, (train, valid) in ROWS:
        lines += [f"{epoch},train,{train}", f"{epoch},val,{valid}", f"{epoch},test,9"]
    imported = one("\n".join(lines))
    assert_read(imported)
    assert imported.left_out == ("8 rows of the test set",)


@pytest.mark.parametrize("column", ["run", "fold", "seed", "run_name"])
def test_runs_in_one_table_get_a_verdict_each(column: str) -> None:
    lines = [f"{column},epoch,train_loss,val_loss"]
    for epoch, (train, valid) in ROWS:
        lines += [f"1,{epoch},{train},{valid}", f"2,{epoch},{train},{train}"]
    first, second = read("\n".join(lines).encode())
    assert (first.run, second.run) == ("1", "2")
    assert_read(first)
    assert judge(second.curve, Advice()).kind is not VerdictKind.OVERFIT


def test_rows_in_any_order_are_sorted() -> None:
    by_loss = sorted(ROWS, key=lambda row: row[1][1])
    imported = one("epoch,train_loss,val_loss\n" + "".join(f"{e},{t},{v}\n" for e, (t, v) in by_loss))
    assert_read(imported)
    assert any("sorted" in note for note in imported.notes)


def test_a_log_that_starts_again_is_still_its_last_run() -> None:
    earlier = "".join(f"{e},9,9\n" for e in range(1, 4))
    imported = one("epoch,train_loss,val_loss\n" + earlier + "".join(f"{e},{t},{v}\n" for e, (t, v) in ROWS))
    assert_read(imported)
    assert imported.left_out == ("6 values of earlier runs",)


# ---------------------------------------------------------------------- numbers
def test_per_cent_and_share_are_told_apart_by_column() -> None:
    shares = [0.60 + 0.03 * n for n in range(8)]
    text = "epoch,train_acc,val_acc\n" + "".join(f"{n + 1},{100 * s},{s}\n" for n, s in enumerate(shares))
    imported = one(text)
    assert values(imported, "train_metric") == pytest.approx(shares)
    assert values(imported, "valid_metric") == pytest.approx(shares)


def test_nan_between_numbers_is_a_blank_and_nan_at_the_end_is_divergence() -> None:
    def log(validated: Sequence[object]) -> str:
        return "step,train_loss,val_loss\n" + "".join(
            f"{n},{1 - n / 100},{value}\n" for n, value in enumerate(validated, start=1)
        )

    sparse = one(log([0.9 - n / 100 if n % 3 == 0 else "nan" for n in range(1, 31)]))
    assert len(values(sparse, "valid_loss")) == 10
    assert judge(sparse.curve, Advice()).kind is not VerdictKind.DIVERGED
    broken = one(log([0.9 - n / 100 if n < 12 else "nan" for n in range(1, 31)]))
    assert judge(broken.curve, Advice()).kind is VerdictKind.DIVERGED


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas(separator: str) -> None:
    rows = [(str(e), f"{t:.4f}".replace(".", ","), f"{v:.4f}".replace(".", ",")) for e, (t, v) in ROWS]
    text = "\n".join(separator.join(row) for row in [("epoch", "train_loss", "val_loss"), *rows])
    assert_read(one(text))


def test_values_with_a_per_cent_sign() -> None:
    text = "epoch,train_loss,val_loss,val_acc\n" + "".join(f"{e},{t},{v},{70 + e}.5%\n" for e, (t, v) in ROWS)
    assert values(one(text), "valid_metric") == pytest.approx([0.705 + e / 100 for e in range(1, 9)])


CSV = "epoch,train_loss,val_loss\n" + "".join(f"{e},{t},{v}\n" for e, (t, v) in ROWS)


@pytest.mark.parametrize(
    "content",
    [
        CSV.encode("utf-16"),
        CSV.encode("utf-16-le"),
        CSV.encode("utf-16-be"),
        CSV.encode("utf-8-sig"),
        ("sep=,\n" + CSV).encode(),
        gzip.compress(CSV.encode()),
    ],
    ids=["utf-16", "utf-16-le", "utf-16-be", "bom", "sep", "gzip"],
)
def test_encodings_and_wrappings(content: bytes) -> None:
    assert_read(one(content))


def test_windows_1252_is_read() -> None:
    text = "epoch,train_loss,val_loss,größe\n" + "".join(f"{e},{t},{v},1\n" for e, (t, v) in ROWS)
    imported = one(text.encode("cp1252"))
    assert_read(imported)
    assert "the file is read as cp1252" in imported.notes


def test_a_damaged_archive_is_one_error() -> None:
    with pytest.raises(TrainingLogError, match="its end is missing"):
        one(gzip.compress(CSV.encode())[:20] + b"xx")


# ---------------------------------------------------------------------- exports
def test_a_wandb_chart_of_one_run_and_of_two() -> None:
    header = "Step,a - train/loss,a - train/loss__MIN,a - train/loss__MAX,a - eval/loss,a - eval/loss__MIN"
    lines = [header, *(f"{e},{t},{t},{t},{v},{v}" for e, (t, v) in ROWS)]
    imported = one("\n".join(lines))
    assert_read(imported)
    assert imported.left_out == ("3 columns of smoothed ranges",)
    both = ["Step,a - eval/loss,b - eval/loss", *(f"{e},{v},{t}" for e, (t, v) in ROWS)]
    first, second = read("\n".join(both).encode())
    assert (first.run, second.run) == ("a", "b")
    assert values(first, "valid_loss") == VALID


@pytest.mark.parametrize("orient", ["columns", "index", "records", "split", "table"])
def test_pandas_to_json(orient: str) -> None:
    frame = pd.DataFrame({"loss": TRAIN, "val_loss": VALID})
    assert_read(one(frame.to_json(orient=orient)))  # type: ignore[call-overload]


def test_a_tensorboard_export_has_its_tag_in_the_name() -> None:
    text = "Wall time,Step,Value\n" + "".join(f"170000{e},{e},{v}\n" for e, (_, v) in ROWS)
    imported = one(text, name="runs/run-x-tag-eval_loss.csv")
    assert values(imported, "valid_loss") == VALID
    with pytest.raises(TrainingLogError) as caught:
        one(text, name="something.csv")
    assert "--columns" in caught.value.hint
    chosen = one(text, name="something.csv", columns={"valid_loss": "Value"})
    assert values(chosen, "valid_loss") == VALID


def test_a_tensorboard_event_file(tmp_path: Path) -> None:
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for epoch, (train, valid) in ROWS:
            writer.add_scalar("train/loss", train, epoch)
            writer.add_scalar("eval/loss", valid, epoch)
    [file] = tmp_path.glob("events*")
    [imported] = read(file)
    assert values(imported, "valid_loss") == pytest.approx(VALID)
    assert imported.format == "TensorBoard event file"
    content = file.read_bytes()
    assert read(content[: len(content) - 7], name="cut")[0].curve.points
    with pytest.raises(TrainingLogError, match="no scalars"):
        read(content[: 16 + struct.unpack_from("<Q", content)[0]], name="empty")


def test_the_loss_of_a_detector_is_the_sum_of_its_parts() -> None:
    header = "                  epoch,         train/box_loss,         train/cls_loss,   val/box_loss,   val/cls_loss"
    lines = [header, *(f"{e},{t - 0.1},0.1,{v - 0.1},0.1" for e, (t, v) in ROWS)]
    imported = one("\n".join(lines))
    assert_read(imported)
    assert any("is the sum of" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("train", "valid"),
    [
        ("avg_train_loss", "avg_val_loss"),
        ("mean_train_loss", "mean_valid_loss"),
        ("train_losses", "val_losses"),
        ("train_total_loss", "val_total_loss"),
        ("train_loss_avg", "val_loss_avg"),
        ("Trainingsverlust", "Validierungsverlust"),
        ("perte_entrainement", "perte_validation"),
        ("训练损失", "验证损失"),
        ("обучение потери", "валидация потери"),
    ],
)
def test_names_of_averages_and_of_other_languages(train: str, valid: str) -> None:
    assert_read(one(CSV.replace("train_loss", train).replace("val_loss", valid)))


def test_aligned_and_markdown_tables() -> None:
    aligned = "epoch     train_loss  valid_loss  time\n" + "".join(f"{e}    {t}    {v}   00:10\n" for e, (t, v) in ROWS)
    assert_read(one(aligned))
    markdown = "| Training Loss | Epoch | Step | Validation Loss |\n|:---:|:---:|:---:|:---:|\n"
    markdown += "".join(f"| {t} | {e}.0 | {e}00 | {v} |\n" for e, (t, v) in ROWS)
    assert_read(one(markdown))


def test_lines_that_a_program_printed() -> None:
    keras = "".join(f"Epoch {e}/8\n100/100 [====] - 2s 9ms/step - loss: {t} - val_loss: {v}\n" for e, (t, v) in ROWS)
    assert_read(one(keras))
    trainer = "".join(
        f"{{'loss': {t}, 'learning_rate': 1e-5, 'epoch': {e}.0}}\n{{'eval_loss': {v}, 'epoch': {e}.0}}\n"
        for e, (t, v) in ROWS
    )
    assert_read(one(trainer))
    own = "".join(f"2026-01-0{e} INFO epoch {e}: train_loss=9.0, val loss: 9\n" for e in range(1, 2))
    with pytest.raises(TrainingLogError):
        one(own)


# ---------------------------------------------------------------------- --columns
def test_columns_may_be_named() -> None:
    text = "k,apples,pears\n" + "".join(f"{e},{t},{v}\n" for e, (t, v) in ROWS)
    with pytest.raises(TrainingLogError) as caught:
        one(text)
    assert "`pears`" in caught.value.message
    assert "--columns" in caught.value.hint
    assert_read(one(text, columns=columns_option("train_loss=apples, valid_loss=pears, epoch=k")))


def test_a_named_column_goes_before_what_a_name_reveals() -> None:
    text = "epoch,train_loss,val_loss,holdout\n" + "".join(f"{e},{t},9,{v}\n" for e, (t, v) in ROWS)
    assert_read(one(text, columns={"valid_loss": "holdout"}))


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("valid_loss", "is no pair"),
        ("valid_los=x", "did you mean valid_loss?"),
        ("nothing=x", "known are epoch"),
        ("valid_loss=x,valid_loss=y", "second time"),
        ("valid_loss=x,train_loss=x", "second time"),
    ],
)
def test_a_wrong_option_is_one_error(written: str, told: str) -> None:
    with pytest.raises(TrainingLogError) as caught:
        columns_option(written)
    assert told in f"{caught.value.message} {caught.value.hint}"


def test_a_column_that_is_not_there_is_one_error() -> None:
    with pytest.raises(TrainingLogError) as caught:
        one(CSV, columns={"valid_loss": "val_los"})
    assert "did you mean `val_loss`?" in caught.value.hint


def test_what_was_read_is_counted() -> None:
    assert one(CSV).values_read == 16


def test_the_name_of_a_file_may_say_that_its_loss_is_validation() -> None:
    text = "epoch,loss\n" + "".join(f"{e},{v}\n" for e, (_, v) in ROWS)
    imported = one(text, name="runs/val_loss.csv")
    assert values(imported, "valid_loss") == VALID
    assert any("the name of the file" in note for note in imported.notes)
    assert values(one(text, name="runs/train_val.csv"), "valid_loss") == []
    assert values(one(text, name="runs/loss.csv"), "valid_loss") == []


# ------------------------------------------------------------------------ found by a second reader
def evaluations(imported: ImportedCurve) -> int:
    return sum(point.valid_loss is not None for point in imported.curve.points)


def test_a_long_table_of_phases_loses_no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited_text, "MANY_ROWS", 10)
    rows = [f"{epoch},{phase},{1 / epoch}" for epoch in range(1, 41) for phase in ("train", "val")]
    imported = one("\n".join(["epoch,phase,loss", *rows]))
    assert (evaluations(imported), imported.left_out) == (40, ())


def test_a_long_log_is_thinned_between_its_evaluations_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited_text, "MANY_ROWS", 10)
    for blank in ("", "nan"):
        lines = [f"{step},{1 / step},{1 / step if step % 8 == 0 else blank}" for step in range(1, 161)]
        imported = one("\n".join(["step,train_loss,val_loss", *lines]))
        assert evaluations(imported) == 20
        assert "rows with training values only, of which one in" in imported.left_out[0]
    broken = [
        f"{step},{'inf' if step == 77 else 1 / step},{1 / step if step % 8 == 0 else ''}" for step in range(1, 161)
    ]
    found = one("\n".join(["step,train_loss,val_loss", *broken]))
    assert judge(found.curve, Advice()).kind is VerdictKind.DIVERGED


def test_nan_is_a_blank_also_between_uneven_evaluations_and_stays_at_the_end() -> None:
    def log(at: Sequence[int], last: int) -> str:
        return "step,train_loss,val_loss\n" + "".join(
            f"{n},{1 - n / 100},{1 - n / 200 if n in at else 'nan'}\n" for n in range(1, last + 1)
        )

    for at, last in (((10, 20, 31, 40), 45), ((5, 9), 12)):
        assert judge(one(log(at, last)).curve, Advice()).kind is not VerdictKind.DIVERGED
    diverged = one(log((5, 10, 15), 40))
    assert judge(diverged.curve, Advice()).kind is VerdictKind.DIVERGED
    assert len([value for value in values(diverged, "valid_loss") if value == value]) == 3


def test_rows_of_both_sides_in_any_order_are_one_run() -> None:
    lines = [f"{e},{t}," for e, (t, _) in reversed(ROWS[2:])] + [f"{e},,{v}" for e, (_, v) in reversed(ROWS)]
    lines += [f"{e},{t}," for e, (t, _) in ROWS[:2]]
    assert_read(one("\n".join(["epoch,train_loss,val_loss", *lines])))


def test_two_columns_of_runs_tell_the_runs_apart_together() -> None:
    lines = [f"{fold},{seed},{e},{t},{v}" for fold in (1, 2) for seed in (7, 8) for e, (t, v) in ROWS]
    found = read("\n".join(["fold,seed,epoch,train_loss,val_loss", *lines]).encode())
    assert [curve.run for curve in found] == ["1, 7", "1, 8", "2, 7", "2, 8"]
    assert all(evaluations(curve) == len(ROWS) for curve in found)


def test_a_table_with_one_row_for_each_run_is_no_curve() -> None:
    with pytest.raises(TrainingLogError, match="one row for each run"):
        one("Name,lr,val_loss\na,1,0.5\nb,2,0.4\nc,3,0.6\n")


def test_phases_with_names_of_their_own_are_sets_or_left_out() -> None:
    lines = [
        f"{e},{phase},{value}" for e, (t, v) in ROWS for phase, value in (("train", t), ("dev-seen", v), ("dev-new", t))
    ]
    found = read("\n".join(["epoch,split,loss", *lines, "9,warmup,5"]).encode())
    assert [curve.evaluation_set for curve in found] == ["seen", "new"]
    assert values(found[0], "valid_loss") == VALID
    assert found[0].left_out == ("1 rows of `warmup`",)


def test_named_sets_come_in_a_useful_order_and_may_have_metrics_only() -> None:
    entries: list[dict[str, object]] = [
        {"epoch": float(e), "loss": t, "eval_ood_loss": t, "eval_validation_loss": v, "eval_train_loss": t}
        for e, (t, v) in ROWS
    ]
    found = read(state(*entries).encode())
    assert [curve.evaluation_set for curve in found] == ["validation", "ood"]
    scores: list[dict[str, object]] = [
        {"epoch": float(e), "loss": t, "eval_mnli_accuracy": 1 - v / 2} for e, (t, v) in ROWS
    ]
    [curve] = read(state(*scores).encode())
    assert (curve.evaluation_set, curve.curve.metric) == ("mnli", "accuracy")


def test_a_number_of_samples_is_the_size_of_the_validation_set() -> None:
    entries: list[dict[str, object]] = [
        {"epoch": float(e), "loss": t, "eval_loss": v, "eval_samples": 872} for e, (t, v) in ROWS
    ]
    assert one(state(*entries)).curve.valid_examples == 872


def test_a_metric_slightly_above_one_is_no_per_cent() -> None:
    with pytest.raises(TrainingLogError, match=r"1\.5, which is no share"):
        one("epoch,val_loss,val_acc\n1,1,0.9\n2,0.9,1.5\n")


def test_a_model_card_says_no_log_before_the_first_training_loss() -> None:
    lines = ["| Training Loss | Epoch | Step | Validation Loss |", "|:--|:--|:--|:--|", "| No log | 0.5 | 50 | 1.0 |"]
    lines += [f"| {t} | {e}.0 | {e}00 | {v} |" for e, (t, v) in ROWS]
    assert values(one("\n".join(lines)), "valid_loss") == [1.0, *VALID]


def test_printed_lines_may_begin_with_a_bracket() -> None:
    lines = [f"[2026-12-01 10:00:0{e}] [INFO] {{'loss': {t}, 'eval_loss': {v}, 'epoch': {e}}}" for e, (t, v) in ROWS]
    assert_read(one("\n".join(lines)))
    rows = [{"loss": train, "val_loss": valid} for train, valid in zip(TRAIN, VALID, strict=True)]
    assert_read(one(json.dumps(rows)))


def test_an_empty_cell_too_many_is_dropped() -> None:
    assert_read(one(CSV.replace("\n", ",\n").replace("val_loss,\n", "val_loss\n")))


def test_the_name_of_a_file_says_nothing_where_a_column_is_validation() -> None:
    text = "step,loss,eval_ppl\n" + "".join(f"{e},{t},3\n" for e, (t, _) in ROWS)
    assert values(one(text, name="run_eval.csv"), "valid_loss") == []


def test_a_table_of_runs_with_their_last_epochs_is_no_curve() -> None:
    with pytest.raises(TrainingLogError, match="one row for each run"):
        one("Name,epoch,val_loss\na,3,0.5\nb,3,0.4\nc,2,0.6\n")
    assert evaluations(one("run,epoch,val_loss\na,1,0.5\nb,2,0.4\nc,3,0.6\n")) == 3


def test_the_table_inside_a_model_card_is_read() -> None:
    table = "| Training Loss | Epoch | Step | Validation Loss |\n|:---:|:---:|:---:|:---:|\n"
    table += "".join(f"| {t} | {e}.0 | {e}00 | {v} |\n" for e, (t, v) in ROWS)
    before = "---\nlicense: mit\n---\n\n# a model\n\n- Loss: 0.82\n\n| a | b |\n|--|--|\n| 1 | 2 |\n\n"
    card = f"{before}{table}\n### Versions\n- Torch 1\n"
    assert_read(one(card, name="README.md"))
