"""JSON lines and JSON documents: the line of each record, and every way to be broken."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from read_files import read_back, read_content

from sweeps.data.readers.damage import Damage
from sweeps.data.readers.json_documents import read_json

pytestmark = pytest.mark.unit


def test_reading_json_lines_continues_after_a_broken_line(tmp_path):
    content = b'{"a": 1}\n\n{"a": }\n[1]\n"x"\n{"a": NaN}\n{"a": 2}\n{"b": }\n{"a": 3} x\n'
    found = read_content(tmp_path, "d.jsonl", content)
    assert found.records == [(1, {"a": 1}), (7, {"a": 2})]
    assert found.findings == [("error", "json", f"d.jsonl:{line}") for line in (3, 4, 6, 9)]
    assert found.messages[0] == "not valid JSON: Expecting value (column 7); the same on 1 more line: 8"
    assert found.messages[1] == "'[1]' is not an object; the same on 1 more line: 5"


@pytest.mark.parametrize("end", ["x", "}", ",", " x", ", x"])
def test_whatever_follows_an_object_on_its_line_is_an_error(tmp_path, end):
    for line_end in ("\n", "\r\n", ""):
        found = read_content(tmp_path, "d.jsonl", f'{{"a": 1}}\n{{"a": 2}}{end}{line_end}'.encode())
        assert (found.rows, found.findings) == ([{"a": 1}], [("error", "json", "d.jsonl:2")])


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path):
    content = b'\xef\xbb\xbf{"a": "\xc3\xa4"}\r\n{"a": 2}\r\n\r\n{"a"\r\n'
    found = read_content(tmp_path, "d.jsonl.gz", gzip.compress(content))
    assert found.records == [(1, {"a": "ä"}), (2, {"a": 2})]
    assert found.findings == [("error", "json", "d.jsonl.gz:4")]


def test_line_separators_of_unicode_do_not_end_a_line(tmp_path):
    written = '{"a": "x\u2028y\u0085z\x0b"}\n'.replace("\x0b", "\\u000b")
    assert read_content(tmp_path, "d.jsonl", written.encode()).rows == [{"a": "x\u2028y\u0085z\x0b"}]


@pytest.mark.parametrize(
    "content", [b'[\n{"a": 1},\n{"a": 2}\n]\n', b'[{"a": 1}, {"a": 2}]', b'{\n "a": 1\n}\n{\n "a": 2\n}\n']
)
def test_a_whole_document_called_jsonl_is_one_error_and_reads_as_json(tmp_path, content):
    found = read_content(tmp_path, "d.jsonl", content)
    assert (found.records, found.findings) == ([], [("error", "json", "d.jsonl:1")])
    assert "rename the file to .json" in found.hints[0]
    assert read_content(tmp_path, "d.json", content).rows == [{"a": 1}, {"a": 2}]


def test_deep_nesting_is_an_error_of_its_line(tmp_path):
    deep = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    for name in ("d.jsonl", "d.json"):
        found = read_content(tmp_path, name, b'{"a": 1}\n' + deep + b'{"a": 2}\n')
        assert found.records == [(1, {"a": 1}), (3, {"a": 2})]
        assert found.findings == [("error", "json", f"{name}:2")]
    found = read_content(tmp_path, "list.json", b'[{"a": 1},\n' + deep + b"]")
    assert (found.rows, found.findings) == ([{"a": 1}], [("error", "json", "list.json:2")])


# ---------------------------------------------------------------------------------------- documents
def test_records_of_a_json_list_have_the_line_where_they_begin(tmp_path):
    found = read_content(tmp_path, "d.json", b'[\n {"a": 1},\n\n {"a":\n 2}, 7,\n {"a": 3}\n]\n')
    assert found.records == [(2, {"a": 1}), (4, {"a": 2}), (6, {"a": 3})]
    assert found.findings == [("error", "json", "d.json:5")]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b'[\n{"a": 1},\n{"a" 2}]', 3),
        (b'[{"a": 1}\n{"a": 2}]', 2),
        (b'[{"a": 1},\n\n', 3),
        (b'[{"a": 1}]\nmore', 2),
        (b'{"data": [\n{"a": 1}\n', 3),
        (b'{"data"\n [{"a": 1}]}', 2),
    ],
)
def test_a_broken_document_is_reported_with_its_line(tmp_path, content, line):
    assert read_content(tmp_path, "d.json", content).findings == [("error", "json", f"d.json:{line}")]


def test_json_lines_in_a_json_file_are_read(tmp_path):
    found = read_content(tmp_path, "d.json", b'\n{"a": 1}\n{"a": }\n{"a": 2}\n')
    assert found.records == [(2, {"a": 1}), (4, {"a": 2})]
    assert found.findings == [("error", "json", "d.json:3")]


def test_a_list_inside_an_object_is_read_and_what_is_left_out_is_named(tmp_path):
    found = read_content(tmp_path, "d.json", b'{"version": "1.1", "data": [\n{"a": 1},\n{"a": 2}]}')
    assert found.records == [(2, {"a": 1}), (3, {"a": 2})]
    assert found.codes == [("warning", "json-object")]
    assert found.messages == ["the records are the list 'data'; left out beside it: 'version'"]


def test_a_document_on_one_line_and_a_record_with_a_list_are_told_apart(tmp_path):
    assert read_content(tmp_path, "d.json", b'{"data": [{"a": 1}, {"a": 2}]}\n').rows == [{"a": 1}, {"a": 2}]
    records = [{"text": "t", "entities": [{"start": 0}]}, {"text": "u", "entities": []}]
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    assert read_content(tmp_path, "d.json", lines.encode()).rows == records


def test_two_lists_in_an_object_are_two_files(tmp_path):
    found = read_content(tmp_path, "d.json", b'{"train": [{"a": 1}],\n"test": [{"a": 2}]}')
    assert found.findings == [("error", "json", "d.json:2")]
    assert "train.json and test.json" in found.hints[0]


def test_one_conversation_in_a_json_file_is_one_record(tmp_path):
    record = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    assert read_content(tmp_path, "d.json", json.dumps(record, indent=1).encode()).records == [(1, record)]


def test_a_table_that_pandas_writes_by_columns_is_an_error_with_the_remedy(tmp_path):
    found = read_content(tmp_path, "d.json", json.dumps({"a": {"0": "x"}, "b": {"0": "y"}}, indent=1).encode())
    assert (found.records, found.codes) == ([], [("error", "json")])
    assert "orient='records'" in found.hints[0]


@given(
    items=st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5), max_size=3)),
    size=st.integers(1, 40),
    indent=st.none() | st.integers(0, 2),
)
def test_a_list_is_the_same_however_it_is_cut_into_blocks(items, size, indent):
    """The document is read in blocks; a value, a string or an escape may lie across two of them."""
    text = json.dumps(items, indent=indent)
    blocks = _Blocks([text[start : start + size] for start in range(0, len(text), size)])
    assert [record.fields for record in read_json(blocks, Damage("d.json"))] == items


class _Blocks:
    suspicious = False

    def __init__(self, blocks: list[str]) -> None:
        self.blocks = lambda: iter(blocks)


@given(items=st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5), max_size=3)))
def test_a_json_list_and_json_lines_of_the_same_objects_give_the_same_records(tmp_path_factory, items):
    home = tmp_path_factory.mktemp("json")
    (home / "d.json").write_text(json.dumps(items, indent=1))
    (home / "d.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items))
    assert read_back(home / "d.json").rows == items
    assert read_back(home / "d.jsonl").rows == items
