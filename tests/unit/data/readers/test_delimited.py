"""Delimited text as programs write it, and as spreadsheets export it."""

from __future__ import annotations

import csv
import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from read_files import read_back, read_content

from sweeps.data import DataSpec, prepare
from sweeps.data.readers.record import RepeatedColumn
from sweeps.errors import UserInputError

pytestmark = pytest.mark.unit


def test_records_have_the_line_where_their_row_begins(tmp_path):
    content = b'a,b\n1,"x\ny\n"\n\n2,z\n3\n4,"q ""q"" q"\n5,6,7\n8,9,\n'
    found = read_content(tmp_path, "d.csv", content)
    assert found.records == [
        (2, {"a": "1", "b": "x\ny\n"}),
        (6, {"a": "2", "b": "z"}),
        (8, {"a": "4", "b": 'q "q" q'}),
        (10, {"a": "8", "b": "9"}),
    ]
    assert found.findings == [("error", "cells", "d.csv:7")]
    assert found.messages == ["the row has 1 cell, the header 2; the same on 1 more line: 9"]


def test_an_unclosed_quote_is_reported_where_it_opens(tmp_path):
    found = read_content(tmp_path, "d.csv.gz", gzip.compress(b'a,b\n1,2\n3,"x\n4,5\n6,7\n'))
    assert (found.records, found.findings) == ([(2, {"a": "1", "b": "2"})], [("error", "csv", "d.csv.gz:3")])
    assert "never closed" in found.hints[0]


def test_reading_continues_after_a_stray_quote(tmp_path):
    found = read_content(tmp_path, "d.tsv", b'a\tb\n"x"y\t1\n2\t3\n')
    assert found.records == [(3, {"a": "2", "b": "3"})]
    assert found.findings == [("error", "csv", "d.tsv:2")]


def test_old_line_ends_and_cells_across_blocks_are_read(tmp_path):
    assert read_content(tmp_path, "mac.csv", b"a,b\r1,2\r3,4\r").records == [
        (2, {"a": "1", "b": "2"}),
        (3, {"a": "3", "b": "4"}),
    ]
    long = "é\r\n" * 700_000
    found = read_content(tmp_path, "d.csv", f'a,b\r\n1,"{long}"\r\n2,x\r\n'.encode())
    assert found.records == [(2, {"a": "1", "b": long}), (700_003, {"a": "2", "b": "x"})]


# -------------------------------------------------------------------------------------- delimiters
@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_is_recognised_and_named(tmp_path, delimiter):
    rows = [["text", "score", "label"], ["well, well", "0,5", "good"], ["no, thanks", "1,25", "bad"]]
    content = "".join(delimiter.join(row) + "\n" for row in rows)
    found = read_content(tmp_path, "d.csv", content.encode())
    assert found.rows == [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    assert found.findings == [("warning", "delimiter", "d.csv:1")]
    assert {";": "semicolons", "\t": "tabs", "|": "vertical bars"}[delimiter] in found.messages[0]


def test_a_delimiter_in_the_first_line_of_excel_needs_no_recognition(tmp_path):
    found = read_content(tmp_path, "d.csv", '\ufeffsep=;\r\ntext;label\r\n"a;b";x\r\nc;y\r\n'.encode())
    assert found.records == [(3, {"text": "a;b", "label": "x"}), (4, {"text": "c", "label": "y"})]
    assert found.findings == []


def test_the_usual_delimiter_stays_with_ragged_rows_and_other_delimiters_in_texts(tmp_path):
    content = b"text,label\na; b; c,x\nd; e,y\nf|g;h,z\nunquoted, comma; here,x\n"
    found = read_content(tmp_path, "d.csv", content)
    assert [row["text"] for row in found.rows] == ["a; b; c", "d; e", "f|g;h"]
    assert found.findings == [("error", "cells", "d.csv:5")]


def test_a_file_of_one_column_is_not_split(tmp_path):
    assert read_content(tmp_path, "d.csv", b"text\nno; delimiter\nat; all\n").rows == [
        {"text": "no; delimiter"},
        {"text": "at; all"},
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'label, text\nx, "a, b"\ny, "c, d"\n', "spaces after the delimiter"),
        (b'text,label\n"say \\"a\\", b",x\n"c, d",y\n', "backslashes before the quotes"),
    ],
)
def test_unusual_quotes_are_recognised_and_named(tmp_path, content, words):
    found = read_content(tmp_path, "d.csv", content)
    assert [row["text"] for row in found.rows][:2] in (["a, b", "c, d"], ['say "a", b', "c, d"])
    assert found.findings == [("warning", "quoting", "d.csv:1")]
    assert words in found.messages[0]


def test_the_usual_quotes_stay_with_backslashes_and_spaces_in_texts(tmp_path):
    content = b'text,label\n"C:\\new, old",x\n"a ""quote"", b", y\n'
    found = read_content(tmp_path, "d.csv", content)
    assert found.rows == [{"text": "C:\\new, old", "label": "x"}, {"text": 'a "quote", b', "label": " y"}]
    assert found.findings == []


