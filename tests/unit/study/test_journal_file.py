"""The journal file: torn ends, full disks, batches, and files that Optuna's own backend wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sweeps.errors import SweepError
from sweeps.study.journal_file import JournalFile, StudyJournal

pytestmark = pytest.mark.unit


def operation(number: int) -> dict[str, Any]:
    return {"op_code": 2, "worker_id": "w", "study_id": 0, "user_attr": {"n": number}}


def numbers(journal: JournalFile, start: int = 0) -> list[int]:
    return [log["user_attr"]["n"] for log in journal.read_logs(start)]


def journal_with(path: Path, count: int) -> JournalFile:
    journal = JournalFile(path)
    journal.append_logs([operation(number) for number in range(count)])
    return journal


def test_readers_ignore_a_torn_end_at_every_byte_and_the_next_append_removes_it(tmp_path: Path) -> None:
    whole = (journal_with(tmp_path / "j", 3), (tmp_path / "j").read_bytes())[1]
    second_end = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for size in range(second_end, len(whole)):
        path = tmp_path / f"torn-{size}"
        path.write_bytes(whole[:size])
        assert numbers(JournalFile(path)) == [0, 1]
        assert path.read_bytes() == whole[:size], "a reader changes nothing"
        journal = JournalFile(path)
        journal.append_logs([operation(7)])
        assert numbers(JournalFile(path)) == [0, 1, 7]


def test_a_file_without_one_complete_line_is_empty(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b'{"op_c')
    journal = JournalFile(tmp_path / "j")
    assert numbers(journal) == []
    journal.append_logs([operation(1)])
    assert numbers(JournalFile(tmp_path / "j")) == [1]


def test_an_operation_that_version_0_1_appended_to_a_torn_line_is_found(tmp_path: Path) -> None:
    journal_with(tmp_path / "j", 2)
    with (tmp_path / "j").open("ab") as file:
        file.write(b'{"op_code":2,"worker_id":"w","stu' + json.dumps(operation(5), separators=(",", ":")).encode())
        file.write(b"\n" + b"\0" * 100 + b"\n")
    JournalFile(tmp_path / "j").append_logs([operation(6)])
    assert numbers(JournalFile(tmp_path / "j")) == [0, 1, 5, 6]


def test_damage_in_the_middle_is_one_error_that_names_the_file(tmp_path: Path) -> None:
    journal_with(tmp_path / "j", 3)
    (tmp_path / "j").write_bytes((tmp_path / "j").read_bytes().replace(b'"n":1', b'"n:1'))
    with pytest.raises(SweepError, match=r"j is damaged: operation 1 is not readable"):
        list(JournalFile(tmp_path / "j").read_logs(0))


def test_a_batch_is_visible_to_its_process_at_once_and_to_others_at_its_end(tmp_path: Path) -> None:
    journal = journal_with(tmp_path / "j", 1)
    with journal.batch():
        journal.append_logs([operation(1)])
        with journal.batch():
            journal.append_logs([operation(2)])
        assert numbers(journal) == [0, 1, 2]
        assert numbers(JournalFile(tmp_path / "j")) == [0]
    assert numbers(journal, 2) == [2]
    assert numbers(JournalFile(tmp_path / "j")) == [0, 1, 2]


def test_a_batch_is_written_even_if_its_block_raises(tmp_path: Path) -> None:
    """Optuna has applied the operations in memory, so the file must have them too."""
    journal = journal_with(tmp_path / "j", 0)

    def interrupted() -> None:
        with journal.batch():
            journal.append_logs([operation(0)])
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert numbers(JournalFile(tmp_path / "j")) == [0]


def test_each_process_reads_what_others_appended(tmp_path: Path) -> None:
    one, other = JournalFile(tmp_path / "j"), JournalFile(tmp_path / "j")
    one.append_logs([operation(0)])
    assert numbers(other) == [0]
    other.append_logs([operation(1)])
    one.append_logs([operation(2)])
    assert numbers(one, 1) == [1, 2]
    assert numbers(other, 2) == [2]
    assert numbers(other, 0) == [0, 1, 2]


def test_nothing_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the time of a sweep would grow with the square of its trials."""
    storage = StudyJournal(tmp_path / "j")
    study = optuna.create_study(storage=storage, study_name="s")
    read, pread = [0], os.pread

    def counted(file: int, size: int, offset: int) -> bytes:
        content = pread(file, size, offset)
        read[0] += len(content)
        return content

    monkeypatch.setattr(os, "pread", counted)
    for number in range(100):
        study.set_user_attr("n", number)
        with storage.batch():
            trial = study.ask()
            trial.suggest_float("x", 0, 1)
            study.tell(trial, 0.5)
    size = (tmp_path / "j").stat().st_size
    assert len(study.trials) == 100
    assert read[0] < 2 * size


