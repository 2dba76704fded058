"""The journal: a run's directory on disk."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from backends.contract import (
    BackendError,
    Charged,
    Checkpointed,
    DataFile,
    Dataset,
    EvaluationSettings,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Measured,
    Queued,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.local.journal import Journal
from backends.run_names import run_id

pytestmark = pytest.mark.unit


def journal(tmp_path: Path, run: str = "r") -> Journal:
    (tmp_path / run).mkdir(exist_ok=True)
    return Journal(tmp_path, run)


EVENTS: list[Event] = [Queued(), Measured(1, 0.5, {"batch_loss": math.inf}, "step"), Finished("m")]


def test_a_second_reader_sees_events_as_they_are_written(tmp_path: Path) -> None:
    writer, reader = journal(tmp_path), journal(tmp_path)
    assert list(reader.events()) == []
    for count in range(1, 4):
        writer.append(EVENTS[count - 1 : count])
        assert list(reader.events()) == EVENTS[:count]
        assert reader.ended == (count == 3)


def test_an_incomplete_last_line_is_not_an_event(tmp_path: Path) -> None:
    run_journal = journal(tmp_path)
    run_journal.append(EVENTS[:2])
    path = tmp_path / "r" / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    assert list(journal(tmp_path).events()) == EVENTS[:1]
    run_journal.truncate(1)
    run_journal.append([Stopped()])
    assert list(journal(tmp_path).events()) == [Queued(), Stopped()]


def test_a_reader_notices_that_events_were_truncated(tmp_path: Path) -> None:
    writer, reader = journal(tmp_path), journal(tmp_path)
    writer.append(EVENTS[:2])
    assert len(reader.events()) == 2
    writer.truncate(1)
    assert list(reader.events()) == EVENTS[:1]


def test_only_one_process_can_claim_a_run(tmp_path: Path) -> None:
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


def test_deleting_working_files_leaves_the_model_and_the_events(tmp_path: Path) -> None:
    run_journal = journal(tmp_path)
    run_journal.append(EVENTS)
    run_journal.request_stop()
    run_journal.checkpoint_path.touch()
    (tmp_path / "r" / "model.tmp").mkdir()
    run_journal.model_directory.mkdir()
    run_journal.delete_working_files()
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"events.jsonl", "model"}


def test_a_key_that_is_not_a_safe_file_name_becomes_a_digest() -> None:
    assert run_id("sweep-3_trial.7") == "sweep-3_trial.7"
    ids = {run_id(key) for key in ("../up", "a/b", "", ".hidden", "x" * 200, "ä")}
    assert len(ids) == 6
    assert all("/" not in name and not name.startswith(".") for name in ids)


FIRST_REVISION_REQUEST = (
    '{"key": "k", "base_model": "", "dataset": {"train": {"path": "/d/train.jsonl", "examples": 26, "sha256": "e1"}, '
    '"valid": {"path": "/d/valid.jsonl", "examples": 12, "sha256": "c9"}, "layout": "completion", '
    '"labels": [" yes|", " no|"], "stop": "|"}, "hyperparameters": {"n_epochs": 2, "learning_rate": 0.01, '
    '"method": "full"}, "seed": 7, "evaluation": {"per_epoch": 3, "train_examples": 8, "keep_metric": "valid_loss", '
    '"keep_maximum": false}, "resume_from": null}'
)
FIRST_REVISION_EVENTS = """\
{"kind": "started", "resolved": {"task": "causal-lm", "n_epochs": 2, "learning_rate": 0.01}}
{"kind": "measured", "step": 2, "epoch": 0.5, "values": {"valid_loss": Infinity}, "scope": "evaluation"}
{"kind": "charged", "usd": null, "tokens": 258, "estimated": false}
{"kind": "checkpointed", "step": 2, "epoch": 0.5, "model": "/w/model"}
{"kind": "failed", "failure": {"kind": "diverged", "message": "m", "detail": "d"}}
"""


def test_a_journal_of_the_first_revision_still_loads(tmp_path: Path) -> None:
    run_journal = journal(tmp_path)
    (tmp_path / "r" / "request.json").write_text(FIRST_REVISION_REQUEST, encoding="utf-8")
    (tmp_path / "r" / "events.jsonl").write_text(FIRST_REVISION_EVENTS, encoding="utf-8")
    train, valid = DataFile("/d/train.jsonl", 26, "e1"), DataFile("/d/valid.jsonl", 12, "c9")
    assert run_journal.request() == TrainingRequest(
        key="k",
        base_model="",
        dataset=Dataset(train, valid, "completion", (" yes|", " no|"), "|"),
        hyperparameters={"n_epochs": 2, "learning_rate": 0.01, "method": "full"},
        seed=7,
        evaluation=EvaluationSettings(per_epoch=3, train_examples=8),
    )
    assert list(run_journal.events()) == [
        Started({"task": "causal-lm", "n_epochs": 2, "learning_rate": 0.01}),
        Measured(2, 0.5, {"valid_loss": math.inf}, "evaluation"),
        Charged(None, 258),
        Checkpointed(2, 0.5, "/w/model"),
        Failed(Failure(FailureKind.DIVERGED, "m", "d")),
    ]
    assert run_journal.ended
