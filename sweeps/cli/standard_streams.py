"""Standard streams that are closed, or whose reader goes away (`sweep status NAME | head -1`)."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDIN, STDOUT, STDERR = 0, 1, 2


class OutputClosedError(Exception):
    """The reader of standard output went away. Not an OSError, so no library handles it as one."""


class _Stream(io.FileIO):
    """A standard stream that turns into the null device when writing to it fails."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write data.

        A reader of standard output that went away ends the command: raises OutputClosedError. A
        reader of standard error does not, because the sweep that reports there goes on.
        """
        number = self.fileno()
        try:
            return super().write(data)
        except OSError as error:
            # What is still buffered, and is flushed when the interpreter ends, must not fail again.
            _use_null_device(number)
            if number == STDERR:
                return len(memoryview(data))
            if isinstance(error, BrokenPipeError):
                raise OutputClosedError from None
            raise OSError(error.errno, error.strerror, "standard output") from None


def prepare() -> None:
    """Make the standard streams of this process safe to write to.

    A stream that the caller closed becomes the null device, before a file takes its number. Leaves
    streams alone that a program replaced.
    """
    for number in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            _use_null_device(number)
    if sys.stdin is None:
        sys.stdin = open(STDIN, encoding="utf-8", closefd=False)  # noqa: SIM115  open until the end
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text_stream(STDOUT, sys.__stdout__)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text_stream(STDERR, sys.__stderr__)


def _text_stream(number: int, original: io.TextIOBase | None) -> io.TextIOWrapper:
    """Return a stream like `original`, which is None where the caller closed it.

    A character that the encoding of the terminal lacks is written as its code.
    """
    raw = _Stream(number, "wb", closefd=False)
    encoding = getattr(original, "encoding", None) or "utf-8"
    is_utf8 = encoding.lower().replace("-", "") == "utf8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=encoding,
        errors=(getattr(original, "errors", None) if is_utf8 else None) or "backslashreplace",
        line_buffering=number == STDERR or raw.isatty(),
    )


def _use_null_device(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
