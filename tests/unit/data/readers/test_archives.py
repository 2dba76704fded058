"""gzip and zip: content like that of plain files, and archives that are damaged or made to harm."""

from __future__ import annotations

import gzip
import io
import zipfile

import pytest
from read_files import read_back, read_content

from sweeps.data.readers.damage import FileFaultError
from sweeps.data.readers.input_file import Inflated

pytestmark = pytest.mark.unit


def archive(path, **members: bytes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name, content)
    return path


def test_the_file_in_an_archive_is_read_beside_what_systems_add(tmp_path):
    junk = {"__MACOSX/._d.csv": b"x", ".hidden.csv": b"x", "README.md": b"x", "folder/": b""}
    path = archive(tmp_path / "d.zip", **{"folder/d.csv": b"a,b\n1,2\n3\n"}, **junk)
    found = read_back(path)
    assert found.records == [(2, {"a": "1", "b": "2"})]
    assert found.findings == [("error", "cells", "d.zip/folder/d.csv:3")]


def test_an_archive_with_none_or_several_data_files_is_one_error(tmp_path):
    assert read_back(archive(tmp_path / "a.zip", **{"x.txt": b""})).codes == [("error", "archive")]
    several = read_back(archive(tmp_path / "b.zip", **{"x.csv": b"a\n", "y.csv": b"a\n"}))
    assert several.codes == [("error", "archive")]
    assert several.messages == ["the archive has several data files: x.csv, y.csv"]


def test_a_truncated_gzip_is_one_error_after_the_readable_records(tmp_path):
    whole = gzip.compress(b"".join(b'{"a": "%d"}\n' % (number * 7919) for number in range(20_000)))
    found = read_content(tmp_path, "d.jsonl.gz", whole[: len(whole) // 2])
    assert 0 < len(found.records) < 20_000
    assert found.codes == [("error", "gzip")]


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"PK\x03\x04" + bytes(50)])
def test_what_is_no_archive_is_one_error(tmp_path, content):
    assert read_content(tmp_path, "d.zip", content).codes == [("error", "archive")]
    if content:  # nothing at all is a valid gzip stream of no members
        assert read_content(tmp_path, "d.csv.gz", content).codes == [("error", "gzip")]


def test_damage_inside_an_archive_is_one_error(tmp_path):
    content = bytearray(archive(tmp_path / "d.zip", **{"d.jsonl": b'{"a": 1}\n' * 5000}).read_bytes())
    content[60] ^= 0xFF
    assert ("error", "archive") in read_content(tmp_path, "d.zip", bytes(content)).codes


def test_an_archive_with_a_password_is_one_error(tmp_path):
    content = bytearray(archive(tmp_path / "d.zip", **{"d.jsonl": b'{"a": 1}\n'}).read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    found = read_content(tmp_path, "d.zip", bytes(content))
    assert found.codes == [("error", "archive")]
    assert "password" in found.messages[0]


def test_an_archive_that_would_fill_the_memory_is_stopped():
    def inflated(size: int) -> bytes:
        content = io.BufferedReader(io.BytesIO(bytes(size)))
        return Inflated(content, 10, lambda limit: FileFaultError("archive", f"{limit}"), (), 1000, 200).readall()

    assert len(inflated(2000)) == 2000
    with pytest.raises(FileFaultError, match="2000"):
        inflated(2001)