# ------------------------------------------------------------------------------------------ columns
def test_columns_without_a_name_are_dropped_and_reported_if_they_have_text(tmp_path):
    found = read_content(tmp_path, "d.csv", b"a,b,,\n1,2,,\n3,4,lost,\n5,6\n7,8,,lost\n")
    assert found.rows == [{"a": str(n), "b": str(n + 1)} for n in (1, 3, 5, 7)]
    assert found.findings == [("warning", "unnamed-column", "d.csv:3")]


def test_empty_rows_and_a_repeated_header_are_left_out_and_counted(tmp_path):
    found = read_content(tmp_path, "d.csv", b"a,b\n1,2\n,\n \t, \na,b\n3,4\n,,\n")
    assert found.records == [(2, {"a": "1", "b": "2"}), (6, {"a": "3", "b": "4"})]
    assert found.findings == [("warning", "empty-row", "d.csv:3"), ("warning", "repeated-header", "d.csv:5")]
    assert found.messages[0].endswith("the same on 2 more lines: 4, 7")


def test_a_header_without_names_is_an_error(tmp_path):
    assert read_content(tmp_path, "d.csv", b",,\n1,2,3\n").findings == [("error", "header", "d.csv:1")]


def test_a_repeated_name_is_a_warning_and_its_column_has_no_value(tmp_path):
    found = read_content(tmp_path, "d.csv", b"text,label,text\nx,y,z\n")
    assert found.rows == [{"text": RepeatedColumn("text", (1, 3)), "label": "y"}]
    assert found.findings == [("warning", "repeated-column", "d.csv:1")]
    assert found.messages == ["columns 1 and 3 have the same name 'text'; it cannot be used"]


@pytest.mark.parametrize(
    ("content", "evidence"),
    [
        (b"ham,Go until jurong point\nspam,Free entry\nham,Ok lar\nham,U dun say\n", "'ham' is also a value"),
        (b"1,What is the capital of France\n2,How\n3,Why not\n", "'1' is a number"),
        (
            b'"I really liked this film, all of it.",good\n"The plot of this thing makes no sense",bad\n',
            "'I really liked this film, all of it.' is a sentence",
        ),
        (b"Where is the card that I ordered?,card\nHow long does it take?,time\nHello there,other\n", "is a sentence"),
    ],
)
def test_a_file_without_a_header_is_an_error_with_the_remedy(tmp_path, content, evidence):
    found = read_content(tmp_path, "d.csv", content)
    assert (found.records, found.findings) == ([], [("error", "header", "d.csv:1")])
    assert evidence in found.messages[0]
    assert "write the column names into the first line" in found.hints[0]


@pytest.mark.parametrize(
    "content",
    [
        b"text,label\ntext,x\nlabel,y\n",  # a value that is a name by chance
        b"0,1\nsome words,pos\nother words,neg\n",  # pandas without names
        b"id,2019,2020,2021\n1,2,3,4\n2,5,6,7\n",
        b"Timestamp,How satisfied are you with our service today?\n2024-01-01,not at all\n2024-01-02,very\n",
        b"Describe your last visit in your own words,rating\n"
        b"it was a very long day for all of us,3\nwe waited for an hour and then we left,1\n",
        b"Timestamp,What did you like about the last event?\n"
        b"2024/1/2 10:00:00 AM,the food and the people that I met\n2024/1/2 11:00:00 AM,nothing that I can think of\n",
        b"What did you like about the event?,What should we do better next time?\n"
        b"the food and the people that I met,start a little later please\nall of the talks in it,more time\n",
        b"v1,v2\nham,Ok\nham,Hi\n",
        b"a\n",
    ],
)
def test_a_header_is_not_taken_for_an_example(tmp_path, content):
    assert read_content(tmp_path, "d.csv", content).findings == []


@given(
    rows=st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)] * 2), max_size=6
    )
)
def test_every_file_that_python_writes_is_read_back_with_its_lines(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "d.csv"
    starts = []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["first column", "second column"])
        for row in rows:
            file.flush()
            starts.append(_lines_before(path))
            writer.writerow(row)
    found = read_back(path)
    assert [(line, *fields.values()) for line, fields in found.records] == [
        (start + 1, *row) for start, row in zip(starts, rows, strict=True) if any(cell.strip() for cell in row)
    ]
    assert {code for _, code in found.codes} <= {"empty-row"}


def _lines_before(path) -> int:
    with path.open(newline="", encoding="utf-8") as file:
        return sum(1 for _ in file)


def test_a_repeated_name_is_an_error_only_if_a_template_needs_it(tmp_path):
    rows = "".join(f"t{number},{'ab'[number % 2]},u{number},v{number}\n" for number in range(20))
    (tmp_path / "d.csv").write_text("text,label,text,label2\n" + rows)
    keys = {"source": str(tmp_path / "d.csv"), "completion": " {label}", "checks": "quick"}
    with pytest.raises(UserInputError) as raised:
        prepare(DataSpec(prompt="{text}", **keys), tmp_path)
    (problem,) = raised.value.problems
    assert (problem.place, problem.code) == (f"{tmp_path}/d.csv", "repeated-column")
    assert problem.message == "columns 1 and 3 have the same name 'text'"
    assert "repeated-column" in [item.code for item in prepare(DataSpec(prompt="{label2}", **keys), tmp_path).findings]
