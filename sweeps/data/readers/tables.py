"""Columnar files: Parquet, and Arrow in its file, stream and Feather forms. The home of pyarrow."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sweeps.data.findings import warning
from sweeps.data.readers.damage import Damage, FileFaultError
from sweeps.data.readers.record import Record, RecordStream, RepeatedColumn

ROWS_AT_ONCE = 1000
_CONTINUATION = b"\xff\xff\xff\xff"


def read_parquet(path: str, damage: Damage) -> RecordStream:
    """Read a Parquet file in batches. Raises FileFaultError if it is damaged."""
    yield from _records(path, damage, _parquet_batches)


def read_arrow(path: str, damage: Damage) -> RecordStream:
    """Read an Arrow or Feather file in batches. Raises FileFaultError if it is damaged."""
    yield from _records(path, damage, _arrow_batches)


def _records(path: str, damage: Damage, batches_of: Callable[[str], Iterator[Any]]) -> RecordStream:
    import pyarrow

    try:
        number = 0
        for batch in batches_of(path):
            batch.validate(full=True)  # a damaged file may point outside of its buffers, which ends the process
            names, repeated = list(batch.schema.names), _repeated_columns(batch.schema.names)
            if number == 0:
                for column in repeated.values():
                    yield warning("repeated-column", damage.file, f"{column}; it cannot be used", "rename one of them")
            classes = _class_names(batch.schema)
            columns = [_values(batch.column(at), classes.get(name)) for at, name in enumerate(names)]
            for values in zip(*columns, strict=True):
                number += 1
                yield Record(dict(zip(names, values, strict=True)) | repeated, damage.file, number)
    except (pyarrow.ArrowException, ValueError, OverflowError, KeyError, OSError) as problem:
        if isinstance(problem, OSError) and problem.errno is not None:
            raise  # the system's, not the content's
        message = f"cannot be read as a table: {' '.join(str(problem).split())[:200]}"
        raise FileFaultError("table", message, "write the file again; its ending must say its format") from None


def _parquet_batches(path: str) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=ROWS_AT_ONCE, use_threads=False)


def _arrow_batches(path: str) -> Iterator[Any]:
    import pyarrow
    from pyarrow import ipc

    with pyarrow.OSFile(path) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if is_file:
            reader = ipc.open_file(source)
            batches: Iterator[Any] = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = iter(ipc.open_stream(source))
        for batch in batches:
            for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                yield batch.slice(start, ROWS_AT_ONCE)
        if not is_file and not _has_end_mark(path):  # the library takes the end of the file for the end of the stream
            raise FileFaultError("table", "the stream of tables has no end mark: the file is cut", "copy it again")


def _has_end_mark(path: str) -> bool:
    with open(path, "rb") as file:
        is_old_form = file.read(4) != _CONTINUATION  # before Arrow 0.15
        file.seek(-4 if is_old_form else -8, io.SEEK_END)
        return file.read() == (bytes(4) if is_old_form else _CONTINUATION + bytes(4))


def _values(column: Any, classes: Sequence[str] | None) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if classes is not None:
        return [classes[value] if value is not None and 0 <= value < len(classes) else None for value in values]
    if values and not isinstance(values[0], str):
        return [_as_json_has_it(value) for value in values]
    return values


def _as_json_has_it(value: Any) -> Any:
    """Return dates, times and decimal numbers as text, and NaN as missing, as other formats do."""
    if isinstance(value, float) and math.isnan(value):
        return None  # so pandas writes a number that is missing
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if isinstance(value, decimal.Decimal | datetime.timedelta) else value


def _class_names(schema: Any) -> Mapping[str, Sequence[str]]:
    """Return the class names that the `datasets` library writes beside columns of class numbers."""
    try:
        written = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        features = {name: feature for name, feature in written.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
    return {
        name: feature["names"]
        for name, feature in features.items()
        if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    }


def _repeated_columns(names: Sequence[str]) -> dict[str, RepeatedColumn]:
    positions: dict[str, list[int]] = {}
    for number, name in enumerate(names, 1):
        positions.setdefault(name, []).append(number)
    return {name: RepeatedColumn(name, tuple(numbers)) for name, numbers in positions.items() if len(numbers) > 1}
