"""Data files go into the store once, and to each machine once; a damaged copy is replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import relocatable_backend

from sweeps.errors import SweepError
from sweeps.file_store.data_files import delete_unused, fetch_data, put_data
from sweeps.file_store.store import FileStore

pytestmark = pytest.mark.unit


class CountingStore(FileStore):
    """Counts what is copied."""

    uploads = downloads = 0

    def upload(self, file: Path, name: str) -> None:
        self.uploads += 1
        super().upload(file, name)

    def download(self, name: str, file: Path, sha256: str) -> None:
        self.downloads += 1
        super().download(name, file, sha256)


@pytest.fixture
def dataset(tmp_path: Path) -> object:
    for part in ("train", "valid"):
        (tmp_path / f"{part}.jsonl").write_text(f'{{"prompt": "{part}"}}\n')
    return relocatable_backend.request(tmp_path / "train.jsonl", tmp_path / "valid.jsonl").dataset


def test_each_file_travels_once(tmp_path: Path, dataset) -> None:  # type: ignore[no-untyped-def]
    store = CountingStore(str(tmp_path / "store"))
    put_data(store, dataset, "sweep-1")
    put_data(store, dataset, "sweep-1")
    assert store.uploads == 2
    first = fetch_data(store, dataset, tmp_path / "cache")
    assert fetch_data(store, dataset, tmp_path / "cache") == first
    assert store.downloads == 2
    assert Path(first.train.path).read_text() == '{"prompt": "train"}\n'
    assert Path(first.train.path).parent == tmp_path / "cache"
    assert first.train.sha256 == dataset.train.sha256


def test_a_damaged_copy_is_fetched_again(tmp_path: Path, dataset) -> None:  # type: ignore[no-untyped-def]
    store = FileStore(str(tmp_path / "store"))
    put_data(store, dataset, "sweep-1")
    copy = Path(fetch_data(store, dataset, tmp_path / "cache").train.path)
    copy.write_text("damaged")
    assert Path(fetch_data(store, dataset, tmp_path / "cache").train.path).read_text() == '{"prompt": "train"}\n'


def test_damaged_data_in_the_store_is_an_error(tmp_path: Path, dataset) -> None:  # type: ignore[no-untyped-def]
    store = FileStore(str(tmp_path / "store"))
    put_data(store, dataset, "sweep-1")
    store.write(f"data/{dataset.train.sha256}.jsonl", b'{"prompt": "other"}\n')
    with pytest.raises(SweepError, match="damaged"):
        fetch_data(store, dataset, tmp_path / "cache")


def test_an_interrupted_upload_is_repeated(tmp_path: Path, dataset) -> None:  # type: ignore[no-untyped-def]
    store = FileStore(str(tmp_path / "store"))
    store.write(f"data/{dataset.train.sha256}.jsonl", b"half")
    put_data(store, dataset, "sweep-1")
    assert fetch_data(store, dataset, tmp_path / "cache").train.sha256 == dataset.train.sha256


def test_only_unused_copies_are_deleted(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for path in (old, new):
        path.write_text("x")
    os.utime(old, (0, 0))
    delete_unused([old, new, tmp_path])
    assert not old.exists()
    assert new.exists()
