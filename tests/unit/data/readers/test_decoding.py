"""The encoding of text files: what is recognised, and what is an error."""

from __future__ import annotations

import pytest
from read_files import read_content

pytestmark = pytest.mark.unit

WESTERN = "text,label\nplain,a\n£5 for a café,b\nÜber “quotes” – dashes…,c\nplain,d\n"
POLISH = "text,label\nZażółć gęślą jaźń,a\nmiło mi cię poznać,b\nświetny błąd,c\nplain,d\n"
RUSSIAN = "text,label\nпривет,a\nкак дела,b\nплохо,c\n"


@pytest.mark.parametrize("name", ["d.csv", "d.jsonl", "d.json"])
def test_windows_1252_is_recognised_with_a_warning_that_shows_it(tmp_path, name):
    written = WESTERN if name == "d.csv" else '[{"text": "£5 for a café"}]' if name == "d.json" else '{"a": "é"}\n'
    content = written.encode("cp1252")
    found = read_content(tmp_path, name, content)
    assert found.rows == read_content(tmp_path, name, content, "cp1252").rows != []
    assert found.codes == [("warning", "encoding")]
    assert "read as Windows-1252" in found.messages[0]
    assert read_content(tmp_path, name, content, "cp1252").findings == []


@pytest.mark.parametrize(("text", "encoding"), [(POLISH, "cp1250"), (RUSSIAN, "cp1251"), (RUSSIAN, "koi8-r")])
def test_other_alphabets_are_not_taken_for_windows_1252(tmp_path, text, encoding):
    content = text.encode(encoding)
    found = read_content(tmp_path, "d.csv", content)
    assert found.codes == [("error", "encoding")]
    assert "set encoding" in found.hints[0]
    assert read_content(tmp_path, "d.csv", content, encoding).rows[0]["text"] in text


def test_two_encodings_in_one_file_are_an_error_with_their_lines(tmp_path):
    content = "text,label\ncafé,a\n".encode() + "£5,b\nnaïve,c\n".encode("cp1252")
    found = read_content(tmp_path, "d.csv", content)
    assert found.findings == [("error", "encoding", "d.csv:3")]
    assert found.messages == ["the line is not utf-8 text, nor is 1 other line"]
    assert "most of the file is UTF-8" in found.hints[0]


def test_a_few_lines_that_are_utf_8_by_chance_do_not_change_the_encoding(tmp_path):
    plain = ["nothing but letters,d"] * 400  # more than one block of bytes
    lines = ["text,label", *["it costs £5,a"] * 50, *plain, "Ì¬ is valid,b", *plain, *["café,c"] * 50]
    content = "\n".join(lines).encode("cp1252")
    found = read_content(tmp_path, "d.csv", content)
    assert found.codes == [("warning", "encoding")]
    assert found.rows == read_content(tmp_path, "d.csv", content, "cp1252").rows


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_the_encodings_of_unicode_are_recognised(tmp_path, encoding, ending):
    text = '{"text": "ü, text", "label": "x"}\n' * 3 if ending == ".jsonl" else 'text,label\n"ü, text",x\n"ü, text",x\n'
    found = read_content(tmp_path, f"d{ending}", text.encode(encoding))
    assert found.rows[0] == {"text": "ü, text", "label": "x"}
    assert found.findings == []


def test_text_of_another_encoding_than_the_one_that_is_set_is_an_error(tmp_path):
    assert read_content(tmp_path, "d.jsonl", b'{"a": 1}\n', "utf-16").codes[0] == ("error", "encoding")
    assert read_content(tmp_path, "d.jsonl", '{"a": "é"}'.encode(), "ascii").codes[0] == ("error", "encoding")


def test_a_utf_16_file_that_is_cut_in_a_character_is_an_error(tmp_path):
    assert read_content(tmp_path, "d.csv", "a,b\nc,d\n".encode("utf-16")[:-1]).codes == [("error", "encoding")]


def test_zero_bytes_are_an_error_with_their_number(tmp_path):
    found = read_content(tmp_path, "d.csv", b"a,b\n1,2\n\0\0\0\0,\0\n3,4\n\0,x\n")
    assert found.rows == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert found.findings == [("error", "zero-bytes", "d.csv:3")]
    assert found.messages[0].startswith("2 records")


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (b"\x1f\x8b\x08\0", "end in .gz"),
        (b"PK\x03\x04....", ".zip or .xlsx"),
        (b"PAR1....", ".parquet"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5\n", "git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "download the file itself"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "save it as .xlsx"),
    ],
)
def test_a_file_of_another_format_says_what_it_is(tmp_path, content, remedy):
    found = read_content(tmp_path, "d.csv", content)
    assert (found.records, found.codes) == ([], [("error", "format")])
    assert remedy in found.hints[0]


def test_a_file_without_line_breaks_is_not_held_in_memory(tmp_path):
    found = read_content(tmp_path, "d.jsonl", b"x" * (2**26 + 2**22))
    assert (found.records, found.codes) == ([], [("error", "long-line")])


def test_a_line_of_ten_megabytes_is_a_record(tmp_path):
    text = "word " * 2_000_000
    found = read_content(tmp_path, "d.jsonl", f'{{"a": "{text}"}}\n{{"a": "b"}}\n'.encode())
    assert [len(row["a"]) for row in found.rows] == [10_000_000, 1]
    assert len(read_content(tmp_path, "d.csv", f"a,b\n{text},c\n".encode()).rows[0]["a"]) == 10_000_000
