"""The choice of the reader by name, and files that are not there."""

from __future__ import annotations

import pytest
from read_files import read_back, read_content

from sweeps.data.readers.files import format_of, is_archive, is_data_file, known_endings

pytestmark = pytest.mark.unit


def test_the_ending_says_the_format_in_any_case(tmp_path):
    assert [format_of(name) for name in ("a.CSV", "a.jsonl.gz", "b.Parquet", "a")] == [".csv", ".jsonl", ".parquet", ""]
    assert [name for name in ("x.XLSX", "x.Zip", "x.txt", "x.gz") if is_data_file(name)] == ["x.XLSX", "x.Zip"]
    assert is_archive("x.Zip")
    assert read_content(tmp_path, "D.CSV", b"a,b\n1,2\n").rows == [{"a": "1", "b": "2"}]
    assert ".feather" in known_endings()


def test_an_unknown_ending_and_a_missing_file_are_findings(tmp_path):
    assert read_back(tmp_path / "d.xls").codes == [("error", "format")]
    for name in ("d.csv", "d.csv.gz", "d.json", "d.parquet", "d.xlsx", "d.zip"):
        assert read_back(tmp_path / name).codes == [("error", "unreadable")], name


def test_an_empty_file_has_no_records_and_no_findings(tmp_path):
    for name in ("d.csv", "d.tsv", "d.json", "d.jsonl"):
        assert read_content(tmp_path, name, b"") == ([], [], [], []), name
        assert read_content(tmp_path, name, b"\xef\xbb\xbf \n\r\n") == ([], [], [], []), name
