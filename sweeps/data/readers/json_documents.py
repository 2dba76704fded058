"""JSON documents: a list of objects, an object that holds such a list, or JSON lines in disguise.

The document is decoded record by record, so that it may be larger than the memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from sweeps.data.findings import warning
from sweeps.data.readers.damage import Damage, FileFaultError
from sweeps.data.readers.decoding import LINE_LIMIT, DecodedText, split_lines
from sweeps.data.readers.json_lines import DECODER, count_other_value, count_problem, records_of_lines
from sweeps.data.readers.record import Record, RecordStream

_SPACE = re.compile(r"[ \t\n\r\ufeff]*")

_PARTS_OF_A_RECORD = {"messages", "conversations", "conversation", "tools", "functions", "chosen", "rejected", "prompt"}
"""Columns of one record that hold lists of objects themselves."""

_WRITE_A_LIST = 'write a list of objects: [{"prompt": ..., "completion": ...}, ...]'


def read_json(text: DecodedText, damage: Damage) -> RecordStream:
    """Read a document. One without a list is read as JSON lines, or as one object after another."""
    document = _Document(text)
    first = document.peek()
    if first and not (first == "[" or (first == "{" and not document.is_json_lines())):
        yield from records_of_lines(document.remaining_lines(), text, damage, document.line())
        return
    try:
        if first == "[":
            yield from _list(document, damage)
        while document.peek() == "{" and first == "{":
            yield from _object(document, damage)
        if document.peek():
            raise _broken(document, "there is text after the last record")
    except (ValueError, RecursionError) as problem:
        count_problem(problem, document.line_of(problem), damage)


class _Document:
    """The text of a document as far as it is needed, and the position of the reader in it."""

    def __init__(self, text: DecodedText) -> None:
        self._source = text
        self._blocks = self._mended_blocks()
        self._text = ""
        self._at = 0
        self._line = 1
        self._counted = 0

    def _mended_blocks(self) -> Iterator[str]:
        line = 1
        for block in self._source.blocks():
            if not self._source.suspicious:
                yield block
                line += block.count("\n")
                continue
            for written in split_lines(block):
                mended = self._source.mended([written], line)
                if mended is None:
                    return  # the findings of the text say why
                yield mended[0]
                line += 1

    def _more(self) -> bool:
        """Read on until the rest of the text is twice as long; return whether there was more."""
        self.line()
        self._text = self._text[self._at :]
        self._at = self._counted = 0
        pieces, wanted = [self._text], len(self._text) or 1
        for block in self._blocks:
            pieces.append(block)
            wanted -= len(block)
            if wanted <= 0:
                break
        self._text = "".join(pieces)
        return len(pieces) > 1

    def line(self) -> int:
        """Return the line of the position."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def peek(self) -> str:
        """Skip white space; return the next character, empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # matches nothing, too
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Pass the character that `peek` returned."""
        self._at += 1

    def value(self) -> Any:
        """Decode the next value. Raises ValueError or RecursionError if it is not JSON."""
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as problem:
                if not self._may_be_cut(problem) or not self._more():
                    raise
                continue
            if end == len(self._text) and not isinstance(value, dict | list | str) and self._more():
                continue  # a number could go on
            self._at = end
            return value

    def _may_be_cut(self, problem: json.JSONDecodeError) -> bool:
        """Return whether the error may only say that the text read so far ends inside the value."""
        if len(self._text) - self._at > LINE_LIMIT:
            raise FileFaultError("long-line", f"one record has more than {LINE_LIMIT:,} characters", _WRITE_A_LIST)
        return problem.msg.startswith("Unterminated string") or problem.pos >= len(self._text) - 16

    def line_of(self, problem: Exception) -> int:
        """Return the line of an error that `value` raised."""
        at = problem.pos if isinstance(problem, json.JSONDecodeError) else self._at
        return self.line() + self._text.count("\n", self._at, at)

    def is_json_lines(self) -> bool:
        """Return whether the line of the position is one complete object that is a record.

        It is the holder of records if it has a list of objects, and no other line follows.
        """
        while "\n" not in self._text[self._at :] and self._more():
            pass
        end = self._text.find("\n", self._at)
        line = self._text[self._at : end if end >= 0 else len(self._text)]
        try:
            value = DECODER.decode(line.strip())
        except (ValueError, RecursionError):
            return False
        if not isinstance(value, dict):
            return False
        has_more = end >= 0 and (not self._text[end:].isspace() or self._more())
        return has_more or not any(
            name not in _PARTS_OF_A_RECORD and _is_list_of_objects(value[name]) for name in value
        )

    def begins_list_of_objects(self) -> bool:
        """Return whether the list at the position has an object as its first value."""
        while True:
            after = _SPACE.match(self._text, self._at + 1).end()  # type: ignore[union-attr]  # matches nothing, too
            if after < len(self._text) or not self._more():
                return self._text[after : after + 1] == "{"

    def remaining_lines(self) -> Iterator[str]:
        """Return the lines from the position on. Nothing else can be read afterwards."""
        return chain.from_iterable(split_lines(block) for block in chain([self._text[self._at :]], self._blocks))


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _list(document: _Document, damage: Damage) -> RecordStream:
    """Read the objects of the list that begins at the position.

    If the first two are on one line, the lines tell nothing: then the records are numbered.
    """
    document.skip()
    number, is_numbered = 0, False
    while document.peek() not in ("", "]"):
        line = document.line()
        value = document.value()
        number += 1
        following = document.peek()
        if following == ",":
            document.skip()
            document.peek()
        if number == 1:
            is_numbered = following == "," and document.line() == line
        place = number if is_numbered else line
        if type(value) is dict:
            yield Record(value, damage.file, place)
        else:
            count_other_value(value, place, damage)
        if following not in (",", "]"):
            break
    if document.peek() != "]":
        raise _broken(document, "the list is not closed, or a comma is missing")
    document.skip()


def _object(document: _Document, damage: Damage) -> RecordStream:
    """Read the object that begins at the position: a record, or the holder of a list of records."""
    line, file = document.line(), damage.file
    document.skip()
    fields: dict[str, Any] = {}
    lists: list[str] = []
    while document.peek() not in ("", "}"):
        name = document.value()
        if not isinstance(name, str) or document.peek() != ":":
            raise _broken(document, "an object needs names in quotes, each with a colon after it")
        document.skip()
        if document.peek() == "[" and name not in _PARTS_OF_A_RECORD and document.begins_list_of_objects():
            lists.append(name)
            if len(lists) > 1:
                message = f"the object has several lists of records: {lists[0]!r} and {name!r}"
                hint = "write each list into a file of its own, e.g. train.json and test.json in one folder"
                raise FileFaultError("json", message, hint, document.line())
            yield from _list(document, damage)
        else:
            fields[name] = document.value()
        if document.peek() == ",":
            document.skip()
        elif document.peek() != "}":
            break
    if document.peek() != "}":
        raise _broken(document, "the object is not closed, or a comma is missing")
    document.skip()
    if lists and fields:
        message = f"the records are the list {lists[0]!r}; left out beside it: {', '.join(map(repr, fields))}"
        yield warning("json-object", f"{file}:{line}", message, "nothing, if that is right")
    elif fields and all(isinstance(value, dict) for value in fields.values()):
        hint = f"{_WRITE_A_LIST}; with pandas: to_json(path, orient='records')"
        raise FileFaultError("json", "an object of objects, not a list of records", hint, line)
    elif not lists:
        yield Record(fields, file, line)


def _broken(document: _Document, message: str) -> FileFaultError:
    return FileFaultError("json", f"not valid JSON: {message}", _WRITE_A_LIST, document.line())
