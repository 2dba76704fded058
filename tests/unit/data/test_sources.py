"""Sources: files, folders, archives and URLs, as a sweep file or a command names them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from sweeps.data import DataSpec
from sweeps.data.hub import SourceUnavailableError
from sweeps.data.readers.record import Record
from sweeps.data.sources import Source, locate, named_part, own_data, url_of
from sweeps.errors import SweepError, UserInputError

pytestmark = pytest.mark.unit


def lines(*numbers: int) -> bytes:
    return "".join(f'{{"text": "t{number}", "label": "x"}}\n' for number in numbers).encode()


def texts(source: Source) -> dict[str, list[str]]:
    found = {part: list(read()) for part, read in source.parts.items()}
    assert all(isinstance(record, Record) for records in found.values() for record in records), found
    return {part: [record.fields["text"] for record in records] for part, records in found.items()}


def test_the_numbered_files_of_a_folder_are_read_in_order(tmp_path):
    for number in (10, 2, 1):
        (tmp_path / f"part{number}.jsonl").write_bytes(lines(number))
    source = own_data(tmp_path)
    assert texts(source) == {"train": ["t1", "t2", "t10"]}
    assert source.description == f"{tmp_path} (part1.jsonl to part10.jsonl, 3 files)"
    assert next(source.parts["train"]()).place == f"{tmp_path}/part1.jsonl:1"


def test_a_clone_of_the_hub_is_read_without_the_datasets_library(tmp_path):
    (tmp_path / "data").mkdir()
    for part, numbers in (("train-00000-of-00002", [1]), ("train-00001-of-00002", [2]), ("test-00000-of-00001", [3])):
        table = pyarrow.Table.from_pylist([json.loads(line) for line in lines(*numbers).splitlines()])
        parquet.write_table(table, tmp_path / "data" / f"{part}.parquet")
    (tmp_path / ".git" / "x").mkdir(parents=True)
    (tmp_path / ".git" / "x" / "train.csv").write_text("not data")
    assert texts(own_data(tmp_path)) == {"train": ["t1", "t2"], "test": ["t3"]}


def test_the_files_of_an_archive_are_the_parts(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, number in (("set/train.jsonl", 1), ("set/dev.jsonl", 2), ("set/LICENSE", 3)):
            archive.writestr(name, lines(number))
    source = own_data(tmp_path / "set.zip")
    assert texts(source) == {"train": ["t1"], "valid": ["t2"]}
    assert next(source.parts["valid"]()).place == f"{tmp_path}/set.zip/set/dev.jsonl:1"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere.csv", None, "does not exist"),
        ("data.txt", b"x", "unknown file ending"),
        ("data.zip", b"no archive", "not a zip archive"),
    ],
)
def test_what_cannot_be_data_is_an_error_with_a_remedy(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserInputError, match=message) as raised:
        own_data(tmp_path / name)
    assert raised.value.problems[0].hint


# --------------------------------------------------------------------------------------------- URLs
@pytest.fixture
def bucket():
    """A store in the memory of this process; tests/integration/test_s3_store.py has a real one."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def test_a_file_behind_a_url_is_read(bucket):
    bucket.pipe_file("/bucket/my set.jsonl", lines(1, 2))
    source = locate("memory://bucket/my set.jsonl", DataSpec(source="snli"))
    assert texts(source) == {"train": ["t1", "t2"]}
    assert (source.name, source.description) == ("my set.jsonl", "memory://bucket/my set.jsonl")
    assert next(source.parts["train"]()).place == "memory://bucket/my set.jsonl:1"
    read, origin = named_part("memory://bucket/my set.jsonl", "utf-8")
    assert (len(list(read())), origin) == (2, "memory://bucket/my set.jsonl")


def test_a_folder_and_an_archive_behind_a_url_are_read(bucket):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("train.jsonl", lines(3))
        archive.writestr("test.jsonl", lines(4))
    table = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": ["t5"], "label": ["x"]}), table)
    bucket.pipe({"/b/set/train.jsonl": lines(1), "/b/set/dev.jsonl": lines(2), "/b/set.zip": packed.getvalue()})
    bucket.pipe_file("/b/set.parquet", table.getvalue())
    assert texts(own_data("memory://b/set/")) == {"train": ["t1"], "valid": ["t2"]}
    assert texts(own_data("memory://b/set.zip")) == {"train": ["t3"], "test": ["t4"]}
    assert texts(own_data("memory://b/set.parquet")) == {"train": ["t5"]}
    from_option = locate("snli", DataSpec(source="snli"), Path("memory://b/set"))
    assert texts(from_option) == {"train": ["t1"], "valid": ["t2"]}
    with pytest.raises(UserInputError, match="--data: memory://b/nothing: no such file or folder"):
        locate("snli", DataSpec(source="snli"), Path("memory://b/nothing"))
    with pytest.raises(SourceUnavailableError, match="several parts"):
        named_part("memory://b/set", "utf-8")


def test_a_url_without_data_is_unavailable_so_that_the_fallback_may_take_its_place(bucket):
    with pytest.raises(SourceUnavailableError, match="no such file or folder"):
        locate("memory://nowhere/train.csv", DataSpec(source="snli"))
    with pytest.raises(UserInputError, match="no such file or folder"):
        own_data("memory://nowhere/train.csv")


@pytest.mark.parametrize("url", ["s3://bucket/x.csv", "file:///folder/x.csv", "gs://b/c"])
def test_an_option_for_paths_may_hold_a_url(url):
    assert url_of(Path(url)) == url
    assert [url_of(Path(path)) for path in ("folder/x.csv", "/x.csv", "C:x", "a:b/c")] == [None] * 4


@pytest.mark.parametrize(
    ("url", "message"),
    [("s4://bucket/train.csv", "not a known kind of store"), ("s3://key:secret@bucket/x.csv", "credentials")],
)
def test_a_url_that_cannot_be_read_is_an_error_without_its_secrets(url, message):
    with pytest.raises(SweepError, match=message) as raised:
        locate(url, DataSpec(source="snli"))
    assert "secret" not in str(raised.value)
