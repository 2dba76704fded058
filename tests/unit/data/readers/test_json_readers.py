"""Files -> records: the line of each record, and every way in which a file can be broken."""

from __future__ import annotations

import csv
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.data.findings import Finding
from sweeps.data.readers.files import read_records
from sweeps.data.readers.record import Record

pytestmark = pytest.mark.unit


@pytest.fixture
def read_bytes(tmp_path):
    def reading(name: str, content: bytes, encoding: str = "utf-8"):
        path = tmp_path / name
        path.write_bytes(content)
        found = list(read_records(path, encoding))
        records = [(item.line, dict(item.fields)) for item in found if isinstance(item, Record)]
        findings = [
            (item.severity, item.code, item.place.removeprefix(f"{tmp_path}/"))
            for item in found
            if isinstance(item, Finding)
        ]
        hints = [item.hint for item in found if isinstance(item, Finding)]
        return records, findings, hints

    return reading


def test_reading_json_lines_continues_after_a_broken_line(read_bytes):
    content = b'{"a": 1}\n\n{"a": }\n[1]\n"x"\n{"a": NaN}\n{"a": 2}'
    records, findings, _ = read_bytes("d.jsonl", content)
    assert records == [(1, {"a": 1}), (7, {"a": 2})]
    assert findings == [("error", "json", f"d.jsonl:{line}") for line in (3, 4, 5, 6)]


def test_gzip_byte_order_mark_and_windows_line_ends_are_accepted(read_bytes):
    content = b'\xef\xbb\xbf{"a": "\xc3\xa4"}\r\n{"a": 2}\r\n{"a"\r\n'
    records, findings, _ = read_bytes("d.jsonl.gz", gzip.compress(content))
    assert records == [(1, {"a": "ä"}), (2, {"a": 2})]
    assert findings == [("error", "json", "d.jsonl.gz:3")]


