"""Optuna's storage in a database, for a sweep that several machines share."""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import optuna
from sqlalchemy import Dialect, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from backends.credentials import MASK, masked
from backends.notices import notice
from sweeps.errors import SweepError
from sweeps.study.storage_url import connect_arguments

RECONNECT_S = 60.0
"""How long a sweep waits for its database to come back, as after a restart."""

RECONNECT_ATTEMPT_S = 4
"""The longest attempt to connect again, where the driver has such a limit."""

SAY_EVERY_S = 15.0


class StudyDatabase(optuna.storages.RDBStorage):
    """Optuna's storage in a database, which may restart while a sweep runs.

    Every method raises SweepError if the database gives no answer for `RECONNECT_S`, or breaks off
    in the middle of a change. The connections are closed when the storage is no longer in use.
    """

    def __init__(self, url: str) -> None:
        """Connect, and create the tables if there are none."""
        super().__init__(url, engine_kwargs={"pool_pre_ping": True, "connect_args": connect_arguments(url)})
        event.listen(self.engine, "do_connect", _connect_patiently)
        weakref.finalize(self, self.engine.dispose)


def _translated(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: StudyDatabase, *arguments: Any, **options: Any) -> Any:
        try:
            return method(self, *arguments, **options)
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
            raise SweepError(
                f"the database of SWEEP_STORAGE gave no answer: {type(cause or error).__name__}",
                "start it again, then run the same command again; everything recorded is kept",
            ) from error

    return call


for _name in optuna.storages.BaseStorage.__abstractmethods__:
    setattr(StudyDatabase, _name, _translated(getattr(optuna.storages.RDBStorage, _name)))


class _Outage:
    """Lets the threads of a process, which all wait for the database, speak with one voice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said_at = -SAY_EVERY_S

    def is_news(self) -> bool:
        """Return whether nobody has said it for `SAY_EVERY_S`; the caller then says it."""
        with self._lock:
            now = time.monotonic()
            if now - self._said_at < SAY_EVERY_S:
                return False
            self._said_at = now
            return True


_OUTAGE = _Outage()


def _connect_patiently(dialect: Dialect, _: Any, arguments: list[Any], options: dict[str, Any]) -> Any:
    """Connect to a database that has answered before, and wait for it while it restarts."""
    deadline = time.monotonic() + RECONNECT_S
    if "connect_timeout" in options:
        options = {**options, "connect_timeout": min(options["connect_timeout"], RECONNECT_ATTEMPT_S)}
    while True:
        try:
            return dialect.connect(*arguments, **options)
        except dialect.loaded_dbapi.OperationalError:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise
        if _OUTAGE.is_news():
            notice(f"the database of SWEEP_STORAGE gives no answer: trying again for up to {left_s:.0f} s")
        time.sleep(1.0)


def open_database(url: str) -> StudyDatabase:
    """Open the database at this URL.

    Raises SweepError where that fails, with the driver's reason and without the password.
    """
    try:
        return StudyDatabase(url)
    except (OSError, ImportError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise SweepError(
            f"the database of SWEEP_STORAGE cannot be opened: {_reason(error, url)}",
            "check that it exists and that you may write to it",
        ) from None


def _reason(error: BaseException, url: str) -> str:
    """Return the first line of what the driver says, without SQL, links and the password."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    original = getattr(cause, "orig", None) or cause or error
    lines = str(original).strip().splitlines() or [type(original).__name__]
    password = make_url(url).password
    return masked(lines[0].replace(str(password), MASK) if password else lines[0])
