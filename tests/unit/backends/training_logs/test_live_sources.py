"""Logs while they are written: cut anywhere, rewritten, begun again, in several files."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorboardX import SummaryWriter

from backends.training_logs.live_sources import SOURCE_TYPES, Database, LiveSource, _Metrics, open_source, row_of_line

pytestmark = pytest.mark.unit

ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def source(source_type: str, *files: Path) -> LiveSource:
    return open_source(source_type, [str(file) for file in files])


# ---------------------------------------------------------------------------------- lines of output
@pytest.mark.parametrize(
    ("line", "row"),
    [
        ('{"loss": 1.5, "step": 3}', {"loss": 1.5, "step": 3}),
        ("{'loss': '1.5', 'grad_norm': 'nan', 'epoch': '0.5'}", {"loss": "1.5", "grad_norm": "nan", "epoch": "0.5"}),
        ("{'loss': nan, 'lr': -inf, 'x': None}", {"loss": math.nan, "lr": -math.inf, "x": None}),
        (" 50%|#####     | 5/10 [00:01<00:01]{'eval_loss': 1.0, 'epoch': 1.0}", {"eval_loss": 1.0, "epoch": 1.0}),
        ("[INFO 12:00] epoch done: {'valid': {'loss': 2.0}}", {"valid_loss": 2.0}),
        ("Step 7 | loss:1.5 lr:0.0003 val_loss:2.5 ", {"step": 7, "loss": "1.5", "lr": "0.0003", "val_loss": "2.5"}),
    ],
)
def test_a_line_with_numbers(line: str, row: dict[str, object]) -> None:
    assert repr(row_of_line(line)) == repr(row)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "loss 1.5",
        "{'text': 'hello'}",
        "{broken",
        "}{",
        "{1: 2}",
        "[1, 2]",
        "{'a': __import__('os')}",
        "Step 1 | on",
    ],
)
def test_a_line_without_numbers(line: str) -> None:
    assert row_of_line(line) is None


def test_a_line_ends_at_a_carriage_return_and_may_be_long(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b'10%\r{"loss": 1}\r20%\r{"loss": 2}\n' + b"x" * 200_000 + b'\n{"loss": 3}\r\n{"loss": 4}')
    assert source("output", log).rows() == [{"loss": 1}, {"loss": 2}, {"loss": 3}]


# ---------------------------------------------------------------------------------------- in pieces
def json_lines(rows: Sequence[dict[str, float]]) -> bytes:
    return "".join(f"noise\r{json.dumps(row)}\n" for row in rows).encode()


def comma_separated(rows: Sequence[dict[str, float]]) -> bytes:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["step", "loss", "val_loss"])
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


number = st.floats(allow_nan=False) | st.integers(0, 99)
tables = st.lists(
    st.fixed_dictionaries({"step": st.integers(0, 99)}, optional={"loss": number, "val_loss": number}), max_size=12
)


@ONE_FOLDER
@given(tables, st.sampled_from(["jsonl", "csv"]), st.lists(st.floats(0, 1), max_size=5))
def test_a_file_in_any_pieces_gives_the_same_rows(
    tmp_path: Path, table: list[dict[str, float]], source_type: str, cuts: list[float]
) -> None:
    content = json_lines(table) if source_type == "jsonl" else comma_separated(table)
    file = tmp_path / "log.csv"
    file.write_bytes(content)
    whole = source(source_type, file).rows()
    assert len(whole) == len(table)
    file.write_bytes(b"")
    growing = source(source_type, file)
    seen: list[object] = []
    for cut in sorted(int(share * len(content)) for share in [*cuts, 1.0]):
        file.write_bytes(content[:cut])
        rows = growing.rows()
        assert rows == whole[: len(rows)]
        assert rows[: len(seen)] == seen
        seen = list(rows)
    assert seen == whole


def test_an_event_file_cut_anywhere_gives_the_first_rows(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "written")) as writer:
        writer.add_text("args", "{}")
        for step in (1, 2):
            writer.add_scalar("train/loss", 1.0 / step, step)
            writer.add_scalar("eval/loss", 2.0 / step, step)
    [written] = (tmp_path / "written").iterdir()
    content = written.read_bytes()
    whole = source("tensorboard", written).rows()
    assert whole == [
        {"step": 1, "train/loss": 1.0},
        {"step": 1, "eval/loss": 2.0},
        {"step": 2, "train/loss": 0.5},
        {"step": 2, "eval/loss": 1.0},
    ]
    growing_file = tmp_path / "events"
    growing_file.touch()
    growing = source("tensorboard", growing_file)
    for cut in range(0, len(content) + 1, 7):
        growing_file.write_bytes(content[:cut])
        assert growing.rows() == whole[: len(growing.rows())]
    growing_file.write_bytes(content)
    assert growing.rows() == whole


# --------------------------------------------------------------------------- rewritten, begun again
def test_a_log_that_gets_a_new_header_keeps_its_rows_at_every_moment(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    growing = source("csv", file)
    file.write_text("step,train_loss\n1,3.0\n2,2.0\n")
    rows = growing.rows()
    assert rows == [{"step": "1", "train_loss": "3.0"}, {"step": "2", "train_loss": "2.0"}]
    rewritten = "step,train_loss,val_loss\n1,3.0,\n2,2.0,\n2,,1.0\n"
    for length in range(len(rewritten)):
        file.write_text(rewritten[:length])
        assert growing.rows() == rows
    file.write_text(rewritten)
    assert growing.rows() == [*rows, {"step": "2", "val_loss": "1.0"}]


def test_a_log_that_a_resumed_program_begins_again_is_continued(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    growing = source("csv", file)
    file.write_text("epoch,val_loss\n1,3.0\n2,2.0\n3,1.5\n")
    assert len(growing.rows()) == 3
    file.write_text("epoch,val_loss\n3,1.4\n")
    growing.rows()
    file.write_text("epoch,val_loss\n3,1.4\n4,1.2\n")
    assert [row["epoch"] for row in growing.rows()] == ["1", "2", "3", "3", "4"]


def test_a_second_header_in_a_log_is_no_row(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("epoch,val_loss\n0,3.0\nepoch,val_loss\n1,2.0\n")
    assert [row["val_loss"] for row in source("csv", file).rows()] == ["3.0", "2.0"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_log_with_a_byte_order_mark_and_any_separator(tmp_path: Path, separator: str) -> None:
    file = tmp_path / "log.csv"
    file.write_text(f"\ufeffepoch{separator}val_loss\r\n0{separator}3.0\r\n", encoding="utf-8")
    assert source("csv", file).rows() == [{"epoch": "0", "val_loss": "3.0"}]


def test_a_file_that_disappears_keeps_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"loss": 1}\n')
    growing = source("jsonl", file)
    assert growing.rows() == [{"loss": 1}]
    file.unlink()
    assert growing.rows() == [{"loss": 1}]


# ----------------------------------------------------------------------------------- several files
def test_rows_of_several_files_are_in_the_order_of_their_steps_and_keep_it(tmp_path: Path) -> None:
    train, valid = tmp_path / "train.csv", tmp_path / "valid.csv"
    train.write_text("step,loss\n10,2.0\n20,1.0\n")
    valid.write_text("step,val_loss\n10,2.5\n20,1.5\n")
    both = source("csv", tmp_path / "*.csv")
    first = both.rows()
    assert [row["step"] for row in first] == ["10", "10", "20", "20"]
    with train.open("a") as stream:
        stream.write("30,0.5\n")
    (tmp_path / "a_later.csv").write_text("step,val_acc\n30,0.9\n")
    rows = both.rows()
    assert rows[: len(first)] == first
    assert [row["step"] for row in rows[len(first) :]] == ["30", "30"]


def test_a_link_to_a_log_is_not_a_second_log(tmp_path: Path) -> None:
    (tmp_path / "version_0").mkdir()
    (tmp_path / "version_0" / "metrics.csv").write_text("step,val_loss\n1,2.5\n")
    (tmp_path / "latest").symlink_to(tmp_path / "version_0")
    assert source("csv", tmp_path / "**" / "*.csv").rows() == [{"step": "1", "val_loss": "2.5"}]


def state(*steps: int) -> str:
    return json.dumps({"log_history": [{"step": step, "eval_loss": 1.0} for step in steps]})


def test_the_newest_trainer_state_that_can_be_read_counts(tmp_path: Path) -> None:
    def write(checkpoint: int, text: str) -> None:
        file = tmp_path / f"checkpoint-{checkpoint}" / "trainer_state.json"
        file.parent.mkdir()
        file.write_text(text)
        os.utime(file, (checkpoint, checkpoint))

    states = source("hf_trainer_state", tmp_path / "**" / "trainer_state.json")
    assert states.rows() == []
    write(10, state(10))
    assert [row["step"] for row in states.rows()] == [10]
    write(20, state(10, 20)[:-5])
    assert [row["step"] for row in states.rows()] == [10]
    (tmp_path / "checkpoint-20" / "trainer_state.json").write_text(state(10, 20))
    assert [row["step"] for row in states.rows()] == [10, 20]


@pytest.mark.parametrize("content", ["[]", "{}", "3", '{"log_history": 3}', '{"log_history": [3, null]}', "{"])
def test_a_state_that_is_none_has_no_rows(tmp_path: Path, content: str) -> None:
    file = tmp_path / "trainer_state.json"
    file.write_text(content)
    assert source("hf_trainer_state", file).rows() == []


def test_metrics_that_an_asynchronous_logger_wrote_late_come_in_the_order_of_their_steps(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE metrics (key TEXT, value REAL, is_nan INTEGER, step INTEGER)")

        def log(*steps: int) -> None:
            values = [("loss", 1.0 / step, step == 3, step) for step in steps]
            connection.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?)", values)
            connection.commit()

        impatient = Database(settling_s=0.0)
        patient = Database(settling_s=1000.0)
        log(1, 3, 2)
        assert [row["step"] for row in impatient.rows(file)] == [1, 2, 3]
        assert patient.rows(file) == []
        log(5, 4)
        assert patient.rows(file) == []
        rows = patient.rows(file, has_ended=True)
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
        assert math.isnan(rows[2]["loss"])


def test_a_metric_that_has_settled_takes_those_of_earlier_steps_with_it() -> None:
    metrics = _Metrics(settling=[(0.0, {"step": 1}), (0.0, {"step": 3}), (5.0, {"step": 2}), (5.0, {"step": 4})])
    metrics.settle(1.0)
    assert metrics.rows == [{"step": 1}, {"step": 2}, {"step": 3}]
    metrics.settle(9.0)
    assert metrics.rows == [{"step": 1}, {"step": 2}, {"step": 3}, {"step": 4}]


def framed(record: bytes) -> bytes:
    return len(record).to_bytes(8, "little") + b"0000" + record + b"0000"


@ONE_FOLDER
@given(st.sampled_from(sorted(SOURCE_TYPES)), st.lists(st.binary(max_size=60), max_size=3), st.booleans())
def test_any_content_is_read_without_an_error(
    tmp_path: Path, source_type: str, parts: list[bytes], is_framed: bool
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"".join(framed(part) if is_framed else part + b"\n" for part in parts))
    source(source_type, file).rows()


@ONE_FOLDER
@given(st.text(alphabet='ab,"\r\0;{}: 1', max_size=40))
def test_any_text_is_read_without_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "file"
    file.write_text(text + "\n", newline="")
    for source_type in ("csv", "jsonl"):
        source(source_type, file).rows()


def test_a_database_without_tables_has_no_rows(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    assert source("mlflow", file).rows() == []
    file.write_bytes(b"")
    assert source("mlflow", file).rows() == []
    assert not list(tmp_path.glob("*-journal"))
