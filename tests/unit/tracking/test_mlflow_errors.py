"""The messages of MLflow, of databases and of servers become one sentence each."""

from __future__ import annotations

import errno
import json

import pytest

pytest.importorskip("mlflow")
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from requests import ConnectionError as RequestsConnectionError
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError

from sweeps.tracking.mlflow_errors import sentence_of, translated_errors
from sweeps.tracking.outbox import RejectedError, UnreachableError

pytestmark = pytest.mark.unit

SQL = "\n[SQL: INSERT INTO runs VALUES (?)]\n[parameters: ('secret',)]\n(Background on this error at: https://sqlalche.me)"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"(sqlite3.OperationalError) database is locked{SQL}", "another process holds its database"),
        (f"(sqlite3.OperationalError) database or disk is full{SQL}", "its disk is full"),
        (f"(sqlite3.OperationalError) attempt to write a readonly database{SQL}", "its database cannot be written"),
        (f"(sqlite3.DatabaseError) database disk image is malformed{SQL}", "its database is damaged"),
        (
            f"(psycopg.errors.AdminShutdown) terminating connection due to administrator command{SQL}",
            "its database server does not answer",
        ),
        (
            'connection failed: (psycopg.OperationalError) password authentication failed for user "me"',
            "its database server refuses the login",
        ),
        ("(pymysql.err.OperationalError) (9999, 'odd thing')" + SQL, "its database reports (9999, 'odd thing')"),
        (
            "Detected out-of-date database schema (found version a, but expected b). Take a backup",
            "its database is incomplete, or has the schema of another version of MLflow",
        ),
        (
            "API request to http://h failed with exception HTTPConnectionPool(host='h', port=1): Max retries exceeded"
            " with url: /api (Caused by NewConnectionError('<0x7f>: [Errno 111] Connection refused'))",
            "connection refused",
        ),
        (
            "API request to endpoint /api/2.0 failed with error code 500 != 200. Response body: '<html>no</html>'",
            "it answers with HTTP status 500",
        ),
        (
            "API request to http://h failed with exception HTTPConnectionPool(host='h'): Max retries exceeded with url:"
            " /a (Caused by ResponseError('too many 429 error responses'))",
            "it answers with HTTP status 429",
        ),
        ("could not reach https://me:secret@host/x", "could not reach https://host/x"),
    ],
)
def test_a_message_becomes_one_sentence_without_sql_and_secrets(text: str, sentence: str) -> None:
    assert sentence_of(text) == sentence


@pytest.mark.parametrize(
    "error",
    [
        MlflowException(f"(sqlite3.OperationalError) database is locked{SQL}", TEMPORARILY_UNAVAILABLE),
        MlflowException(f"(psycopg.InterfaceError) connection already closed{SQL}", BAD_REQUEST),
        OperationalError("INSERT", {}, Exception("server closed the connection unexpectedly")),
        InterfaceError("INSERT", {}, Exception("connection already closed")),
        RequestsConnectionError("refused"),
        OSError(errno.ENOSPC, "No space left on device"),
        json.JSONDecodeError("Expecting value", "<html>", 0),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    with pytest.raises(UnreachableError, match="MLflow does not answer: "), translated_errors():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("the value is too long", INVALID_PARAMETER_VALUE),
        MlflowException(f"(sqlite3.IntegrityError) UNIQUE constraint failed{SQL}", BAD_REQUEST),
        IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed")),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "plot.png"),
    ],
)
def test_what_cannot_pass_is_not_tried_again(error: Exception) -> None:
    with pytest.raises(RejectedError), translated_errors():
        raise error
