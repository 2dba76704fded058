"""Opening the Optuna storage of a study: a journal file or a database."""

from __future__ import annotations

import contextlib
from pathlib import Path

import optuna

from sweeps.errors import SweepError
from sweeps.study.journal_file import StudyJournal


def open_storage(location: str | Path) -> optuna.storages.BaseStorage:
    """Open a journal file (a path; its folder is created) or a database (a URL).

    Raises SweepError where the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if isinstance(location, str):
        from sweeps.study.study_database import open_database  # loads SQLAlchemy

        return open_database(location)
    try:
        location.parent.mkdir(parents=True, exist_ok=True)
        return StudyJournal(location)
    except OSError as error:
        hint = "check that it exists and that you may write to it"
        raise SweepError(f"{location} cannot be opened: {error.strerror}", hint) from None


def close_storage(storage: optuna.storages.BaseStorage) -> None:
    """Close the connections of a database. The storage opens new ones if it is used again."""
    if isinstance(storage, optuna.storages.RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


def write_batch(storage: optuna.storages.BaseStorage) -> contextlib.AbstractContextManager[None]:
    """Write all changes of the block at once where the storage can do so: all of them or none."""
    return storage.batch() if isinstance(storage, StudyJournal) else contextlib.nullcontext()
