"""Readers for data files: JSON lines, JSON lists, CSV and TSV, plain or gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, NoReturn

from sweeps.data.findings import Finding, error, quoted, warning
from sweeps.data.readers.record import Record, RecordStream

CELL_LIMIT = 2**24
"""The most characters in one CSV cell. The csv module's 131,072 are too few for documents."""


def is_data_file(path: Path) -> bool:
    """Return whether `read_records` knows the format that the name's ending says."""
    return _ending(path) in _READERS


def known_endings() -> str:
    """Return the known endings for a message."""
    return ", ".join([*_READERS, *(f"{ending}.gz" for ending in _READERS)])


def read_records(path: Path, encoding: str = "utf-8") -> RecordStream:
    """Read a file as a stream.

    Never raises for the content of the file. Accepts a byte order mark.
    """
    file = str(path)
    if not is_data_file(path):
        yield error("format", file, f"unknown file ending {path.suffix!r}", f"known endings: {known_endings()}")
        return
    ending = _ending(path)
    lines: _LineCounter | None = None
    try:
        with _open(path) as raw:
            mark = raw.peek(2)[:2]
            if mark in (b"\xff\xfe", b"\xfe\xff") and _codec(encoding) == "utf-8":
                yield error("encoding", file, f"the file is not {encoding} text", "set encoding: utf-16")
                return
            newline = "" if ending in (".csv", ".tsv") else None
            codec = "utf-8-sig" if _codec(encoding) == "utf-8" else encoding
            lines = _LineCounter(io.TextIOWrapper(raw, codec, "surrogateescape", newline))
            yield from _READERS[ending](lines, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as damage:
        yield error("gzip", _next_line(file, lines), f"the gzip stream is damaged: {damage}", "copy the file again")
    except UnicodeError as damage:
        message = f"the text is not {encoding}: {damage}"
        yield error("encoding", _next_line(file, lines), message, "set encoding: utf-8")
    except OSError as failure:
        yield error("unreadable", file, f"cannot be read: {failure.strerror or failure}")
    if lines is not None and lines.undecodable:
        more = f", nor are {lines.undecodable - 1} other lines" if lines.undecodable > 1 else ""
        yield error(
            "encoding",
            f"{file}:{lines.first_undecodable}",
            f"the line is not {encoding} text{more}",
            f"set encoding: {_guess_encoding(lines.sample, encoding)}",
            lines.undecodable,
        )


class _LineCounter:
    """Iterates over lines, numbers them, and counts those that are not text in the encoding."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.number = 0
        self.undecodable = 0
        self.first_undecodable = 0
        self.sample = ""

    def __iter__(self) -> Iterator[str]:
        for line in self._stream:
            self.number += 1
            if not line.isascii() and not is_utf8(line):
                self.undecodable += 1
                if self.undecodable == 1:
                    self.first_undecodable, self.sample = self.number, line
            yield line


def is_utf8(text: str) -> bool:
    """Return whether UTF-8 can encode the text. It cannot encode unpaired surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json_lines(lines: _LineCounter, file: str) -> RecordStream:
    decode = _JSON.decode
    seen = 0
    for line in lines:
        if lines.undecodable != seen:
            seen = lines.undecodable
            continue
        if line.isspace():
            continue
        try:
            value = decode(line.rstrip())
        except (ValueError, RecursionError) as problem:
            yield _not_json(problem, file, lines.number, line)
            if lines.number == 1 and line.lstrip().startswith("["):
                return
            continue
        if type(value) is dict:
            yield Record(value, file, lines.number)
        else:
            yield _not_an_object(value, file, lines.number)
            if lines.number == 1 and isinstance(value, list):
                return


def _json(lines: _LineCounter, file: str) -> RecordStream:
    """Read a list of objects. A `.json` file without a list is read as JSON lines."""
    text = "".join(lines)
    start = _skip_space(text, 0)
    if start == len(text) or lines.undecodable:
        return
    if text[start] != "[":
        yield from _json_lines(_LineCounter(io.StringIO(text)), file)
        return
    at, line, counted = _skip_space(text, start + 1), 1, 0
    while text[at : at + 1] not in ("", "]"):
        line += text.count(_LINE_BREAK, counted, at)
        counted = at
        try:
            value, end = _JSON.raw_decode(text, at)
        except (ValueError, RecursionError) as problem:
            problem_line = problem.lineno if isinstance(problem, json.JSONDecodeError) else line
            yield _not_json(problem, file, problem_line, "")
            return
        yield Record(value, file, line) if type(value) is dict else _not_an_object(value, file, line)
        at = _skip_space(text, end)
        if text[at : at + 1] == ",":
            at = _skip_space(text, at + 1)
        elif text[at : at + 1] != "]":
            break
    if text[at : at + 1] != "]":
        place = f"{file}:{text.count(_LINE_BREAK, 0, at) + 1}"
        yield error("json", place, "not valid JSON: the list is not closed, or a comma is missing")


def _csv(lines: _LineCounter, file: str) -> RecordStream:
    return _table(lines, file, ",")


def _tsv(lines: _LineCounter, file: str) -> RecordStream:
    return _table(lines, file, "\t")


def _table(lines: _LineCounter, file: str, delimiter: str) -> RecordStream:
    rows = _rows(lines, file, delimiter)
    header: list[str] = []
    unnamed, first_unnamed = 0, ""
    for row in rows:
        if isinstance(row, Finding):
            yield row
            continue
        line, cells = row
        place = f"{file}:{line}"
        if not header:
            header = [name.strip() for name in cells]
            if problem := _header_error(header, place):
                yield problem
                return
            needed = max(number for number, name in enumerate(header, 1) if name)
        elif len(cells) < needed or any(cell.strip() for cell in cells[len(header) :]):
            yield error("cells", place, f"the row has {len(cells)} cells, the header {len(header)}")
        else:
            yield Record({name: cell for name, cell in zip(header, cells, strict=False) if name}, file, line)
            if any(cell.strip() for name, cell in zip(header, cells, strict=False) if not name):
                unnamed += 1
                first_unnamed = first_unnamed or place
    if unnamed:
        message = f"{unnamed} rows have text in columns without a name; the text is dropped"
        hint = "name the columns in the header, or quote cells that hold the delimiter"
        yield warning("unnamed-column", first_unnamed, message, hint, unnamed)


def _rows(lines: _LineCounter, file: str, delimiter: str) -> Iterator[tuple[int, list[str]] | Finding]:
    """Yield rows with the line where each begins, since a quoted cell may have line breaks.

    Empty lines are skipped.
    """
    csv.field_size_limit(CELL_LIMIT)
    rows = csv.reader(iter(lines), delimiter=delimiter, strict=True)
    seen = 0
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as problem:
            unclosed = "unexpected end" in str(problem)
            hint = 'a quote (") that opens here is never closed' if unclosed else 'write a quote inside a cell as ""'
            yield error("csv", f"{file}:{line}", f"not valid CSV: {problem}", hint)
            continue
        if row and (lines.undecodable == seen or line == 1):
            yield line, row
        seen = lines.undecodable


def _header_error(header: list[str], place: str) -> Finding | None:
    named = [name for name in header if name]
    if not named:
        return error("header", place, "no column has a name", "write the column names into the first line")
    repeated = sorted({name for name in named if named.count(name) > 1})
    return error("header", place, f"two columns have the name {repeated[0]!r}") if repeated else None


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_LINE_BREAK = "\n"
_JSON = json.JSONDecoder(parse_constant=_reject_constant)


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _not_json(problem: Exception, file: str, line: int, text: str) -> Finding:
    if text.lstrip().startswith("["):
        return error("json", f"{file}:{line}", "a JSON list in a file of JSON lines", "rename the file to .json")
    if isinstance(problem, json.JSONDecodeError):
        hint = 'write one object per line, e.g. {"prompt": ..., "completion": ...}'
        return error("json", f"{file}:{line}", f"not valid JSON: {problem.msg} (column {problem.colno})", hint)
    return error("json", f"{file}:{line}", f"not valid JSON: {problem}", "remove NaN, Infinity and deep nesting")


def _not_an_object(value: object, file: str, line: int) -> Finding:
    whole_list = isinstance(value, list) and line == 1
    hint = "rename the file to .json" if whole_list else 'write {"prompt": ..., "completion": ...}'
    return error("json", f"{file}:{line}", f"{quoted(json.dumps(value))} is not an object", hint)


_READERS: Mapping[str, Callable[[_LineCounter, str], RecordStream]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
}


def _ending(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _open(path: Path) -> io.BufferedReader:
    if path.name.lower().endswith(".gz"):
        return io.BufferedReader(gzip.open(path), 2**16)
    return path.open("rb")


def _codec(encoding: str) -> str:
    return encoding.lower().replace("_", "-").replace("utf8", "utf-8").removesuffix("-sig")


def _next_line(file: str, lines: _LineCounter | None) -> str:
    return f"{file}:{lines.number + 1}" if lines is not None else file


def _guess_encoding(sample: str, encoding: str) -> str:
    """Return an encoding in which the bytes of this line are valid.

    cp1252, the Windows superset of latin-1, comes before latin-1.
    """
    raw = sample.encode("latin-1" if _codec(encoding) != "utf-8" else "utf-8", "surrogateescape")
    for candidate in ("utf-8", "cp1252"):
        try:
            raw.decode(candidate)
        except UnicodeDecodeError:
            continue
        return candidate
    return "latin-1"
