"""What the machine lacks when the server cannot write: its name, its HTTP answer, its duration.

A full disk, too many open files and a locked database pass. The server says what is missing, keeps
what it has, and continues once there is room again.
"""

from __future__ import annotations

import errno
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sweeps.server.errors import SERVER_ERROR, ApiError

_FULL_DISK = frozenset({errno.ENOSPC, errno.EDQUOT})
_TOO_FEW = {
    errno.EMFILE: "open files",
    errno.ENFILE: "open files",
    errno.ENOMEM: "memory",
    errno.EAGAIN: "threads or processes",
}
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_BASIC_CODE = 0xFF
"""The bits of an SQLite error code that name its kind."""


@dataclass(frozen=True)
class ResourceFault:
    """What is missing. `message` is a sentence that names it with the remedy.

    `passes`: the operation can succeed later without a change to the server.
    """

    status: int
    code: str
    message: str
    passes: bool

    def api_error(self) -> ApiError:
        """Return the response to a request that failed because of it."""
        headers = {"Retry-After": "10"} if self.passes else {}
        return ApiError(self.status, self.message, code=self.code, type_=SERVER_ERROR, headers=headers)


def resource_fault(error: BaseException, folder: Path) -> ResourceFault | None:
    """Return what the machine lacks, or None if the error has another cause.

    `folder` is the server's folder.
    """
    if isinstance(error, sqlite3.Error):
        return _database_fault(error, folder)
    if not isinstance(error, OSError):
        return None
    if error.errno in _FULL_DISK:
        return _full_disk(folder)
    if error.errno == errno.EROFS:
        return _read_only(folder)
    if (lacking := _TOO_FEW.get(error.errno or 0)) is not None:
        message = f"The server has run out of {lacking}. Repeat the request later."
        return ResourceFault(503, "overloaded", message, passes=True)
    return None


def _database_fault(error: sqlite3.Error, folder: Path) -> ResourceFault | None:
    code = _sqlite_code(error)
    if code == sqlite3.SQLITE_FULL:
        return _full_disk(folder)
    if code == sqlite3.SQLITE_READONLY:
        return _read_only(folder)
    if code in _LOCKED:
        message = f"Another program has locked the database in {folder}. Repeat the request later."
        return ResourceFault(503, "database_locked", message, passes=True)
    if code == sqlite3.SQLITE_IOERR:
        # on a full disk SQLite reports a failed write of its shared memory like this
        message = f"The disk that holds {folder} cannot be read or written. Check its free space and its health."
        return ResourceFault(507, "disk_error", message, passes=True)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        message = f"The database in {folder} is damaged. Stop the server, and restore it from a backup."
        return ResourceFault(500, "database_damaged", message, passes=False)
    if code == sqlite3.SQLITE_CANTOPEN:
        message = f"The database in {folder} cannot be opened. Check that the folder is there and writable."
        return ResourceFault(500, "database_unavailable", message, passes=True)
    return None


def _sqlite_code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & _BASIC_CODE


def _full_disk(folder: Path) -> ResourceFault:
    message = f"The disk that holds {folder} is full. Free some space there, then repeat the request."
    return ResourceFault(507, "disk_full", message, passes=True)


def _read_only(folder: Path) -> ResourceFault:
    message = f"The disk that holds {folder} is read-only. Make it writable, then repeat the request."
    return ResourceFault(507, "disk_read_only", message, passes=True)
