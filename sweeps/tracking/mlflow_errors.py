"""Translates the errors of MLflow, of its database and of its server into plain sentences."""

from __future__ import annotations

import contextlib
import errno
import json
import re
from collections.abc import Iterator

from sweeps.tracking.outbox import RejectedError, UnreachableError

MESSAGE_CHARS = 240

_FINAL_CODES = frozenset(
    {
        "BAD_REQUEST",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "MALFORMED_REQUEST",
        "PERMISSION_DENIED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
        "UNAUTHENTICATED",
    }
)
"""MLflow's error codes that a retry cannot help, unless a database error is behind them."""

_OTHER_SCHEMA = "its database is incomplete, or has the schema of another version of MLflow"
_NO_SERVER = "its database server does not answer"

_SENTENCES = (
    ("database is locked", "another process holds its database"),
    ("database table is locked", "another process holds its database"),
    ("database or disk is full", "its disk is full"),
    ("no space left on device", "its disk is full"),
    ("could not extend file", "its disk is full"),
    ("readonly database", "its database cannot be written"),
    ("read-only transaction", "its database cannot be written"),
    ("read-only file system", "its disk cannot be written"),
    ("unable to open database file", "its database cannot be opened"),
    ("disk i/o error", "its disk reports an error"),
    ("malformed", "its database is damaged"),
    ("not a database", "its database is damaged"),
    ("out-of-date database schema", _OTHER_SCHEMA),
    ("can't locate revision", _OTHER_SCHEMA),
    ("no such table", _OTHER_SCHEMA),
    ("no such column", _OTHER_SCHEMA),
    ("already exists", _OTHER_SCHEMA),
    ("undefinedtable", _OTHER_SCHEMA),
    ("undefinedcolumn", _OTHER_SCHEMA),
    ("authentication failed", "its database server refuses the login"),
    ("access denied for user", "its database server refuses the login"),
    ("does not exist", "its database server has no such database or user"),
    ("server closed the connection", _NO_SERVER),
    ("connection already closed", _NO_SERVER),
    ("terminating connection", _NO_SERVER),
    ("the database system is", _NO_SERVER),
    ("connection refused", _NO_SERVER),
    ("could not connect", _NO_SERVER),
    ("connection to server", _NO_SERVER),
    ("timeout expired", _NO_SERVER),
)
"""Parts of the messages of SQLite, PostgreSQL and MySQL, in lower case, and what they mean."""

_HTTP_SENTENCES = (
    ("connection refused", "connection refused"),
    ("timed out", "no answer in time"),
    ("timeout", "no answer in time"),
    ("name or service not known", "its host is unknown"),
    ("nameresolution", "its host is unknown"),
    ("network is unreachable", "the network is unreachable"),
    ("no route to host", "the network is unreachable"),
    ("ssl", "the encrypted connection failed"),
    ("connection aborted", "the connection broke"),
    ("connection broken", "the connection broke"),
    ("reset by peer", "the connection broke"),
    ("valid json", "the answer is not one of an MLflow server"),
)

_SQLALCHEMY = re.compile(r"\((?P<error>[\w.]*\w)\) (?P<text>.*)", re.DOTALL)
_HTTP_STATUS = re.compile(r"(?:failed with error code|too many) (\d{3})")
_CREDENTIALS = re.compile(r"//[^/@\s]+@")
_CONNECTION_LOST = ("OperationalError", "InterfaceError", "InternalError", "AdminShutdown", "CannotConnectNow")


_PASSING_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT})
"""Errors of a disk that may pass: the write is repeated."""


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise RejectedError for errors that a retry cannot help, and UnreachableError for the others.

    Each has one sentence, without credentials and without SQL.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        text = str(error)
        is_final = error.error_code in _FINAL_CODES and not _is_lost_connection(error.__cause__ or error)
        raise _translated(text, is_final=is_final) from error
    except SQLAlchemyError as error:
        raise _translated(str(error), is_final=not _is_lost_connection(error)) from error
    except RequestException as error:  # a ValueError too, if the answer is no JSON
        raise _translated(str(error), is_final=False) from error
    except OSError as error:
        raise _translated(str(error), is_final=error.errno not in _PASSING_ERRNOS) from error
    except json.JSONDecodeError as error:
        raise _translated(f"no valid JSON: {error}", is_final=False) from error


def sentence_of(text: str) -> str:
    """Return what a message of MLflow means: one sentence without SQL, HTML and credentials."""
    if found := _HTTP_STATUS.search(text):
        return f"it answers with HTTP status {found[1]}"
    lowered = text.lower()
    database_error = _SQLALCHEMY.search(text)
    if "api request to" in lowered and database_error is None:
        for part, sentence in _HTTP_SENTENCES:
            if part in lowered:
                return sentence
    if database_error is not None or any(word in lowered for word in ("schema", "revision", "[errno")):
        for part, sentence in _SENTENCES:
            if part in lowered:
                return sentence
    if database_error is not None:
        text = f"its database reports {database_error['text']}"
    first_line = text.strip().partition("\n")[0].partition(" Response body:")[0]
    return _CREDENTIALS.sub("//", first_line)[:MESSAGE_CHARS]


def _is_lost_connection(error: BaseException) -> bool:
    """Return whether a database does not work now. An MLflow server passes on only the text."""
    from sqlalchemy.exc import InterfaceError, InternalError, OperationalError

    if isinstance(error, InterfaceError | InternalError | OperationalError):
        return True
    found = _SQLALCHEMY.search(str(error))
    return found is not None and found["error"].rpartition(".")[2] in _CONNECTION_LOST


def _translated(text: str, *, is_final: bool) -> RejectedError | UnreachableError:
    sentence = sentence_of(text)
    return RejectedError(sentence) if is_final else UnreachableError(f"MLflow does not answer: {sentence}")
