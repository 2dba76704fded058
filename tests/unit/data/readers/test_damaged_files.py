"""Every reader on damaged files of every format: records and findings, never an exception.

What is lost is told: a file that is not read to its end has an error.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import time
import zipfile
from pathlib import Path

import openpyxl
import pyarrow
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import feather, parquet

from sweeps.data.findings import Finding
from sweeps.data.readers.files import read_records
from sweeps.data.readers.record import Record

pytestmark = pytest.mark.unit

ROWS = [{"text": f"tëxt {number}, “quoted”", "label": "ab"[number % 2]} for number in range(30)]


def _delimited(delimiter: str) -> bytes:
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, ["text", "label"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return table.getvalue().encode()


def _files() -> dict[str, bytes]:
    files = {
        ".csv": _delimited(","),
        ".tsv": _delimited("\t"),
        ".jsonl": "".join(f"{json.dumps(row)}\n" for row in ROWS).encode(),
        ".json": json.dumps({"data": ROWS}, indent=1).encode(),
    }
    arrow = pyarrow.Table.from_pylist(ROWS)
    for ending, write in ((".parquet", parquet.write_table), (".feather", feather.write_feather)):
        sink = io.BytesIO()
        write(arrow, sink)
        files[ending] = sink.getvalue()
    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, arrow.schema) as stream:
        stream.write_table(arrow)
    files[".arrow"] = sink.getvalue()
    book = openpyxl.Workbook()
    for row in [["text", "label"], *([row["text"], row["label"]] for row in ROWS)]:
        book.active.append(row)
    sink = io.BytesIO()
    book.save(sink)
    book.close()
    files[".xlsx"] = sink.getvalue()
    for ending in (".csv", ".jsonl", ".parquet"):
        files[f"{ending}.gz"] = gzip.compress(files[ending], mtime=0)
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"d{ending}", files[ending])
        files[f"{ending}.zip"] = sink.getvalue()
    return files


FILES = _files()

quickly = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def read(folder: Path, ending: str, content: bytes) -> tuple[list[Record], list[Finding]]:
    path = folder / f"d{ending}"
    path.write_bytes(content)
    start = time.process_time()
    found = list(read_records(path))
    assert time.process_time() - start < 20, "hangs"
    records = [item for item in found if isinstance(item, Record)]
    findings = [item for item in found if isinstance(item, Finding)]
    assert len(records) + len(findings) == len(found)
    for finding in findings:
        assert finding.severity in ("error", "warning")
        assert finding.code
        assert finding.message
        assert finding.place.startswith(str(path))
    return records, findings


@pytest.mark.parametrize("ending", FILES)
def test_the_whole_files_are_read(tmp_path, ending):
    records, findings = read(tmp_path, ending, FILES[ending])
    assert ([record.fields for record in records], findings) == (ROWS, [])


@pytest.mark.parametrize("ending", FILES)
@quickly
@given(content=st.binary(max_size=300) | st.text(alphabet='{}[]",:;\t\n\r\0ab1é\ufeff').map(str.encode))
@example(content=b"\x1c")
@example(content=b"\xef")
@example(content=b"[]")
def test_any_bytes_under_any_name_are_read_without_an_exception(tmp_path, ending, content):
    records, findings = read(tmp_path, ending, content)
    text = content.replace(b"\xef\xbb\xbf", b"").strip(b" \t\r\n\f\v")
    has_text = bool(text) and not re.fullmatch(rb"\[\s*\]", text)
    assert records or findings or not has_text or ending in (".csv", ".tsv"), "nothing, and nobody says so"


@pytest.mark.parametrize("ending", FILES)
@quickly
@given(data=st.data())
def test_a_file_with_wrong_bytes_is_read_without_an_exception(tmp_path, ending, data):
    content = bytearray(FILES[ending])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    read(tmp_path, ending, bytes(content))


@pytest.mark.parametrize("ending", [ending for ending in FILES if ending not in (".csv", ".tsv", ".jsonl")])
@quickly
@given(kept=st.floats(0, 1, exclude_max=True))
def test_a_file_that_is_cut_has_an_error(tmp_path, ending, kept):
    content = FILES[ending][: int(len(FILES[ending]) * kept)]
    records, findings = read(tmp_path, ending, content)
    assert not content or any(finding.severity == "error" for finding in findings)
    assert [record.fields for record in records] == ROWS[: len(records)]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
@quickly
@given(encoding=st.sampled_from(["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "cp1252"]))
def test_a_file_in_another_encoding_is_read_or_refused(tmp_path, ending, encoding):
    text = FILES[ending].decode().encode(encoding)
    records, findings = read(tmp_path, ending, text)
    assert [record.fields for record in records] == ROWS
    assert {finding.severity for finding in findings} <= {"warning"}
