"""Rows of logs that a training program is still writing.

A source finds its files by patterns and returns all rows so far. Rows that it has returned come
again at every later call, in the same order, as long as the program only adds to its log. A line
that is still being written is left out until it is complete, and so is a file that is replaced at
this moment.
"""

from __future__ import annotations

import ast
import csv
import glob
import io
import json
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from backends.training_logs.json_formats import WRAPPERS

Row: TypeAlias = Mapping[str, Any]
"""The cells of a row by column. A cell is a text or a JSON value."""

MAX_LINE = 100_000
"""Longer lines of a program's output are no log lines."""


class _Changed:
    """The last content of each file, so that an unchanged file is not read again."""

    def __init__(self, read: Callable[[Path], Sequence[Row]]) -> None:
        self._read = read
        self._known: dict[Path, tuple[tuple[int, int, int], Sequence[Row]]] = {}

    def rows(self, path: Path) -> Sequence[Row]:
        """Return the rows of a file; those of the last good reading while it is being replaced."""
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            known = self._known.get(path)
            if known is None or known[0] != stamp:
                self._known[path] = (stamp, self._read(path))
        except (OSError, ValueError, RecursionError):
            pass
        return self._known[path][1] if path in self._known else ()


class _Lines:
    """The complete lines of a growing file, each parsed once."""

    def __init__(self, parse: Callable[[str], Row | None]) -> None:
        self._parse = parse
        self._offsets: dict[Path, int] = {}
        self._rows: dict[Path, list[Row]] = {}

    def rows(self, path: Path) -> Sequence[Row]:
        """Return the rows of all complete lines. A file that became shorter is read again."""
        rows, offset = self._rows.setdefault(path, []), self._offsets.get(path, 0)
        try:
            with path.open("rb") as stream:
                size = stream.seek(0, 2)
                if size < offset:
                    rows.clear()
                    offset = 0
                stream.seek(offset)
                content = stream.read(size - offset)
        except OSError:
            return rows
        complete = content[: content.rfind(b"\n") + 1]
        self._offsets[path] = offset + len(complete)
        for line in complete.replace(b"\r", b"\n").split(b"\n"):  # progress bars end their lines with \r
            if 0 < len(line) <= MAX_LINE:
                row = self._parse(line.decode("utf-8", "replace"))
                if row is not None:
                    rows.append(row)
        return rows


@dataclass
class LiveSource:
    """One way to read a program's numbers: the files that its patterns find, and their reader.

    `one_file`: of several files only the newest counts, because each holds the whole log.
    """

    type: str
    patterns: tuple[str, ...]
    reader: _Changed | _Lines
    one_file: bool = False
    _order: dict[Path, None] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """Return all rows so far, file by file in the order in which the files were found."""
        found = dict.fromkeys(Path(name) for pattern in self.patterns for name in _matches(pattern))
        if self.one_file:
            newest = max(found, key=_modified, default=None)
            return [] if newest is None else list(self.reader.rows(newest))
        for path in sorted(found, key=_modified):
            self._order.setdefault(path)
        return [row for path in self._order for row in self.reader.rows(path)]


def _matches(pattern: str) -> Iterator[str]:
    return glob.iglob(pattern, recursive=True)


def _modified(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_mtime_ns, str(path)
    except OSError:
        return 0, str(path)


# ------------------------------------------------------------------------------------------ readers
def row_of_line(line: str) -> Row | None:
    """Return the numbers in a line of output: a JSON object, or a Python dict as trainers print it.

    Text around the dict, such as a time stamp or a progress bar, is allowed. Returns None for any
    other line.
    """
    start, end = line.find("{"), line.rfind("}")
    if start < 0 or end < start:
        return None
    text = line[start : end + 1]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = _literal(text)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return None
    row = flattened(value)
    return row if any(is_number(cell) for cell in row.values()) else None


def _literal(text: str) -> Any:
    """Return the value of a Python literal, with `nan` and `inf` as Python prints them; or None."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                node.values = [_number_node(value) for value in node.values]
        return ast.literal_eval(tree.body)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _number_node(node: ast.expr) -> ast.expr:
    sign, inner = 1.0, node
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, inner = -1.0, node.operand
    if isinstance(inner, ast.Name) and inner.id in ("nan", "inf"):
        return ast.copy_location(ast.Constant(sign * float(inner.id)), node)
    return node


def is_number(cell: Any) -> bool:
    """Return whether a cell holds a number, also as a text such as '1.5e-05' or 'nan'."""
    if isinstance(cell, bool):
        return False
    if isinstance(cell, int | float):
        return True
    if not isinstance(cell, str):
        return False
    try:
        float(cell)
    except ValueError:
        return False
    return True


def flattened(value: Mapping[str, Any]) -> dict[str, Any]:
    """Turn `{"valid": {"loss": 1}}` into `{"valid_loss": 1}`; a wrapper's name is left out."""
    flat: dict[str, Any] = {}
    for key, cell in value.items():
        if isinstance(cell, Mapping):
            prefix = "" if key in WRAPPERS else f"{key}_"
            flat |= {f"{prefix}{inner}": item for inner, item in flattened(cell).items()}
        else:
            flat[key] = cell
    return flat


def _trainer_state(path: Path) -> Sequence[Row]:
    state = json.loads(path.read_text(encoding="utf-8"))
    history = state.get("log_history") if isinstance(state, dict) else None
    return [entry for entry in history or () if isinstance(entry, dict)]


def _csv_rows(path: Path) -> Sequence[Row]:
    text = path.read_text(encoding="utf-8-sig")
    complete = text[: text.rfind("\n") + 1]
    header = complete.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(complete, newline=""), delimiter=separator)
    return [{key: cell for key, cell in row.items() if key and cell} for row in reader]


