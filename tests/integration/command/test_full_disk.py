"""A full disk under the runs of the command backend: one sentence, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_runs import EPOCHS, drained, epochs_of, run_in, wait_for

from backends.contract import BackendError, FailureKind, Finished
from tests.chaos.test_bad_days import fill, needs_mounts, small_disk

pytestmark = [pytest.mark.integration, needs_mounts]


def test_no_program_starts_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        run = run_in(disk)
        filled = fill_file(disk)
        with run.opened() as backend:
            with pytest.raises(BackendError) as raised:
                run.submitted(backend)
            assert raised.value.failure.kind is FailureKind.USER
            assert raised.value.failure.message.endswith(": No space left on device")
            assert raised.value.failure.detail == "Free some space there, or mend the folder."
            filled.unlink()
            events = drained(backend, run.submitted(backend))
        assert isinstance(events[-1], Finished)
        assert len(run.starts) == 1
        run.end_all()


def test_events_that_do_not_fit_come_once_there_is_space(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        run = run_in(disk, gate="middle", checkpoints=None)
        with run.opened() as backend:
            handle = run.submitted(backend)
            wait_for(lambda: run.has_reached("middle"), "the program reaches its gate")
            filled = fill_file(disk)
            with pytest.raises(BackendError) as raised:
                drained(backend, handle, timeout_s=60)
            assert raised.value.failure.kind is FailureKind.TRANSIENT
            assert raised.value.failure.message.endswith("No space left on device")
            assert run.supervisors, "the program goes on"
            filled.unlink()
            run.open_gate("middle")
            events = drained(backend, handle)
        assert isinstance(events[-1], Finished)
        assert epochs_of(events) == [float(epoch + 1) for epoch in range(EPOCHS)]
        run.end_all()


def fill_file(disk: Path) -> Path:
    """Use the last byte of the disk, and return the file that does."""
    before = set(disk.iterdir())
    fill(disk)
    (made,) = set(disk.iterdir()) - before
    return made
