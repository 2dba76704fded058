"""`Journal`: the records of one workspace, and the locks of its runs."""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backends.hosted.journal.account_records import AccountRecords
from backends.hosted.journal.database import FILE_NAME, NOUN, Database
from backends.hosted.journal.model_records import ModelRecords
from backends.hosted.journal.run_records import RunRecords
from backends.sqlite_file import rows_of

LOCK_POLL_S = 0.05


class Journal:
    """The journal of one workspace, in `folder`. Every method of its records is one transaction.

    Threads may share it. Every method raises BackendError where SQLite fails.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._database = database = Database(folder)
        self.runs = RunRecords(database)
        self.models = ModelRecords(database)
        self.accounts = AccountRecords(database)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def lock(self, name: str, wait_s: float = 0.0, sleep: Callable[[float], None] = time.sleep) -> Iterator[bool]:
        """Hold the lock `name` while the block runs.

        Yields False if it was not free within `wait_s`.
        """
        folder = self.folder / "locks"
        folder.mkdir(exist_ok=True)
        digest = hashlib.sha256(name.encode()).hexdigest()[:32]
        deadline = time.monotonic() + wait_s
        with (folder / digest).open("ab") as stream:
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        yield False
                        return
                    sleep(LOCK_POLL_S)
            yield True


def uploaded_files_of(folder: Path, account: str) -> set[str]:
    """Return the host's ids of the files that another workspace has uploaded. Changes nothing.

    The set is empty where `folder` holds no journal.
    """
    statement = "SELECT file FROM uploads WHERE account = :account AND file IS NOT NULL"
    return {file for (file,) in rows_of(folder / FILE_NAME, NOUN, statement, {"account": account})}