def _tensorboard_rows(path: Path) -> Sequence[Row]:
    """Read the scalars of an event file, one row for each step."""
    from tensorboardX.proto.event_pb2 import Event

    rows: dict[int, dict[str, Any]] = {}
    for record in _records(path.read_bytes()):
        event = Event.FromString(record)
        for value in event.summary.value:
            number = _scalar(value)
            if number is not None:
                rows.setdefault(event.step, {"step": event.step})[value.tag] = number
    return list(rows.values())


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a TFRecord file: length, checksum, bytes, checksum."""
    at = 0
    while at + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        start, at = at + 12, at + 16 + length
        if at > len(content):
            return  # it is still being written
        yield content[start : start + length]


def _scalar(value: Any) -> float | None:
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor") or value.tensor.tensor_shape.dim:
        return None
    tensor = value.tensor
    for field_name in ("float_val", "double_val", "int_val", "int64_val"):
        if numbers := getattr(tensor, field_name):
            return float(numbers[0])
    if tensor.tensor_content and tensor.dtype == 1:  # DT_FLOAT
        return float(struct.unpack("<f", tensor.tensor_content)[0])
    return None


def _mlflow_rows(path: Path) -> Sequence[Row]:
    """Read the metrics in an MLflow database of SQLite, one row for each step."""
    query = "SELECT key, value, is_nan, step FROM metrics ORDER BY timestamp, step, key"
    address = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=5)) as connection:
            found = connection.execute(query).fetchall()
    except sqlite3.Error as error:
        raise ValueError(str(error)) from error  # it has no tables yet
    rows: dict[int, dict[str, Any]] = {}
    for key, value, is_nan, step in found:
        rows.setdefault(step, {"step": step})[key] = float("nan") if is_nan else value
    return list(rows.values())


# ------------------------------------------------------------------------------------------ sources
@dataclass(frozen=True)
class SourceType:
    """A kind of log: where programs usually write it, and how it is read."""

    description: str
    patterns: tuple[str, ...]
    reader: Callable[[], _Changed | _Lines]
    one_file: bool = False


SOURCE_TYPES: Mapping[str, SourceType] = {
    "hf_trainer_state": SourceType(
        "trainer_state.json of the Hugging Face Trainer, written with each checkpoint",
        ("{output}/**/trainer_state.json",),
        lambda: _Changed(_trainer_state),
        one_file=True,
    ),
    "jsonl": SourceType(
        "JSON lines, such as trainer_log.jsonl of LLaMA-Factory",
        ("{metrics_file}", "{output}/**/trainer_log.jsonl"),
        lambda: _Lines(row_of_line),
    ),
    "csv": SourceType(
        "CSV, as the loggers of Lightning and Keras write it",
        ("{output}/**/*.csv",),
        lambda: _Changed(_csv_rows),
        one_file=True,
    ),
    "tensorboard": SourceType(
        "event files of TensorBoard", ("{output}/**/events.out.tfevents.*",), lambda: _Changed(_tensorboard_rows)
    ),
    "mlflow": SourceType(
        "the MLflow run of the program, in a database of the trial",
        ("{folder}/mlflow.db",),
        lambda: _Changed(_mlflow_rows),
    ),
    "output": SourceType(
        "lines of the program's output that are JSON objects or Python dicts",
        ("{log}",),
        lambda: _Lines(row_of_line),
    ),
}
"""Every kind of log that can be followed, by its name in a sweep file."""


def open_source(source_type: str, patterns: Sequence[str]) -> LiveSource:
    """Open a source over these patterns, whose placeholders are filled."""
    known = SOURCE_TYPES[source_type]
    return LiveSource(source_type, tuple(patterns), known.reader(), known.one_file)
