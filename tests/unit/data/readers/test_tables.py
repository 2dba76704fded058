"""Parquet, Arrow and Excel files: values as the other formats have them, and damaged files."""

from __future__ import annotations

import datetime
import decimal
import gzip
import io
import json
import struct
import zipfile

import openpyxl
import pyarrow
import pytest
from pyarrow import feather, ipc, parquet
from read_files import read_back, read_content

from sweeps.data.readers.record import RepeatedColumn

pytestmark = pytest.mark.unit

ROWS = [
    {
        "text": "one, two",
        "count": 3,
        "share": 0.5,
        "day": datetime.date(2024, 5, 1),
        "price": decimal.Decimal("1.50"),
        "messages": [{"role": "user", "content": "q"}],
    },
    {"text": "ü\n", "count": None, "share": float("nan"), "day": None, "price": None, "messages": []},
]
READ = [
    {**ROWS[0], "day": "2024-05-01", "price": "1.50"},
    {**ROWS[1], "share": None},
]


def written(folder, kind: str):
    table = pyarrow.Table.from_pylist(ROWS)
    path = folder / f"d.{kind.partition('-')[0]}"
    if kind == "parquet":
        parquet.write_table(table, path)
    elif kind == "feather":
        feather.write_feather(table, str(path))
    else:
        writer = ipc.new_file if kind == "arrow-file" else ipc.new_stream
        with pyarrow.OSFile(str(path), "wb") as sink, writer(sink, table.schema) as out:
            out.write_table(table)
    return path


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrow-file", "arrow-stream"])
def test_a_table_is_read_with_the_values_that_json_would_have(tmp_path, kind):
    path = written(tmp_path, kind)
    found = read_back(path)
    assert found.records == [(1, READ[0]), (2, READ[1])]
    json.dumps(found.rows)
    (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read_back(tmp_path / f"{path.name}.gz").rows == READ
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.write(path, path.name)
    assert read_back(tmp_path / "d.zip").rows == READ


def test_class_numbers_of_the_datasets_library_become_names(tmp_path):
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}
    table = pyarrow.Table.from_pylist([{"text": "a", "label": 1}, {"text": "b", "label": -1}])
    marked = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(marked, tmp_path / "d.parquet")
    assert read_back(tmp_path / "d.parquet").rows == [{"text": "a", "label": "yes"}, {"text": "b", "label": None}]


def test_a_repeated_column_of_a_table_has_no_value(tmp_path):
    table = pyarrow.table([["x"], ["y"], ["z"]], names=["text", "label", "text"])
    parquet.write_table(table, tmp_path / "d.parquet")
    found = read_back(tmp_path / "d.parquet")
    assert found.rows == [{"text": RepeatedColumn("text", (1, 3)), "label": "y"}]
    assert found.codes == [("warning", "repeated-column")]


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrow-file", "arrow-stream"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_table_that_is_cut_is_one_error(tmp_path, kind, kept):
    whole = written(tmp_path, kind).read_bytes()
    found = read_content(tmp_path, f"d.{kind.partition('-')[0]}", whole[: int(len(whole) * kept)])
    assert found.codes == [("error", "table")]


def test_a_stream_of_tables_that_is_cut_between_two_of_them_is_an_error_after_its_records(tmp_path):
    batch = pyarrow.RecordBatch.from_pylist([{"text": "a"}])
    sink = io.BytesIO()
    with ipc.new_stream(sink, batch.schema) as out:
        out.write_batch(batch)
        cut = len(sink.getvalue())
        out.write_batch(batch)
    assert read_content(tmp_path, "d.arrow", sink.getvalue()).rows == [{"text": "a"}] * 2
    found = read_content(tmp_path, "d.arrow", sink.getvalue()[:cut])
    assert (found.rows, found.codes) == ([{"text": "a"}], [("error", "table")])


def test_a_table_that_points_outside_of_its_texts_is_one_error_and_no_crash(tmp_path):
    offsets = pyarrow.py_buffer(struct.pack("<3i", 0, 20, 8))  # the texts end at 8
    texts = pyarrow.StringArray.from_buffers(2, offsets, pyarrow.py_buffer(b"fourfour"))
    batch = pyarrow.RecordBatch.from_arrays([texts], names=["text"])
    with pyarrow.OSFile(str(tmp_path / "d.arrow"), "wb") as sink, ipc.new_file(sink, batch.schema) as out:
        out.write_batch(batch)
    found = read_back(tmp_path / "d.arrow")
    assert (found.records, found.codes) == ([], [("error", "table")])


# -------------------------------------------------------------------------------------------- Excel
def workbook(path, rows, title="Sheet1", *others):
    book = openpyxl.Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(row)
    for name in others:
        book.create_sheet(name).append(["more"])
    book.save(path)
    book.close()
    return path


def test_a_workbook_is_read_like_its_csv_export(tmp_path):
    rows = [
        ["text", "score", "day", "label"],
        ["one; two\nthree", 3, datetime.datetime(2024, 5, 1), True],
        [None, None, None, None],
        ["four", 0.5, None, "x"],
    ]
    found = read_back(workbook(tmp_path / "d.xlsx", rows))
    assert found.records == [
        (2, {"text": "one; two\nthree", "score": 3, "day": "2024-05-01", "label": True}),
        (4, {"text": "four", "score": 0.5, "day": "", "label": "x"}),
    ]
    assert found.findings == [("warning", "empty-row", "d.xlsx:3")]


def test_rows_keep_their_numbers_below_empty_rows(tmp_path):
    book = openpyxl.Workbook()
    for column, row in enumerate((["text", "label"], ["a", "x"]), 0):
        for number, value in enumerate(row):
            book.active.cell(4 + column, 2 + number, value)
    book.save(tmp_path / "d.xlsx")
    book.close()
    assert read_back(tmp_path / "d.xlsx").records == [(5, {"text": "a", "label": "x"})]


def test_further_sheets_are_named_and_headers_are_checked(tmp_path):
    found = read_back(workbook(tmp_path / "d.xlsx", [["text", "label"], ["a", "x"]], "main", "data", "notes"))
    assert found.rows == [{"text": "a", "label": "x"}]
    assert found.codes == [("warning", "sheets")]
    assert found.messages == ["only the sheet 'main' is read; the workbook also has 'data', 'notes'"]
    headless = [["ham", "Ok"], ["ham", "Hi"], ["ham", "Yo"]]
    assert read_back(workbook(tmp_path / "h.xlsx", headless)).findings == [("error", "header", "h.xlsx:1")]


def test_an_empty_a_cut_and_a_renamed_workbook(tmp_path):
    whole = workbook(tmp_path / "d.xlsx", []).read_bytes()
    assert read_back(tmp_path / "d.xlsx") == ([], [], [], [])
    assert read_content(tmp_path, "cut.xlsx", whole[: len(whole) // 2]).codes == [("error", "workbook")]
    assert read_content(tmp_path, "csv.xlsx", b"text,label\na,x\n").codes == [("error", "workbook")]


def test_a_workbook_too_large_to_hold_is_refused_before_it_is_unpacked(tmp_path):
    content = bytearray(workbook(tmp_path / "d.xlsx", [["a"]]).read_bytes())
    declared = content.index(b"PK\x01\x02") + 24  # the size of the first member in the directory of the archive
    content[declared : declared + 4] = (2**29 + 2**20).to_bytes(4, "little")
    found = read_content(tmp_path, "d.xlsx", bytes(content))
    assert found.codes == [("error", "workbook")]
    assert found.messages == ["the workbook unpacks to 513 MiB; the limit is 512 MiB"]
    assert "save the sheet as .csv" in found.hints[0]
