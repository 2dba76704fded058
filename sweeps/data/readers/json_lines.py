"""JSON lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from json.scanner import make_scanner
from typing import Any, NoReturn, cast

from sweeps.data.findings import error, quoted
from sweeps.data.readers.damage import Damage
from sweeps.data.readers.decoding import DecodedText
from sweeps.data.readers.record import Record, RecordStream

ONE_OBJECT_A_LINE = 'write one object per line, e.g. {"prompt": ..., "completion": ...}'


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


DECODER = json.JSONDecoder(parse_constant=_reject_constant)
"""Decodes what the JSON standard allows: no NaN, no Infinity."""

_BLANK = " \t\r\n\f\v\ufeff"
_scan = make_scanner(cast("Any", DECODER))


def read_json_lines(text: DecodedText, damage: Damage) -> RecordStream:
    """Read objects, one a line. A file with one list, or with objects over several lines, ends."""
    return records_of_lines(text.lines(), text, damage)


def records_of_lines(lines: Iterable[str], text: DecodedText, damage: Damage, first_line: int = 1) -> RecordStream:
    """Read objects from lines that the caller may have begun to read."""
    scan, file = _scan, damage.file
    is_first = True
    for number, written in enumerate(lines, first_line):
        line = written
        if text.suspicious:
            mended = text.mended([line], number)
            if mended is None:
                continue
            line = mended[0]
        try:
            value, end = scan(line, 0)
        except (StopIteration, ValueError, RecursionError):
            line = line.strip(_BLANK)
            if not line:
                continue
            if is_first and (whole := _whole_document(line)):
                yield error("json", f"{file}:{number}", *whole)
                return
            value = _decoded(line, number, damage)
        else:
            if (rest := line[end:]) != "\n" and rest.strip(_BLANK):
                value = _decoded(line, number, damage)
        is_first = False
        if type(value) is dict:
            yield Record(value, file, number)
        elif isinstance(value, list) and number == first_line:
            yield error("json", f"{file}:{number}", "a JSON list in a file of JSON lines", "rename the file to .json")
            return
        elif value is not _NOTHING:
            count_other_value(value, number, damage)


_NOTHING = object()


def _decoded(line: str, number: int, damage: Damage) -> Any:
    try:
        return DECODER.decode(line.strip(_BLANK))
    except (ValueError, RecursionError) as problem:
        count_problem(problem, number, damage)
        return _NOTHING


def _whole_document(line: str) -> tuple[str, str] | None:
    """Return message and hint if the first line begins a document that is not JSON lines."""
    if line.startswith("["):
        return "a JSON list in a file of JSON lines", "rename the file to .json"
    if line == "{":
        return "the objects are written over several lines", "rename the file to .json, or " + ONE_OBJECT_A_LINE
    return None


def count_problem(problem: Exception, line: int, damage: Damage) -> None:
    """Count a record that is not valid JSON."""
    if isinstance(problem, json.JSONDecodeError):
        message = f"not valid JSON: {problem.msg} (column {problem.colno})"
        damage.add("json", line, message, ONE_OBJECT_A_LINE, kind=problem.msg)
    else:
        text = "the objects are nested too deeply" if isinstance(problem, RecursionError) else str(problem)
        damage.add("json", line, f"not valid JSON: {text}", "remove NaN, Infinity and deep nesting")


def count_other_value(value: object, line: int, damage: Damage) -> None:
    """Count a record that is JSON, but no object."""
    try:
        shown = quoted(json.dumps(value))
    except RecursionError:
        shown = "a list"
    hint = 'write {"prompt": ..., "completion": ...}'
    damage.add("json", line, f"{shown} is not an object", hint, kind="not an object")
