"""Excel workbooks (.xlsx): the first sheet that has rows. The home of python-calamine."""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Iterator
from typing import Any

from sweeps.data.findings import warning
from sweeps.data.readers.archives import UNREADABLE
from sweeps.data.readers.damage import Damage, FileFaultError
from sweeps.data.readers.record import RecordStream
from sweeps.data.readers.table_rows import Row, records_of_rows

SIZE_LIMIT = 2**29
"""The most bytes of a workbook after unpacking: 512 MiB. The library holds a sheet in memory."""


def read_workbook(path: str, damage: Damage) -> RecordStream:
    """Read the first sheet that has rows. Raises FileFaultError if it is damaged or too large."""
    import python_calamine

    _check_size(path)
    try:
        workbook = python_calamine.load_workbook(path)
        sheets = [(name, workbook.get_sheet_by_name(name)) for name in workbook.sheet_names]
    except (python_calamine.CalamineError, ValueError, OSError) as problem:
        raise _unreadable(problem) from None
    filled = [(name, sheet) for name, sheet in sheets if sheet.height]
    if len(filled) > 1:
        others = ", ".join(repr(name) for name, _ in filled[1:])
        message = f"only the sheet {filled[0][0]!r} is read; the workbook also has {others}"
        yield warning("sheets", damage.file, message, "save each sheet that you need as a file of its own")
    if filled:
        yield from records_of_rows(_rows(filled[0][1]), damage)


def _rows(sheet: Any) -> Iterator[Row]:
    first = sheet.start[0]
    for number, cells in enumerate(sheet.iter_rows(), 1):
        if number > first:
            yield Row(number, [_cell(cell) for cell in cells])


def _cell(cell: Any) -> Any:
    """Return the value of a cell as a CSV export of it reads."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell) if isinstance(cell, datetime.timedelta) else cell


def _check_size(path: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
    except UNREADABLE as problem:
        raise _unreadable(problem) from None
    if size > SIZE_LIMIT:
        message = f"the workbook unpacks to {size // 2**20:,} MiB; the limit is {SIZE_LIMIT // 2**20:,} MiB"
        raise FileFaultError("workbook", message, "save the sheet as .csv, which has no limit")


def _unreadable(problem: Exception) -> FileFaultError:
    message = f"cannot be read as an Excel workbook: {' '.join(str(problem).split())[:200]}"
    return FileFaultError("workbook", message, "open it in a spreadsheet program and save it as .xlsx or .csv")
