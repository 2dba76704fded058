"""Prepared data files on their way: into the store, and from there into a machine's cache."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

from backends.contract import DataFile, Dataset
from sweeps.file_store.store import FileStore, digest

UNUSED_DAYS = 14.0
"""A cached file that no trial has used for this long is deleted."""


def put_data(store: FileStore, dataset: Dataset, sweep_id: str) -> None:
    """Put the files of a data set into the store, unless they are there, and claim them.

    Several sweeps can use one file. It stays until none of them claims it.
    """
    for file in (file for file in (dataset.train, dataset.valid) if file.path):
        if store.size(claim := _claim_name(file.sha256, sweep_id)) is None:
            store.write(claim, b"1")
        if store.size(data_name(file.sha256)) != (path := Path(file.path)).stat().st_size:
            store.upload(path, data_name(file.sha256))


def claims(store: FileStore, sha256: str) -> list[str]:
    """Return the ids of the sweeps that use a data file."""
    return [unquote(name) for name in store.names(f"claims/{sha256}")]


def release_data(store: FileStore, sha256: str, sweep_id: str) -> None:
    """Give up the claim of a sweep on a data file, and delete a file that nobody claims.

    Idempotent.
    """
    store.delete(_claim_name(sha256, sweep_id))
    if not claims(store, sha256):
        store.delete(data_name(sha256))
        store.delete(f"claims/{sha256}")


def fetch_data(store: FileStore, dataset: Dataset, cache: Path) -> Dataset:
    """Return the data set with the paths of this machine's copies, fetching what is missing.

    A copy whose digest is wrong is fetched again.
    """
    return replace(dataset, train=_fetched(store, dataset.train, cache), valid=_fetched(store, dataset.valid, cache))


def delete_unused(folders: Iterable[Path], now: float | None = None) -> None:
    """Delete the files that nobody has used for `UNUSED_DAYS`."""
    oldest = (time.time() if now is None else now) - UNUSED_DAYS * 86400
    for path in folders:
        if path.is_file() and path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)


_CHECKED: set[tuple[str, int, int]] = set()
"""The files whose digest this process has checked: path, size and modification time."""


def _fetched(store: FileStore, file: DataFile, cache: Path) -> DataFile:
    path = cache / f"{file.sha256}.jsonl"
    if not _is_intact(path, file.sha256):
        store.download(data_name(file.sha256), path, file.sha256)
    path.touch()
    stat = path.stat()
    _CHECKED.add((str(path), stat.st_size, stat.st_mtime_ns))
    return replace(file, path=str(path))


def _is_intact(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    stat = path.stat()
    return (str(path), stat.st_size, stat.st_mtime_ns) in _CHECKED or digest(path) == sha256


def data_name(sha256: str) -> str:
    """Return the name of a data file in the store."""
    return f"data/{sha256}.jsonl"


def _claim_name(sha256: str, sweep_id: str) -> str:
    return f"claims/{sha256}/{quote(sweep_id, safe='')}"
