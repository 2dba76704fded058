"""The journal of hosted runs: locks, and records that survive unchanged."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from backends.contract import BackendError, DataFile, Dataset, FailureKind, Queued, TrainingRequest
from backends.hosted.journal import HostedRun, Journal, StoredAnswer, run_id, uploaded_files_of
from backends.hosted.remote_objects import RemoteEvent

pytestmark = pytest.mark.unit

FILE = DataFile("/data/train.jsonl", 40, "sha")
REQUEST = TrainingRequest("k", "m", Dataset(FILE, FILE, "completion", (" a", " b")), {"n_epochs": 2, "rate": 1.0}, 1)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def added_run(journal: Journal) -> HostedRun:
    id_ = run_id(REQUEST.key)
    journal.runs.add(id_, REQUEST, 5.0, Queued())
    run = journal.runs.get(id_)
    assert run is not None
    return run


def test_a_request_survives_with_its_types(journal: Journal) -> None:
    request = added_run(journal).training_request()
    assert request == REQUEST
    assert [type(value) for value in request.hyperparameters.values()] == [int, float]


def test_a_non_finite_number_in_the_log_of_a_host_survives(journal: Journal) -> None:
    run = added_run(journal)
    event = RemoteEvent("e1", 1.0, "info", "", {"step": 1, "train_loss": math.nan, "valid_loss": None})
    journal.runs.add_log(run.id, [event, event], now=7.0)
    (entry,) = journal.runs.log(run.id)
    assert entry.received_at == 7.0
    assert math.isnan(entry.event.data["train_loss"])
    assert entry.event.data["valid_loss"] is None


def test_the_first_answer_to_a_question_stays(journal: Journal) -> None:
    journal.models.add_answer("q", "m", StoredAnswer(" a", (-0.5, -1.0)))
    journal.models.add_answer("q", "m", StoredAnswer(" b", None))
    assert journal.models.answer("q") == StoredAnswer(" a", (-0.5, -1.0))
    assert journal.models.answer("another") is None


def test_a_lock_excludes_a_second_holder(journal: Journal) -> None:
    with journal.lock("run") as first, journal.lock("run") as second, journal.lock("other") as other:
        assert (first, second, other) == (True, False, True)
    with journal.lock("run") as again:
        assert again


def test_the_uploads_of_another_workspace_are_read_without_changing_it(journal: Journal, tmp_path: Path) -> None:
    journal.accounts.set_upload("account", "fine-tune", "sha", "file-1")
    journal.accounts.set_upload("another", "fine-tune", "sha", "file-2")
    assert uploaded_files_of(tmp_path, "account") == {"file-1"}
    assert uploaded_files_of(tmp_path / "no-workspace", "account") == set()
    assert not (tmp_path / "no-workspace").exists()


def test_a_closed_journal_is_a_transient_failure(journal: Journal) -> None:
    journal.close()
    with pytest.raises(BackendError) as raised:
        journal.runs.all()
    assert raised.value.failure.kind is FailureKind.TRANSIENT
