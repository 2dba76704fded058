"""The places of records in JSON lists: what `drop` and the findings tell examples apart by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeps.data.readers.files import read_records
from sweeps.data.readers.record import Record

pytestmark = pytest.mark.unit

ROWS = [{"text": f"t {number}"} for number in range(4)]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (json.dumps(ROWS), [1, 2, 3, 4]),
        (json.dumps({"data": ROWS}), [1, 2, 3, 4]),
        (json.dumps(ROWS, indent=1), [2, 5, 8, 11]),
        (f"[\n{','.join(map(json.dumps, ROWS))}]", [1, 2, 3, 4]),
        ("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]", [2, 3, 4, 5]),
        (json.dumps(ROWS[:1]), [1]),
    ],
)
def test_every_record_of_a_list_has_a_place_of_its_own(tmp_path: Path, text: str, lines: list[int]) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    records = list(read_records(path))
    assert [record.line for record in records if isinstance(record, Record)] == lines
