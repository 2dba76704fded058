"""Files -> records with the line they begin at: JSON lines, JSON lists, CSV and TSV, plain or gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, TypeAlias

from sweeps.data.findings import Finding, error, quoted, warning

CELL_LIMIT = 2**24
"""Characters in one CSV cell; the csv module's own limit of 131,072 is too small for documents."""


class Record(NamedTuple):
    """One example as it stands in its file: its columns, and where it begins (the first line is 1)."""

    fields: Mapping[str, Any]
    file: str
    line: int

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"


Read: TypeAlias = Iterator[Record | Finding]
"""Records in the file's order; what cannot be read is a finding in its place, and reading goes on."""


def is_data_file(path: Path) -> bool:
    """True where the name's ending says a format that `read` knows."""
    return _ending(path) in _READERS


def endings() -> str:
    """Return the known endings, as a list for a message."""
    return ", ".join([*_READERS, *(f"{ending}.gz" for ending in _READERS)])


def read(path: Path, encoding: str = "utf-8") -> Read:
    """Read a file as a stream. Never raises for its content; a byte order mark is tolerated."""
    file = str(path)
    if not is_data_file(path):
        yield error("format", file, f"the ending {path.suffix!r} is not known", f"known are {endings()}")
        return
    ending = _ending(path)
    lines: _Lines | None = None
    try:
        with _opened(path) as raw:
            mark = raw.peek(2)[:2]
            if mark in (b"\xff\xfe", b"\xfe\xff") and _codec(encoding) == "utf-8":
                yield error("encoding", file, f"this is not {encoding} text", "set encoding: utf-16")
                return
            newline = "" if ending in (".csv", ".tsv") else None
            codec = "utf-8-sig" if _codec(encoding) == "utf-8" else encoding
            lines = _Lines(io.TextIOWrapper(raw, codec, "surrogateescape", newline))
            yield from _READERS[ending](lines, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as damage:
        yield error("gzip", _after(file, lines), f"the gzip stream is damaged: {damage}", "copy the file again")
    except UnicodeError as damage:
        yield error("encoding", _after(file, lines), f"this is not {encoding} text: {damage}", "set encoding: utf-8")
    except OSError as refused:
        yield error("unreadable", file, f"cannot be read: {refused.strerror or refused}")
    if lines is not None and lines.undecodable:
        more = f", nor are {lines.undecodable - 1} more lines" if lines.undecodable > 1 else ""
        yield error(
            "encoding",
            f"{file}:{lines.first_undecodable}",
            f"this is not {encoding} text{more}",
            f"set encoding: {_guess(lines.sample, encoding)}",
            lines.undecodable,
        )


class _Lines:
    """Counts the lines that pass, and notes those whose bytes are no text in the given encoding."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.number = 0
        self.undecodable = 0
        self.first_undecodable = 0
        self.sample = ""

    def __iter__(self) -> Iterator[str]:
        for line in self._stream:
            self.number += 1
            if not line.isascii() and not is_text(line):
                self.undecodable += 1
                if self.undecodable == 1:
                    self.first_undecodable, self.sample = self.number, line
            yield line


def is_text(text: str) -> bool:
    """True where the text can be written as UTF-8, which halves of surrogate pairs cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json_lines(lines: _Lines, file: str) -> Read:
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
        except (ValueError, RecursionError) as broken:
            yield _malformed(broken, file, lines.number, line)
            if lines.number == 1 and line.lstrip().startswith("["):
                return
            continue
        if type(value) is dict:
            yield Record(value, file, lines.number)
        else:
            yield _no_object(value, file, lines.number)
            if lines.number == 1 and isinstance(value, list):
                return


def _json(lines: _Lines, file: str) -> Read:
    """A list of objects; many a `.json` file holds JSON lines, and is read as such."""
    text = "".join(lines)
    start = _skip(text, 0)
    if start == len(text) or lines.undecodable:
        return
    if text[start] != "[":
        yield from _json_lines(_Lines(io.StringIO(text)), file)
        return
    at, line, counted = _skip(text, start + 1), 1, 0
    while text[at : at + 1] not in ("", "]"):
        line += text.count(_BREAK, counted, at)
        counted = at
        try:
            value, end = _JSON.raw_decode(text, at)
        except (ValueError, RecursionError) as broken:
            where = broken.lineno if isinstance(broken, json.JSONDecodeError) else line
            yield _malformed(broken, file, where, "")
            return
        yield Record(value, file, line) if type(value) is dict else _no_object(value, file, line)
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            break
    if text[at : at + 1] != "]":
        place = f"{file}:{text.count(_BREAK, 0, at) + 1}"
        yield error("json", place, "not valid JSON: the list is not closed, or a comma is missing")


def _csv(lines: _Lines, file: str) -> Read:
    return _cells(lines, file, ",")


def _tsv(lines: _Lines, file: str) -> Read:
    return _cells(lines, file, "\t")


def _cells(lines: _Lines, file: str, delimiter: str) -> Read:
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
            if problem := _bad_header(header, place):
                yield problem
                return
            needed = max(number for number, name in enumerate(header, 1) if name)
        elif len(cells) < needed or any(cell.strip() for cell in cells[len(header) :]):
            yield error("cells", place, f"{len(cells)} cells where the header has {len(header)}")
        else:
            yield Record({name: cell for name, cell in zip(header, cells, strict=False) if name}, file, line)
            if any(cell.strip() for name, cell in zip(header, cells, strict=False) if not name):
                unnamed += 1
                first_unnamed = first_unnamed or place
    if unnamed:
        message = f"{unnamed} rows have text in columns without a name, which is dropped"
        hint = "name the columns in the header, or quote cells that hold the delimiter"
        yield warning("unnamed-column", first_unnamed, message, hint, unnamed)


def _rows(lines: _Lines, file: str, delimiter: str) -> Iterator[tuple[int, list[str]] | Finding]:
    """Yield rows with the line they begin at: a quoted cell may hold line breaks. Empty lines are no rows."""
    csv.field_size_limit(CELL_LIMIT)
    rows = csv.reader(iter(lines), delimiter=delimiter, strict=True)
    seen = 0
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as broken:
            opened = "unexpected end" in str(broken)
            hint = 'a quote (") opened here is never closed' if opened else 'write a quote inside a cell as ""'
            yield error("csv", f"{file}:{line}", f"not valid CSV: {broken}", hint)
            continue
        if row and (lines.undecodable == seen or line == 1):
            yield line, row
        seen = lines.undecodable


def _bad_header(header: list[str], place: str) -> Finding | None:
    named = [name for name in header if name]
    if not named:
        return error("header", place, "no column has a name", "the first line names the columns")
    twice = sorted({name for name in named if named.count(name) > 1})
    return error("header", place, f"the column {twice[0]!r} is there twice") if twice else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_BREAK = "\n"
_JSON = json.JSONDecoder(parse_constant=_refuse)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _malformed(broken: Exception, file: str, line: int, text: str) -> Finding:
    if text.lstrip().startswith("["):
        return error("json", f"{file}:{line}", "a JSON list, where each line is an object", "call it .json")
    if isinstance(broken, json.JSONDecodeError):
        hint = 'each line is one object, as {"prompt": ..., "completion": ...}'
        return error("json", f"{file}:{line}", f"not valid JSON: {broken.msg} (column {broken.colno})", hint)
    return error("json", f"{file}:{line}", f"not valid JSON: {broken}", "leave out NaN, Infinity and deep nesting")


def _no_object(value: object, file: str, line: int) -> Finding:
    a_whole_list = isinstance(value, list) and line == 1
    hint = "call the file .json" if a_whole_list else 'write {"prompt": ..., "completion": ...}'
    return error("json", f"{file}:{line}", f"{quoted(json.dumps(value))} is not an object", hint)


_READERS: Mapping[str, Callable[[_Lines, str], Read]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
}


def _ending(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _opened(path: Path) -> io.BufferedReader:
    if path.name.lower().endswith(".gz"):
        return io.BufferedReader(gzip.open(path), 2**16)
    return path.open("rb")


def _codec(encoding: str) -> str:
    return encoding.lower().replace("_", "-").replace("utf8", "utf-8").removesuffix("-sig")


def _after(file: str, lines: _Lines | None) -> str:
    return f"{file}:{lines.number + 1}" if lines is not None else file


def _guess(sample: str, encoding: str) -> str:
    """Name an encoding that the bytes of this line are valid in. Windows' superset of latin-1 comes first."""
    raw = sample.encode("latin-1" if _codec(encoding) != "utf-8" else "utf-8", "surrogateescape")
    for candidate in ("utf-8", "cp1252"):
        try:
            raw.decode(candidate)
        except UnicodeDecodeError:
            continue
        return candidate
    return "latin-1"
