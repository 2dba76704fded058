"""The store over a folder: whole files, checked digests, and errors with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.errors import SweepError, UserInputError
from sweeps.file_store.store import FileStore, check_url, digest

pytestmark = pytest.mark.unit


@pytest.fixture(params=["{}", "file://{}"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FileStore:
    return FileStore(str(request.param).format(tmp_path / "store"))


def test_what_is_written_is_read(store: FileStore, tmp_path: Path) -> None:
    store.check()
    store.write("a/b.json", b"one")
    store.write("a/b.json", b"two")
    assert store.read("a/b.json") == b"two"
    assert store.size("a/b.json") == 3
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    store.upload(tmp_path / "large", "a/large")
    store.download("a/large", tmp_path / "back" / "large", digest(tmp_path / "large"))
    assert (tmp_path / "back" / "large").read_bytes() == b"x" * 100_000
    assert store.names("a") == ["b.json", "large"]
    assert store.names("") == ["a", "checks"] or store.names("") == ["a"]


def test_what_is_not_there(store: FileStore) -> None:
    assert store.read("none") is None
    assert store.size("none") is None
    assert store.names("none") == []
    store.delete("none")


def test_a_folder_is_deleted_with_its_content(store: FileStore) -> None:
    store.write("runs/one/a", b"1")
    store.write("runs/two/a", b"1")
    store.delete("runs/one")
    assert store.names("runs") == ["two"]


def test_a_damaged_file_is_refused_and_leaves_nothing_behind(store: FileStore, tmp_path: Path) -> None:
    store.write("data/x", b"damaged")
    with pytest.raises(SweepError, match="its digest is"):
        store.download("data/x", tmp_path / "copies" / "x", "0" * 64)
    assert list((tmp_path / "copies").iterdir()) == []


def test_a_missing_file_names_the_store(store: FileStore, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="cannot read the store"):
        store.download("data/x", tmp_path / "x", "0" * 64)


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SweepError, match="cannot write to the store"):
        FileStore(str(tmp_path / "file" / "store")).check()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://key:secret@bucket/path", "contains credentials"),
        ("https://user:word@host/path", "contains credentials"),
        ("folder/of/mine", "relative path"),
        ("nosuch://bucket", "not a known kind of store"),
    ],
)
def test_a_bad_address_is_refused_without_a_connection(url: str, words: str) -> None:
    with pytest.raises(UserInputError, match=words) as raised:
        check_url(url)
    assert "secret" not in str(raised.value)
    assert raised.value.problems[0].hint