def test_a_truncated_gzip_is_one_error_after_the_readable_records(read_bytes):
    whole = gzip.compress(b"".join(b'{"a": "%d"}\n' % (number * 7919) for number in range(20_000)))
    records, findings, _ = read_bytes("d.jsonl.gz", whole[: len(whole) // 2])
    assert 0 < len(records) < 20_000
    assert [(severity, code) for severity, code, _ in findings] == [("error", "gzip")]


def test_a_gz_file_that_is_not_gzip_is_one_error(read_bytes):
    assert read_bytes("d.csv.gz", b"a,b\n1,2\n")[1] == [("error", "gzip", "d.csv.gz")]


def test_a_json_list_called_jsonl_is_one_error(read_bytes):
    for content in (b'[\n{"a": 1},\n{"a": 2}\n]\n', b'[{"a": 1}, {"a": 2}]'):
        records, findings, _ = read_bytes("d.jsonl", content)
        assert (records, findings) == ([], [("error", "json", "d.jsonl:1")])


def test_records_of_a_json_list_have_the_line_where_they_begin(read_bytes):
    records, findings, _ = read_bytes("d.json", b'[\n {"a": 1},\n\n {"a":\n 2}, 7,\n {"a": 3}\n]\n')
    assert records == [(2, {"a": 1}), (4, {"a": 2}), (6, {"a": 3})]
    assert findings == [("error", "json", "d.json:5")]


@pytest.mark.parametrize(
    ("content", "line"), [(b'[\n{"a": 1},\n{"a" 2}]', 3), (b'[{"a": 1}\n{"a": 2}]', 2), (b'[{"a": 1},\n\n', 3)]
)
def test_a_broken_json_list_is_reported_with_its_line(read_bytes, content, line):
    assert read_bytes("d.json", content)[1] == [("error", "json", f"d.json:{line}")]


def test_json_lines_in_a_json_file_are_read(read_bytes):
    assert read_bytes("d.json", b'{"a": 1}\n{"a": 2}\n')[0] == [(1, {"a": 1}), (2, {"a": 2})]


def test_csv_records_have_the_line_where_their_row_begins(read_bytes):
    content = b'a,b\n1,"x\ny\n"\n\n2,z\n3\n4,"q ""q"" q"\n5,6,7\n8,9,\n'
    records, findings, _ = read_bytes("d.csv", content)
    assert records == [
        (2, {"a": "1", "b": "x\ny\n"}),
        (6, {"a": "2", "b": "z"}),
        (8, {"a": "4", "b": 'q "q" q'}),
        (10, {"a": "8", "b": "9"}),
    ]
    assert findings == [("error", "cells", "d.csv:7"), ("error", "cells", "d.csv:9")]


def test_an_unclosed_quote_is_reported_where_it_opens(read_bytes):
    records, findings, hints = read_bytes("d.csv.gz", gzip.compress(b'a,b\n1,2\n3,"x\n4,5\n6,7\n'))
    assert (records, findings) == ([(2, {"a": "1", "b": "2"})], [("error", "csv", "d.csv.gz:3")])
    assert "never closed" in hints[0]


def test_reading_continues_after_a_stray_quote(read_bytes):
    records, findings, _ = read_bytes("d.tsv", b'a\tb\n"x"y\t1\n2\t3\n')
    assert records == [(3, {"a": "2", "b": "3"})]
    assert findings == [("error", "csv", "d.tsv:2")]


def test_columns_without_a_name_are_dropped_and_reported_if_they_have_text(read_bytes):
    records, findings, _ = read_bytes("d.csv", b"a,b,,\n1,2,,\n3,4,lost,\n5,6\n7,8,,lost\n")
    assert [fields for _, fields in records] == [{"a": str(n), "b": str(n + 1)} for n in (1, 3, 5, 7)]
    assert findings == [("warning", "unnamed-column", "d.csv:3")]


@pytest.mark.parametrize("header", [b",,\n1,2,3\n", b"a,b,a\n1,2,3\n"])
def test_a_header_without_names_or_with_a_repeated_name_is_an_error(read_bytes, header):
    assert read_bytes("d.csv", header) == ([], [("error", "header", "d.csv:1")], read_bytes("d.csv", header)[2])


def test_another_encoding_is_one_error_that_names_the_encoding_to_set(read_bytes):
    content = "v\nplain\n£5\nplain\nÜber\n".encode("latin-1")
    records, findings, hints = read_bytes("d.csv", content)
    assert (findings, hints) == ([("error", "encoding", "d.csv:3")], ["set encoding: cp1252"])
    assert records == [(2, {"v": "plain"}), (4, {"v": "plain"})]
    assert [fields["v"] for _, fields in read_bytes("d.csv", content, "cp1252")[0]] == ["plain", "£5", "plain", "Über"]


def test_utf_16_is_recognised_by_its_mark_and_read_if_the_encoding_is_set(read_bytes):
    content = '{"a": "ü"}\n'.encode("utf-16")
    assert read_bytes("d.jsonl", content) == ([], [("error", "encoding", "d.jsonl")], ["set encoding: utf-16"])
    assert read_bytes("d.jsonl", content, "utf-16")[0] == [(1, {"a": "ü"})]


def test_utf_8_text_read_as_utf_16_is_an_encoding_error(read_bytes):
    assert read_bytes("d.jsonl", b'{"a": 1}\n', "utf-16")[1][0][:2] == ("error", "encoding")


def test_an_unknown_ending_and_a_missing_file_are_findings(tmp_path):
    assert [item.code for item in read_records(tmp_path / "d.xlsx")] == ["format"]
    assert [item.code for item in read_records(tmp_path / "d.csv")] == ["unreadable"]


@given(
    rows=st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)] * 2), max_size=6
    )
)
def test_every_csv_that_python_writes_is_read_back_with_its_lines(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "d.csv"
    starts = []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["a", "b"])
        for row in rows:
            file.flush()
            starts.append(_lines_before(path))
            writer.writerow(row)
    found = list(read_records(path))
    assert [(record.line, record.fields["a"], record.fields["b"]) for record in found] == [
        (start + 1, *row) for start, row in zip(starts, rows, strict=True)
    ]


def _lines_before(path) -> int:
    with path.open(newline="", encoding="utf-8") as file:
        return sum(1 for _ in file)


@given(items=st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5), max_size=3)))
def test_a_json_list_and_json_lines_of_the_same_objects_give_the_same_records(tmp_path_factory, items):
    home = tmp_path_factory.mktemp("json")
    (home / "d.json").write_text(json.dumps(items, indent=1))
    (home / "d.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items))
    assert [record.fields for record in read_records(home / "d.json")] == items
    assert [record.fields for record in read_records(home / "d.jsonl")] == items
