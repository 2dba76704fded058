"""Data files behind a URL: list a folder, and read a file as a stream."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from sweeps.errors import SweepError
from sweeps.file_store.store import file_system, in_words

_BUFFER_BYTES = 2**20


class RemoteError(Exception):
    """There is nothing at the URL, or it cannot be reached. `reason` says which, in words."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def is_url(text: str) -> bool:
    """Return whether a text is the URL of a file or a folder."""
    return "://" in text


class RemoteFolder:
    """A file or a folder behind a URL, in any store that fsspec knows. Credentials come from the
    environment.
    """

    def __init__(self, url: str, place: str = "data.source") -> None:
        """Prepare to read. Connects to nothing.

        Raises UserInputError for a bad URL, SweepError without the library of the store.
        """
        self.url = url.rstrip("/")
        self._files, self._root = file_system(url, place)
        # Not every web server sends parts of a file; with 0, fsspec reads it from beginning to end.
        self._block_bytes = 0 if urlsplit(url).scheme in ("http", "https") else 4 * _BUFFER_BYTES

    def names(self) -> list[str] | None:
        """Return the names of all files below the folder, with `/`; None if it is a file.

        Raises RemoteError if there is nothing, or if it cannot be reached.
        """
        with self._translated():
            if self._files.info(self._root)["type"] != "directory":
                return None
            found = self._files.find(self._root)
        return sorted(str(path).removeprefix(f"{self._root}/") for path in found)

    def open(self, name: str = "") -> io.BufferedReader:
        """Open a file of the folder, or the file itself. Reading raises OSError."""
        path = f"{self._root}/{name}" if name else self._root
        try:
            with self._translated():
                opened = self._files.open(path, "rb", block_size=self._block_bytes)
        except RemoteError as failure:
            raise OSError(failure.reason) from failure
        return io.BufferedReader(_RemoteStream(opened), _BUFFER_BYTES)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SweepError:
            raise
        except FileNotFoundError as error:
            cause = error.__cause__  # over HTTP, every failure is reported as a file that is missing
            if cause is None or getattr(cause, "status", None) in (404, 410):
                raise RemoteError("no such file or folder") from error
            raise RemoteError(f"{urlsplit(self.url).scheme}:// cannot be read: {in_words(cause)}") from error
        except Exception as error:  # each kind of store has its own exceptions
            raise RemoteError(f"{urlsplit(self.url).scheme}:// cannot be read: {in_words(error)}") from error


class _RemoteStream(io.RawIOBase):
    """A file of fsspec whose errors are OSErrors."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        try:
            opened.seek(0, io.SEEK_END)
            opened.seek(0)
            self._seekable = True
        except (OSError, ValueError):  # a server that sends files only from their beginning
            self._seekable = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._seekable

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._opened.seek(offset, whence))

    def tell(self) -> int:
        return int(self._opened.tell())

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._opened.read(len(buffer))
        except OSError:
            raise
        except Exception as error:  # each kind of store has its own exceptions
            raise OSError(f"the connection broke: {in_words(error)}") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._opened.close()
        super().close()
