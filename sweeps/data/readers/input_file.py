"""A file to read: on disk, inside a zip archive, or behind a URL."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class InputFile:
    """A file that can be read again and again.

    `name` is what messages call it; its ending says the format. `opens` returns a stream of its
    bytes, which the caller closes; it raises OSError if it cannot, and so does reading. `path` is
    its place on this machine; None if it lies in an archive or behind a URL.
    """

    name: str
    opens: Callable[[], io.BufferedReader]
    path: Path | None = None

    @classmethod
    def at(cls, path: Path) -> InputFile:
        """Return a file on disk."""
        return cls(str(path), partial(_open, path), path)

    @contextmanager
    def on_disk(self, opens: Callable[[], io.BufferedReader] | None = None) -> Iterator[str]:
        """Provide a path for libraries that jump back and forth in a file.

        It leads to a temporary copy of the bytes of `opens` if it is given, and of what lies in an
        archive or behind a URL.
        """
        if self.path is not None and opens is None:
            yield str(self.path)
            return
        with tempfile.NamedTemporaryFile(prefix="finesweep-") as copy:
            with (opens or self.opens)() as stream:
                shutil.copyfileobj(stream, copy, 2**20)
            copy.flush()
            yield copy.name


def _open(path: Path) -> io.BufferedReader:
    return path.open("rb")


class _Closes(Protocol):
    def close(self) -> None: ...


class _Compressed(_Closes, Protocol):
    def read1(self, size: int, /) -> bytes: ...


class Inflated(io.RawIOBase):
    """The decompressed bytes of a stream, with a limit for archives made to fill a disk.

    Beyond `free_bytes` the content may be at most `ratio` times as large as the compressed file.
    Real texts shrink to a tenth, the same line over and over to a hundredth.
    """

    def __init__(
        self,
        inner: _Compressed,
        compressed_bytes: int,
        on_excess: Callable[[int], Exception],
        closes: tuple[_Closes, ...] = (),
        free_bytes: int = 2**28,
        ratio: int = 200,
    ) -> None:
        self._inner = inner
        self._closes = closes
        self._limit = max(free_bytes, ratio * compressed_bytes)
        self._on_excess = on_excess
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._inner.read1(len(buffer))
        self._read += len(data)
        if self._read > self._limit:
            raise self._on_excess(self._limit)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
            for stream in self._closes:
                stream.close()
        super().close()
