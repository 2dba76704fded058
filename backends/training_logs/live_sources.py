"""Rows of logs that a training program is still writing.

A source finds its files by patterns and returns all rows so far. Rows that it has returned come
again at every later call, in the same order, as long as the program only adds to its log. A line
that is still being written is left out until it is complete, and so is a file that is replaced at
this moment.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import glob
import json
import os
import re
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from backends.training_logs.json_formats import WRAPPERS

Row: TypeAlias = Mapping[str, Any]
"""The cells of a row by column. A cell is a text or a JSON value."""

MAX_LINE = 100_000
"""Longer lines of a program's output are no log lines."""


Parse: TypeAlias = Callable[[bytes, bytes], tuple[int, Sequence[Row]]]
"""Parses a part of a file; see `GrowingFile`."""


class Reader(Protocol):
    """Reads the files of one source, each again and again while it grows."""

    def rows(self, path: Path, *, has_ended: bool = False) -> Sequence[Row]:
        """Return all rows of a file so far; those of the last reading if it cannot be read now.

        `has_ended`: the program will write no more.
        """
        ...


class WholeFile:
    """Reads a file as a whole, whenever it has changed."""

    def __init__(self, read: Callable[[Path], Sequence[Row]]) -> None:
        self._read = read
        self._known: dict[Path, tuple[tuple[int, int, int], Sequence[Row]]] = {}

    def rows(self, path: Path, *, has_ended: bool = False) -> Sequence[Row]:
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


class GrowingFile:
    """Reads what was added to a file since the last time.

    `parse` gets new bytes and the beginning of the file; it returns how many bytes it used, which
    is the length of all complete records, and their rows.

    A program that rewrites its log first empties it: until the rows go on behind the known ones,
    the known ones are returned. If other rows come instead, the program has begun its log again,
    and they are added to the known ones.
    """

    def __init__(self, parse: Parse) -> None:
        self._parse = parse
        self._files: dict[Path, _Reading] = {}

    def rows(self, path: Path, *, has_ended: bool = False) -> Sequence[Row]:
        """Return the rows of all complete records."""
        known = self._files.setdefault(path, _Reading())
        try:
            with path.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                if size == known.offset:
                    return known.rows
                stream.seek(0)
                is_same = size > known.offset and stream.read(len(known.beginning)) == known.beginning
                reading = known if is_same else _Reading()
                stream.seek(reading.offset)
                content = stream.read(size - reading.offset)
        except OSError:
            return known.rows
        reading.add(content, self._parse)
        if reading is not known and reading.rows != known.rows[: len(reading.rows)]:
            if reading.rows[: len(known.rows)] != known.rows:
                reading.rows = [*known.rows, *reading.rows]
            self._files[path] = reading
        return self._files[path].rows


BEGINNING_BYTES = 65_536
"""How much of the beginning of a file tells whether it is still the same one."""


@dataclass
class _Reading:
    """How far a file was read."""

    offset: int = 0
    beginning: bytes = b""
    rows: list[Row] = field(default_factory=list)

    def add(self, content: bytes, parse: Parse) -> None:
        beginning = self.beginning
        if len(beginning) < BEGINNING_BYTES:
            beginning += content[: BEGINNING_BYTES - len(beginning)]
        used, rows = parse(content, beginning)
        self.offset += used
        self.beginning = beginning[: self.offset]
        self.rows += rows


SETTLING_S = 1.0
"""How long a metric in a database waits for those of earlier steps.

MLflow's asynchronous logging, which the Hugging Face Trainer uses, writes from several threads.
"""


class Database:
    """Reads the metrics in an MLflow database of SQLite, one in a row, ordered by their steps."""

    def __init__(self, settling_s: float = SETTLING_S) -> None:
        self._settling_s = settling_s
        self._files: dict[Path, _Metrics] = {}

    def rows(self, path: Path, *, has_ended: bool = False) -> Sequence[Row]:
        """Return the metrics so far, except the last ones, which may lack some before them."""
        metrics = self._files.setdefault(path, _Metrics())
        query = "SELECT rowid, key, value, is_nan, step FROM metrics WHERE rowid > ? ORDER BY rowid"
        now = time.monotonic()
        try:
            address = f"{path.absolute().as_uri()}?mode=ro"
            with contextlib.closing(sqlite3.connect(address, uri=True, timeout=5)) as connection:
                for number, key, value, is_nan, step in connection.execute(query, (metrics.last,)):
                    metrics.settling.append((now, {"step": step, key: float("nan") if is_nan else value}))
                    metrics.last = number
        except sqlite3.Error:  # it has no tables yet, or is being written
            pass
        metrics.settle(float("inf") if has_ended else now - self._settling_s)
        return metrics.rows