def test_a_full_disk_leaves_the_file_as_it_was_and_nothing_is_lost_when_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = journal_with(tmp_path / "j", 2)
    before = (tmp_path / "j").read_bytes()
    written = os.pwrite

    def fill(file: int, content: bytes, offset: int) -> int:
        if len(content) <= 20:
            raise OSError(28, "No space left on device")
        return written(file, content[:20], offset)

    monkeypatch.setattr(os, "pwrite", fill)
    with pytest.raises(SweepError, match=r"cannot write to .*j: No space left on device") as caught:
        journal.append_logs([operation(2)])
    assert "free disk space" in caught.value.hint
    assert (tmp_path / "j").read_bytes() == before
    monkeypatch.undo()
    journal.append_logs([operation(3)])
    assert numbers(JournalFile(tmp_path / "j")) == [0, 1, 2, 3]


def test_a_killed_writer_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from sweeps.study.journal_file import JournalFile\n"
        "journal = JournalFile(Path(sys.argv[1]))\n"
        "with journal.batch():\n"
        "    journal.append_logs([{'op_code': 2}])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "j")], check=False).returncode == -9
    journal = JournalFile(tmp_path / "j")
    assert numbers(journal) == []
    journal.append_logs([operation(1)])
    assert [file.name for file in tmp_path.iterdir()] == ["j"]


def test_a_journal_without_the_right_to_write_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal_with(tmp_path / "j", 2)
    opened = os.open

    def read_only(path: Any, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    journal = JournalFile(tmp_path / "j")
    assert numbers(journal) == [0, 1]
    with pytest.raises(SweepError, match="cannot write to"):
        journal.append_logs([operation(2)])


def test_optuna_and_this_journal_read_each_other(tmp_path: Path) -> None:
    ours = StudyJournal(tmp_path / "j")
    study = optuna.create_study(storage=ours, study_name="s")
    with ours.batch():
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
    study.tell(trial, 0.5)
    theirs = optuna.load_study(
        study_name="s", storage=optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "j")))
    )
    assert theirs.best_value == 0.5
    theirs.tell(theirs.ask(), 0.25)
    assert (
        study.best_value == optuna.load_study(study_name="s", storage=StudyJournal(tmp_path / "j")).best_value == 0.25
    )


@given(st.lists(st.sampled_from(["enqueue", "ask", "tell", "reopen"]), max_size=30))
def test_waiting_trials_are_found_as_optuna_finds_them(actions: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j")
        storage = StudyJournal(path)
        study = optuna.create_study(storage=storage, study_name="s")
        running: list[optuna.Trial] = []
        for action in actions:
            if action == "enqueue":
                study.enqueue_trial({"x": 0.5})
            elif action == "ask":
                running.append(study.ask())
            elif action == "tell" and running:
                study.tell(running.pop(0), 1.0)
            elif action == "reopen":
                storage = StudyJournal(path)
                study = optuna.load_study(storage=storage, study_name="s")
                running.clear()
            waiting = storage.get_all_trials(study._study_id, states=(TrialState.WAITING,))
            assert waiting == [
                trial for trial in storage.get_all_trials(study._study_id) if trial.state.name == "WAITING"
            ]
        with pytest.raises(KeyError):
            storage.get_all_trials(99, states=(TrialState.WAITING,))
