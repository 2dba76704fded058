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
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if isinstance(location, str):
            return optuna.storages.RDBStorage(location)
        location.parent.mkdir(parents=True, exist_ok=True)
        return StudyJournal(location)
    except (OSError, ImportError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise unreachable_storage(location, error) from None


def write_batch(storage: optuna.storages.BaseStorage) -> contextlib.AbstractContextManager[None]:
    """Write all changes of the block at once where the storage can do so: all of them or none."""
    return storage.batch() if isinstance(storage, StudyJournal) else contextlib.nullcontext()


def unreachable_storage(location: str | Path, error: Exception) -> SweepError:
    """Build the error for a storage that cannot be opened.

    Only the type of `error` is named: its text may contain the password of the database.
    """
    name = "the database of SWEEP_STORAGE" if isinstance(location, str) else str(location)
    return SweepError(
        f"{name} cannot be opened: {type(error).__name__}", "check that it exists and that you may write to it"
    )