@dataclass
class _Metrics:
    """The metrics of a database: the number of the last one, and those that still settle."""

    last: int = 0
    settling: list[tuple[float, Row]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def settle(self, until: float) -> None:
        """Take the metrics that were first seen until then, and all others up to their steps."""
        step = max((_step_of(row) for seen_at, row in self.settling if seen_at <= until), default=None)
        if step is None:
            return
        self.settling.sort(key=lambda metric: _step_of(metric[1]))
        self.rows += [row for _, row in self.settling if _step_of(row) <= step]
        self.settling = [metric for metric in self.settling if _step_of(metric[1]) > step]


@dataclass
class LiveSource:
    """One way to read a program's numbers: the files that its patterns find, and their reader.

    `one_file`: of several files only the newest readable one counts, because each holds the whole
    log. `by_column`: a row has one column, so that several rows make one evaluation.
    """

    type: str
    patterns: tuple[str, ...]
    reader: Reader
    one_file: bool = False
    by_column: bool = False
    _taken: dict[Path, int] = field(default_factory=dict)
    _rows: list[Row] = field(default_factory=list)

    def rows(self, *, has_ended: bool = False) -> list[Row]:
        """Return all rows so far, in the order in which they came.

        Rows of several files that are found at once are in the order of their steps. `has_ended`:
        the program will write no more.
        """
        found = dict.fromkeys(Path(os.path.realpath(name)) for pattern in self.patterns for name in _matches(pattern))
        if self.one_file:
            newest_first = sorted(found, key=_modified, reverse=True)
            return next((list(rows) for path in newest_first if (rows := self.reader.rows(path))), [])
        for path in sorted(found, key=_modified):
            self._taken.setdefault(path, 0)
        new: list[Row] = []
        for path, taken in self._taken.items():
            rows = self.reader.rows(path, has_ended=has_ended)
            new += rows[taken:]
            self._taken[path] = len(rows)
        if len(self._taken) > 1:
            new.sort(key=_step_of)
        self._rows += new
        return list(self._rows)


def _step_of(row: Row) -> float:
    """Return the step of a row; rows without one come first."""
    step: Any = row.get("step")
    return float(step) if is_number(step) else -1.0


def _matches(pattern: str) -> Iterator[str]:
    return glob.iglob(pattern, recursive=True)


def _modified(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_mtime_ns, str(path)
    except OSError:
        return 0, str(path)


# ------------------------------------------------------------------------------------------ readers
def _line_rows(content: bytes, _beginning: bytes) -> tuple[int, Sequence[Row]]:
    """Read the complete lines of a program's output. Progress bars end their lines with CR."""
    used = content.rfind(b"\n") + 1
    lines = content[:used].replace(b"\r", b"\n").split(b"\n")
    parsed = (row_of_line(line.decode("utf-8", "replace")) for line in lines if 0 < len(line) <= MAX_LINE)
    return used, [row for row in parsed if row is not None]


_STEP_LINE = re.compile(r"^Step (\d+) \| (.+)$")
_PAIR = re.compile(r"([\w/.-]+):(\S+)")


def row_of_line(line: str) -> Row | None:
    """Return the numbers in a line of output, or None if it has none.

    It is a JSON object, a Python dict as trainers print it, or `Step 3 | loss:1.5 lr:0.1` as
    torchtune writes it. Text around a dict, such as a time stamp or a progress bar, is allowed.
    """
    if (found := _STEP_LINE.match(line.strip())) is not None:
        row = _numbers_only(dict(_PAIR.findall(found[2])))
        return None if row is None else {"step": int(found[1]), **row}
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
    return _numbers_only(flattened(value))


def _numbers_only(row: dict[str, Any]) -> Row | None:
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
    return [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []


def _csv_rows(content: bytes, beginning: bytes) -> tuple[int, Sequence[Row]]:
    """Read complete lines of CSV. The header is the first line of the file."""
    header = beginning.decode("utf-8-sig", "replace").partition("\n")[0].rstrip("\r")
    used = content.rfind(b"\n") + 1
    text = content[:used].decode("utf-8-sig", "replace")
    lines = (line.rstrip("\r") for line in text.split("\n") if len(line) <= MAX_LINE)
    separator = max(",;\t", key=header.count)
    columns = _cells(header, separator)
    cells = (zip(columns, _cells(line, separator), strict=False) for line in lines if line != header)
    rows = ({column: cell for column, cell in row if column and cell} for row in cells)
    return used, [row for row in rows if row]


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:  # this is no line of a table
        return []


def tensorboard_rows(content: bytes, _beginning: bytes) -> tuple[int, Sequence[Row]]:
    """Read the scalars in complete records of an event file, each as a row of its own."""
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event

    rows: list[Row] = []
    used = 0
    for record, end in _records(content):
        used = end
        with contextlib.suppress(DecodeError):
            event = Event.FromString(record)
            scalars = ((value.tag, _scalar(value)) for value in event.summary.value)
            rows += [{"step": event.step, tag: number} for tag, number in scalars if number is not None]
    return used, rows


def _records(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the complete records of a TFRecord file, and where they end.

    A record is its length, a checksum, its bytes, and another checksum.
    """
    at = 0
    while at + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        start, at = at + 12, at + 16 + length
        if at > len(content):
            return  # it is still being written
        yield content[start : start + length], at


def _scalar(value: Any) -> float | None:
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if not value.HasField("tensor") or value.tensor.tensor_shape.dim:
        return None
    tensor = value.tensor
    for field_name in ("float_val", "double_val", "int_val", "int64_val"):
        if numbers := getattr(tensor, field_name):
            return float(numbers[0])
    if len(tensor.tensor_content) == 4 and tensor.dtype == 1:  # DT_FLOAT
        return float(struct.unpack("<f", tensor.tensor_content)[0])
    return None


# ------------------------------------------------------------------------------------------ sources
@dataclass(frozen=True)
class SourceType:
    """A kind of log: where programs usually write it, and how it is read."""

    description: str
    patterns: tuple[str, ...]
    reader: Callable[[], Reader]
    one_file: bool = False
    by_column: bool = False


SOURCE_TYPES: Mapping[str, SourceType] = {
    "hf_trainer_state": SourceType(
        "trainer_state.json of the Hugging Face Trainer, written with each checkpoint",
        ("{output}/**/trainer_state.json",),
        lambda: WholeFile(_trainer_state),
        one_file=True,
    ),
    "jsonl": SourceType(
        "JSON lines, such as trainer_log.jsonl of LLaMA-Factory",
        ("{metrics_file}", "{output}/**/trainer_log.jsonl"),
        lambda: GrowingFile(_line_rows),
    ),
    "csv": SourceType(
        "CSV, as the loggers of Lightning and Keras write it",
        ("{output}/**/*.csv",),
        lambda: GrowingFile(_csv_rows),
    ),
    "tensorboard": SourceType(
        "event files of TensorBoard",
        ("{output}/**/events.out.tfevents.*",),
        lambda: GrowingFile(tensorboard_rows),
        by_column=True,
    ),
    "mlflow": SourceType(
        "the MLflow run of the program, in a database of the trial",
        ("{folder}/mlflow.db",),
        Database,
        by_column=True,
    ),
    "output": SourceType(
        "lines of the program's output that are JSON objects or Python dicts",
        ("{log}",),
        lambda: GrowingFile(_line_rows),
    ),
}
"""Every kind of log that can be followed, by its name in a sweep file."""


def open_source(source_type: str, patterns: Sequence[str]) -> LiveSource:
    """Open a source over these patterns, whose placeholders are filled."""
    known = SOURCE_TYPES[source_type]
    return LiveSource(source_type, tuple(patterns), known.reader(), known.one_file, known.by_column)
