"""An exception of others in one line, without secrets, and told apart from a signal."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from backends import credentials, foreign_errors

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def secrets() -> Iterator[None]:
    credentials.use_secrets_from({"COIN_API_KEY": "sk-0123456789", "COIN_NAME": "sk-9876543210", "SHORT_KEY": "abc"})
    yield
    credentials.use_secrets_from({})


def caught(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:  # noqa: BLE001  the tests raise every kind
        return error
    raise AssertionError("nothing was raised")


def raised(error: BaseException) -> BaseException:
    def function() -> None:
        raise error

    return caught(function)


def test_the_line_names_type_message_and_place() -> None:
    text = foreign_errors.in_one_line(raised(ValueError("two\n  lines")))
    assert text.startswith("ValueError: two lines (test_foreign_errors.py:")
    assert "\n" not in text


def test_a_long_message_is_cut_and_a_missing_one_leaves_the_type() -> None:
    assert len(foreign_errors.in_one_line(raised(ValueError("x" * 10_000)))) < 400
    assert foreign_errors.in_one_line(raised(MemoryError())).startswith("MemoryError (test_foreign_errors.py:")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("the key sk-0123456789 is wrong", "the key <secret> is wrong"),
        ("COIN_NAME is sk-9876543210", "COIN_NAME is sk-9876543210"),
        ("abc", "abc"),
        ("https://user:pass@host/path", "https://<secret>@host/path"),
        ("Authorization: Bearer eyJhbGciOi.x.y", "Authorization: Bearer <secret>"),
    ],
)
def test_secrets_are_masked(text: str, left: str) -> None:
    assert credentials.masked(text) == left
    assert left in foreign_errors.in_one_line(raised(ValueError(text)))
    assert left in foreign_errors.full_text(raised(ValueError(text)))


def test_a_secret_of_a_file_is_masked_once_it_was_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("secrets") / "key"
    file.write_text("from-a-file-1\n")
    assert credentials.secret("COIN_TOKEN", {"COIN_TOKEN_FILE": str(file)}) == "from-a-file-1"
    assert credentials.masked("it is from-a-file-1") == "it is <secret>"


def test_an_exception_of_the_code_is_no_signal() -> None:
    for error in (KeyboardInterrupt(), SystemExit(3), ValueError()):
        assert not foreign_errors.is_signal(raised(error))
    assert not foreign_errors.is_signal(caught(lambda: sys.exit(2)))


def test_ctrl_c_is_a_signal() -> None:
    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10**6):
            pass

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert foreign_errors.is_signal(caught(interrupted))
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_handler_of_ray_that_exits_is_a_signal() -> None:
    handler: dict[str, object] = {"__name__": "ray._private.worker", "sys": sys}
    exec("def handle(number, frame): sys.exit(1)", handler)
    handle: Callable[[int, FrameType | None], None] = handler["handle"]  # type: ignore[assignment]
    assert foreign_errors.is_signal(caught(lambda: handle(15, None)))
