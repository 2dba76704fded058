"""A run's record on disk."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from backends.contract import BackendError, Event, FailureKind, Finished, Measured, Queued, Stopped
from backends.local.journal import Journal, run_id

pytestmark = pytest.mark.unit


def journal(tmp_path: Path, run: str = "r") -> Journal:
    (tmp_path / run).mkdir(exist_ok=True)
    return Journal(tmp_path, run)


EVENTS: list[Event] = [Queued(), Measured(1, 0.5, {"batch_loss": math.inf}, "step"), Finished("m")]


def test_another_reader_sees_events_as_they_come(tmp_path: Path) -> None:
    writer, reader = journal(tmp_path), journal(tmp_path)
    assert list(reader.events()) == []
    for count in range(1, 4):
        writer.append(EVENTS[count - 1 : count])
        assert list(reader.events()) == EVENTS[:count]
        assert reader.ended == (count == 3)


def test_a_line_that_was_cut_short_is_no_event(tmp_path: Path) -> None:
    record = journal(tmp_path)
    record.append(EVENTS[:2])
    path = tmp_path / "r" / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    assert list(journal(tmp_path).events()) == EVENTS[:1]
    record.truncate(1)
    record.append([Stopped()])
    assert list(journal(tmp_path).events()) == [Queued(), Stopped()]


def test_a_reader_notices_that_events_were_taken_back(tmp_path: Path) -> None:
    writer, reader = journal(tmp_path), journal(tmp_path)
    writer.append(EVENTS[:2])
    assert len(reader.events()) == 2
    writer.truncate(1)
    assert list(reader.events()) == EVENTS[:1]


def test_a_run_has_one_trainer(tmp_path: Path) -> None:
    one, other = journal(tmp_path), journal(tmp_path)
    one.claim()
    one.claim()
    with pytest.raises(BackendError) as raised:
        other.claim()
    assert raised.value.failure.kind is FailureKind.TRANSIENT
    one.release()
    one.release()
    other.claim()
    other.release()


def test_the_end_leaves_the_model_and_the_record(tmp_path: Path) -> None:
    record = journal(tmp_path)
    record.append(EVENTS)
    record.request_stop()
    record.checkpoint_path.touch()
    (tmp_path / "r" / "model.tmp").mkdir()
    record.model_directory.mkdir()
    record.end()
    assert {each.name for each in (tmp_path / "r").iterdir()} == {"events.jsonl", "model"}


def test_a_key_that_is_no_file_name_gets_one() -> None:
    assert run_id("sweep-3_trial.7") == "sweep-3_trial.7"
    ids = {run_id(each) for each in ("../up", "a/b", "", ".hidden", "x" * 200, "ä")}
    assert len(ids) == 6
    assert all("/" not in each and not each.startswith(".") for each in ids)
