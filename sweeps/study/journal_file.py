"""The journal file of a study: one JSON object per line, appended and never changed.

Optuna's own file backend writes and syncs every operation by itself, cannot read past a line that
a full disk cut off, and leaves a lock behind when its process is killed. This one has none of that.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import json
import os
import weakref
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from sweeps.errors import SweepError

_LINE_START = b'{"op_code":'
"""How every line of a journal begins, also those that Optuna's own backend wrote."""

_CHUNK_BYTES = 4 * 2**20


class JournalFile(BaseJournalBackend):
    """An append-only file of Optuna's operations.

    A line counts once it ends in a newline. The end of a line that a crash or a full disk cut off
    is ignored by readers, and removed before anything is appended. An append holds a lock that the
    operating system releases with its process, and it is on the disk when it returns.
    """

    def __init__(self, path: Path) -> None:
        """Open the journal at `path`, or create it. Raises OSError.

        A reader without the right to write can open an existing journal.
        """
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except PermissionError:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._offsets = {0: 0}
        """Where operations begin, by their numbers: those that Optuna may ask for next."""
        self._unwritten: list[bytes] = []
        self._batches = 0

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the operations from this number on: those in the file, then those of this batch.

        Raises SweepError if a line in the middle of the file is damaged beyond repair.
        """
        number = max(known for known in self._offsets if known <= log_number_from)
        offset = self._offsets[number]
        # What Optuna has read it does not ask for again.
        self._offsets = {known: place for known, place in self._offsets.items() if known in (0, number)}
        for line in self._complete_lines(offset):
            offset += len(line)
            if (content := _repaired(line)) is None:
                continue
            if number > 0:
                del self._offsets[number]
            number += 1
            self._offsets[number] = offset
            if number > log_number_from:
                yield self._decoded(content, number - 1)
        for index, line in enumerate(self._unwritten, start=number):
            if index >= log_number_from:
                yield json.loads(line)

    def lines(self) -> Iterator[bytes]:
        """Yield every complete operation in the file, not decoded."""
        return filter(None, map(_repaired, self._complete_lines(0)))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations durably, or at the end of the current batch.

        Raises SweepError if the file cannot be written. The file then holds what it held before,
        and the next append tries again.
        """
        lines = [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]
        with self.batch():
            self._unwritten += lines

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Write all operations of the block at once, at its end. Blocks may be nested.

        A process that is killed has written all operations of a block or none. Other processes
        cannot append meanwhile. Raises SweepError like `append_logs`.
        """
        self._batches += 1
        try:
            if self._batches == 1:
                self._lock()
            yield
        finally:
            self._batches -= 1
            if not self._batches:
                try:
                    if self._unwritten:
                        self._write()
                finally:
                    fcntl.flock(self._file, fcntl.LOCK_UN)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError as error:
            raise self._unwritable(error) from error

    def _write(self) -> None:
        """Append what is not written yet. Needs the lock."""
        content = b"".join(self._unwritten)
        try:
            end = self._remove_torn_end()
            try:
                written = 0
                while written < len(content):
                    written += os.pwrite(self._file, content[written:], end + written)
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, end)
                raise
        except OSError as error:
            raise self._unwritable(error) from error
        number = max(self._offsets)
        if self._offsets[number] == end:  # no other process has written since the last reading
            for line in self._unwritten:
                number, end = number + 1, end + len(line)
                self._offsets[number] = end
        self._unwritten.clear()

    def _unwritable(self, error: OSError) -> SweepError:
        return SweepError(
            f"cannot write to {self._path}: {error.strerror}",
            "free disk space or mend the folder, then run the same command again; everything recorded is kept",
        )

    def _remove_torn_end(self) -> int:
        """Cut the file after its last complete line, and return its length. Needs the lock."""
        end = size = os.fstat(self._file).st_size
        while end and os.pread(self._file, 1, end - 1) != b"\n":
            start = max(0, end - _CHUNK_BYTES)
            end = start + os.pread(self._file, end - start, start).rfind(b"\n") + 1
        if end < size:
            os.ftruncate(self._file, end)
        return end

    def _complete_lines(self, offset: int) -> Iterator[bytes]:
        rest = b""
        while chunk := os.pread(self._file, _CHUNK_BYTES, offset):
            offset += len(chunk)
            lines = (rest + chunk).splitlines(keepends=True)
            rest = lines.pop() if not lines[-1].endswith(b"\n") else b""
            yield from lines

    def _decoded(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            operation: dict[str, Any] = json.loads(line)
        except ValueError:
            raise self.damaged(number) from None
        return operation

    def damaged(self, number: int) -> SweepError:
        """Build the error for an operation that cannot be read."""
        return SweepError(
            f"{self._path} is damaged: operation {number} is not readable",
            "restore the file from a backup, or start again with `sweep run --fresh`",
        )


def _repaired(line: bytes) -> bytes | None:
    """Return the last operation of a line; None for an empty line.

    Version 0.1 could append an operation to the rest of a torn line.
    """
    return line[max(0, line.rfind(_LINE_START)) :] if line.strip(b"\0\n") else None


class StudyJournal(JournalStorage):
    """Optuna's journal storage over a `JournalFile`, with batches."""

    def __init__(self, path: Path) -> None:
        """Open the journal at `path`, or create it. Raises OSError and SweepError."""
        self._journal_file = JournalFile(path)
        self._before_waiting: dict[int, int] = {}
        super().__init__(self._journal_file)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials of a study in these states.

        Optuna looks for waiting trials before each new one. No trial becomes waiting again, so the
        trials before the first waiting one are not looked at another time.
        """
        if states != (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        with self._thread_lock:
            self._sync_with_backend()
            replayed = self._replay_result
            numbers, trials = replayed._study_id_to_trial_ids.get(study_id), replayed._trials
            if numbers is None:
                raise KeyError(f"there is no study {study_id}")
            first = self._before_waiting.get(study_id, 0)
            while first < len(numbers) and trials[numbers[first]].state is not TrialState.WAITING:
                first += 1
            self._before_waiting[study_id] = first
            waiting = [trials[number] for number in numbers[first:] if trials[number].state is TrialState.WAITING]
            return copy.deepcopy(waiting) if deepcopy else waiting

    def batch(self) -> contextlib.AbstractContextManager[None]:
        """Write all operations of the block at once, at its end. See `JournalFile.batch`."""
        return self._journal_file.batch()
