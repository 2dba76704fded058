"""A run on disk: what survives a crash, and what another attempt finds."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

from backends.command.run_folder import Attempt, ProgramEnd, RunFolder
from backends.contract import DataFile, Dataset, EvaluationSettings, Finished, Queued, Started, TrainingRequest
from backends.run_names import run_id

pytestmark = pytest.mark.unit

NOTHING = DataFile("", 0, "")
REQUEST = TrainingRequest(
    "key", "", Dataset(NOTHING, NOTHING, "completion"), {"lr": 0.1}, 3, EvaluationSettings(keep_metric="valid_loss")
)


def created(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path, "key")
    run.create(REQUEST)
    return run


@pytest.mark.parametrize("key", ["trial-7", "a.b_c", "x" * 100])
def test_a_safe_key_names_its_folder(key: str) -> None:
    assert run_id(key) == key


@pytest.mark.parametrize("key", ["", "..", ".hidden", "a/b", "x" * 101, "ä", "a b"])
def test_any_other_key_is_replaced_by_its_digest(key: str) -> None:
    assert len(run_id(key)) == 64
    assert run_id(key) != run_id(key + "x")


def test_a_request_is_written_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, "key")
    assert not run.exists
    run.create(REQUEST)
    written = (run.path / "request.json").read_text()
    run.create(TrainingRequest("key", "other", REQUEST.dataset, {}, 4))
    assert (run.path / "request.json").read_text() == written
    assert RunFolder(tmp_path, "key").request() == REQUEST


def test_events_of_another_process_are_read_and_a_torn_line_is_replaced(tmp_path: Path) -> None:
    run, other = created(tmp_path), RunFolder(tmp_path, "key")
    run.append([Queued()])
    assert other.events() == [Queued()]
    with (run.path / "events.jsonl").open("ab") as stream:
        stream.write(b'{"kind": "star')
    assert other.events() == run.events() == [Queued()]
    other.append([Started({"lr": 0.1})])
    assert run.events() == [Queued(), Started({"lr": 0.1})]
    assert not run.ended
    run.append([Finished("model")])
    assert other.ended
    assert [json.loads(line)["kind"] for line in (run.path / "events.jsonl").read_text().splitlines()] == [
        "queued",
        "started",
        "finished",
    ]


def test_an_attempt_from_scratch_finds_an_empty_folder_and_keeps_the_record(tmp_path: Path) -> None:
    run = created(tmp_path)
    run.append([Queued()])
    run.write_call({"arguments": []})
    run.write_end(ProgramEnd(1, "abandoned"))
    run.request_pause()
    run.log.write_text("first attempt\n")
    (run.output / "checkpoint-1").mkdir()
    for name in ("metrics.jsonl", "mlflow.db"):
        (run.path / name).touch()
    (run.path / "link").symlink_to(tmp_path)
    attempt = Attempt(2, None, 5, "digest")
    for _ in range(2):  # as after a crash in between
        run.begin_attempt(attempt)
    assert run.attempt == attempt
    assert run.end is None
    assert not run.is_planned
    assert not run.pause_requested
    assert not any(run.output.iterdir())
    assert run.log.read_text() == "first attempt\n"
    assert run.events() == [Queued()]
    assert {path.name for path in run.path.iterdir()} == {
        "attempt.json",
        "request.json",
        "events.jsonl",
        "output.log",
        "output",
    }
    assert tmp_path.is_dir()


def test_an_attempt_from_a_checkpoint_finds_everything(tmp_path: Path) -> None:
    run = created(tmp_path)
    (run.output / "checkpoint-1").mkdir()
    (run.path / "metrics.jsonl").touch()
    run.begin_attempt(Attempt(2, str(run.output / "checkpoint-1")))
    assert (run.output / "checkpoint-1").is_dir()
    assert (run.path / "metrics.jsonl").exists()


def test_a_request_to_stop_outlives_an_attempt(tmp_path: Path) -> None:
    run = created(tmp_path)
    run.request_stop()
    run.begin_attempt(Attempt(2))
    assert run.stop_requested


def test_a_locked_run_is_supervised(tmp_path: Path) -> None:
    run = created(tmp_path)
    assert not run.is_supervised
    with (run.path / "lock").open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert run.is_supervised
        with run.unsupervised() as is_free:
            assert not is_free
    assert not run.is_supervised
    with run.unsupervised() as is_free:
        assert is_free
        assert run.is_supervised


def test_the_last_lines_are_those_that_a_screen_shows(tmp_path: Path) -> None:
    run = created(tmp_path)
    assert run.last_lines(3) == []
    run.log.write_bytes(b"first\n\n 10%|#  |\r 90%|###|\r\nlast \xff line\n   \n")
    assert run.last_lines(2) == [" 90%|###|", "last \ufffd line"]
    run.log.write_bytes(b"x" * 200_000 + b"\nend\n")
    assert run.last_lines(1) == ["end"]


@pytest.mark.parametrize("cause", ["paused", "abandoned", "signalled", "lost"])
def test_a_run_may_continue_after_an_end_that_is_not_its_own(cause: str) -> None:
    assert ProgramEnd(-9, cause).may_continue


@pytest.mark.parametrize("cause", ["ended", "stopped", "not started"])
def test_any_other_end_is_final(cause: str) -> None:
    assert not ProgramEnd(1, cause).may_continue
