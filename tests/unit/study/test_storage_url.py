"""SWEEP_STORAGE: a mistake in the URL is found before anything starts, and no wait is endless."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from sweeps import api
from sweeps.errors import SweepError, UserInputError
from sweeps.study import storage_url
from sweeps.study.storage import open_storage
from sweeps.study.storage_url import check_storage_url, connect_arguments

pytestmark = pytest.mark.unit

PASSWORD = "hidden-word"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("foo", "is not the URL of a database"),
        ("://", "is not the URL of a database"),
        (f"postgresql://u:{PASSWORD}@host:port/db", "is not the URL of a database"),
        (f"redis://u:{PASSWORD}@host", "unknown kind of database, redis"),
        (f"postgresql+nodriver://u:{PASSWORD}@host/db", "unknown kind of database, postgresql+nodriver"),
        (f"mssql+pymssql://u:{PASSWORD}@host/db", "needs the Python package pymssql"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_a_url_that_no_database_has_is_a_mistake_of_the_user(
    url: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UserInputError) as caught:
        check_storage_url(url)
    (problem,) = caught.value.problems
    assert (problem.place, words in problem.message) == ("SWEEP_STORAGE", True)
    assert problem.hint
    assert PASSWORD not in f"{problem} {problem.hint}"
    monkeypatch.setenv("SWEEP_STORAGE", url)
    with pytest.raises(UserInputError, match="SWEEP_STORAGE"):
        api.plan({"name": "x"}, root=tmp_path)


@pytest.mark.parametrize("url", ["postgresql+psycopg://u@host/db", "postgresql://host/db", "sqlite:////tmp/x.db"])
def test_a_url_that_a_database_may_have_is_accepted(url: str) -> None:
    check_storage_url(url)


def test_the_wait_for_a_server_is_bounded_unless_the_url_says_how() -> None:
    limits = connect_arguments("postgresql+psycopg://host/db")
    assert limits["connect_timeout"] == 10
    assert limits["tcp_user_timeout"] == 6_000
    own = connect_arguments("postgresql+psycopg://host/db?connect_timeout=90&tcp_user_timeout=1")
    assert own.keys() == limits.keys() - {"connect_timeout", "tcp_user_timeout"}
    assert connect_arguments("postgresql+pg8000://host/db") == {"connect_timeout": 10}, "its driver has no others"
    assert connect_arguments("sqlite:////tmp/x.db") == {}


def test_a_database_that_cannot_be_opened_is_an_error_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_url, "CONNECT_TIMEOUT_S", 2)
    (tmp_path / "text.db").write_text("this is text, and not a database at all\n" * 10)
    with contextlib.ExitStack() as stack:
        refusing = stack.enter_context(socket.socket())
        refusing.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        silent = stack.enter_context(socket.socket())
        silent.bind(("127.0.0.1", 0))
        silent.listen(4)
        server = f"postgresql+psycopg://u:{PASSWORD}@127.0.0.1"
        expected = {
            f"sqlite:///{tmp_path}/absent/x.db": "unable to open database file",
            f"sqlite:///{tmp_path}/text.db": "file is not a database",
            f"{server}:{refusing.getsockname()[1]}/db": "Connection refused",
            f"{server}:{silent.getsockname()[1]}/db": "timeout",
        }
        for url, words in expected.items():
            with pytest.raises(SweepError) as caught:
                open_storage(url)
            assert words in caught.value.message
            assert PASSWORD not in caught.value.message
            assert "sqlalche" not in caught.value.message
