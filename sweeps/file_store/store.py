"""A store of files at a URL: a folder, or a bucket of an object store. The home of fsspec."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backends.extras import install_command
from sweeps.errors import Problem, SweepError, UserInputError

HINT = "check the address, the network and the credentials in the environment of that machine"

_WRITES_ARE_ATOMIC = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}
"""A reader of these never sees a half-written object. Elsewhere a file gets its name at the end."""

_S3_OPTIONS = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 2}}}


def check_url(url: str, place: str = "SWEEP_FILES") -> None:
    """Raise UserInputError if `url` cannot be a store, or holds a secret. Connects to nothing.

    `place` is where the user wrote it.
    """
    if "://" not in url:
        if not Path(url).is_absolute():
            hint = "write a full path that every machine sees, or a URL such as s3://bucket/path"
            raise UserInputError([Problem(place, f"{url} is a relative path", hint)])
        return
    parts = urlsplit(url)
    if parts.username or parts.password or "@" in parts.netloc:
        hint = "remove them: the store reads credentials from the environment of each machine"
        raise UserInputError([Problem(place, "the address contains credentials", hint)])
    import fsspec

    if parts.scheme not in fsspec.available_protocols():
        known = "a folder, file://, s3://, gs://, abfs://"
        raise UserInputError([Problem(place, f"{parts.scheme}:// is not a known kind of store", f"use {known}")])


def file_system(url: str, place: str = "SWEEP_FILES") -> tuple[Any, str]:
    """Return the file system of fsspec for a URL or a path, and the path in it.

    Connects to nothing. Raises UserInputError for a bad URL, SweepError without its library.
    """
    check_url(url, place)
    import fsspec

    protocol = urlsplit(url).scheme if "://" in url else "file"
    options: dict[str, Any] = _S3_OPTIONS if protocol in ("s3", "s3a") else {}
    try:
        if protocol in ("http", "https"):
            import aiohttp

            # its own limit of five minutes is for the whole file
            options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)}}
        files: Any = fsspec.filesystem(protocol, use_listings_cache=False, **options)
    except ImportError as error:
        command = install_command("s3") if protocol in ("s3", "s3a") else f"pip install 'fsspec[{protocol}]'"
        raise SweepError(f"the store {url} needs a library: {error}", f"run: {command}") from error
    return files, str(files._strip_protocol(url)).rstrip("/")


class FileStore:
    """Files by name below a URL. Names use `/`.

    A file appears completely or not at all. Every method raises SweepError if the store cannot be
    reached or refuses.
    """

    def __init__(self, url: str) -> None:
        """Open the store. Raises UserInputError for a bad URL, SweepError without its library."""
        self.url = url
        self._files, self._root = file_system(url)
        self._is_atomic = "://" in url and urlsplit(url).scheme in _WRITES_ARE_ATOMIC

    def check(self) -> None:
        """Write, read and delete a small file. Raises SweepError if that fails."""
        name = f"checks/{uuid.uuid4().hex}"
        self.write(name, b"finesweep")
        try:
            if self.read(name) != b"finesweep":
                raise SweepError(f"the store {self.url} returns other content than was written", HINT)
        finally:
            self.delete(name)

    def write(self, name: str, content: bytes) -> None:
        """Create or replace a small file."""
        self._put(name, lambda path: self._files.pipe_file(path, content))

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file, or None if there is none of this name."""
        with self._translated("read"):
            try:
                content: bytes = self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return content

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if there is none of this name."""
        with self._translated("read"):
            self._files.invalidate_cache()
            try:
                return int(self._files.info(self._path(name))["size"])
            except FileNotFoundError:
                return None

    def upload(self, file: Path, name: str) -> None:
        """Copy a file of this machine into the store."""
        self._put(name, lambda path: self._files.put_file(str(file), path))

    def download(self, name: str, file: Path, sha256: str) -> None:
        """Copy a file of the store to this machine, and check its digest.

        Several processes may do this at once.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}.tmp")
        try:
            with self._translated("read"):
                self._files.get_file(self._path(name), str(temporary))
            if (found := digest(temporary)) != sha256:
                message = f"{self.url}/{name} is damaged: its digest is {found[:12]}, expected {sha256[:12]}"
                raise SweepError(message, "delete it in the store, then run the same command again")
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """Return the names of the files and folders directly in a folder, sorted."""
        with self._translated("list"):
            self._files.invalidate_cache()
            try:
                listed = self._files.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
            names = {str(path).rstrip("/").rpartition("/")[2] for path in listed}
            return sorted(names - {folder.rpartition("/")[2], ""} if self._is_atomic else names)

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the sizes in bytes of all files below a folder, by their names in the store."""
        with self._translated("list"):
            self._files.invalidate_cache()
            try:
                found = self._files.find(self._path(folder), detail=True)
            except FileNotFoundError:
                return {}
            return {str(path).removeprefix(f"{self._root}/"): int(info["size"]) for path, info in found.items()}

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with everything in it. Idempotent."""
        with self._translated("delete from"):
            self._files.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                self._files.rm(self._path(name), recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _put(self, name: str, put: Callable[[str], None]) -> None:
        """Create or replace a file by `put`, which writes to the path that it receives."""
        with self._translated("write to"):
            path = self._path(name)
            if self._is_atomic:
                put(path)
                return
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            put(temporary := f"{path}.{uuid.uuid4().hex}.tmp")
            self._move(temporary, path)

    def _move(self, temporary: str, path: str) -> None:
        if "file" in self._files.protocol:
            os.replace(temporary, path)
        else:
            self._files.mv(temporary, path)

    @contextlib.contextmanager
    def _translated(self, action: str) -> Iterator[None]:
        try:
            yield
        except SweepError:
            raise
        except Exception as error:  # each kind of store has its own exceptions, and none may end a worker
            raise SweepError(f"cannot {action} the store {self.url}: {in_words(error)}", HINT) from error


def digest(file: Path) -> str:
    """Return the SHA-256 digest of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def replace_folder(prepared: Path, folder: Path) -> None:
    """Give a prepared folder or file its place, where an older one may be."""
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    prepared.replace(folder)


def in_words(error: BaseException) -> str:
    """Return the name and the text of a library's error, on one line."""
    text = " ".join(str(error).split())
    return (f"{type(error).__name__}: {text}" if text else type(error).__name__)[:300]
