"""Repairs of single texts: wrongly decoded characters, stray spaces, empty and long examples."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from sweeps.data.readers.decoding import is_utf8
from sweeps.data.repairs.repair import Change, Facts, Repaired
from sweeps.data.repairs.rows import Parts, Row
from sweeps.data.repairs.spaces import trimmed

_LONGEST_WORD = 50
_CERTAIN_LEADS = re.compile("[\xc2\xc3][\x80-\xbf]|\xe2\x80[\x80-\xbf]|\xf0\x9f[\x80-\xbf]{2}")
_SEQUENCE = re.compile("[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


def _byte_of_each_character() -> dict[str, int]:
    """Return the bytes of the characters of cp1252 and latin-1; no character has two."""
    table = {chr(byte): byte for byte in range(256)}
    for byte in range(0x80, 0xA0):
        try:
            table[bytes([byte]).decode("cp1252")] = byte
        except UnicodeDecodeError:  # five bytes have no character there
            continue
    return table


_BYTES = _byte_of_each_character()


def decoded_again(text: str) -> str:
    """Return the text without mojibake: UTF-8 that was read as cp1252 or latin-1, maybe repeatedly.

    Only a text that is certainly such is changed: all of it must be UTF-8 when encoded back, and
    the sequences must be those that real text does not have, or several.
    """
    best = text
    while not text.isascii():
        try:
            raw = bytes([_BYTES[character] for character in text])
            mended = raw.decode("utf-8")
        except (KeyError, UnicodeDecodeError):
            break
        as_latin = raw.decode("latin-1")
        if not _CERTAIN_LEADS.search(as_latin) and len(_SEQUENCE.findall(as_latin)) < 2:
            break
        text = mended
        if not any("\x80" <= character < "\xa0" for character in text):  # no text has such controls
            best = text
    return best


def mend_mojibake(parts: Parts, facts: Facts) -> Repaired:
    """Decode wrongly decoded texts again."""
    return _in_each_text(parts, decoded_again)


def strip_spaces(parts: Parts, facts: Facts) -> Repaired:
    """Remove the spaces and blank lines at both ends of each text."""
    return _in_each_text(parts, trimmed)


def drop_empty(parts: Parts, facts: Facts) -> Repaired:
    """Leave out the rows without a prompt or without an answer."""

    def why(row: Row) -> str | None:
        if not any(map(str.strip, row.inputs)):
            return "the prompt is empty"
        return None if facts.texts.has_answer(row) else "the answer is empty"

    return drop(parts, facts, why)


def drop_surrogates(parts: Parts, facts: Facts) -> Repaired:
    """Leave out the rows with half a character, which UTF-8 cannot encode."""

    def why(row: Row) -> str | None:
        is_whole = all(text.isascii() or is_utf8(text) for text in (*row.inputs, *row.answers))
        return None if is_whole else "half a character"

    return drop(parts, facts, why)


def drop_long(parts: Parts, facts: Facts) -> Repaired:
    """Leave out the rows with more characters than the limit."""

    def why(row: Row) -> str | None:
        length = len(facts.texts.prompt(row)) + len(facts.texts.answer(row))
        return f"{length:,} characters" if length > facts.max_characters else None

    return drop(parts, facts, why)


def cut_prompts(parts: Parts, facts: Facts) -> Repaired:
    """Cut the longest text of a prompt at its end, between two words, so that the row fits.

    Answers are never cut. A row stays as it is if its answer or the rest of its prompt is too long.
    """
    changes: list[Change] = []
    changed: dict[str, list[Row]] = {}
    for part, rows in parts.items():
        changed[part] = []
        for row in rows:
            excess = len(facts.texts.prompt(row)) + len(facts.texts.answer(row)) - facts.max_characters
            cut = _without_end(row, excess) if excess > 0 else row
            if cut is not row:
                changes.append(Change(row.place, facts.texts.prompt(row), facts.texts.prompt(cut)))
            changed[part].append(cut)
    return Repaired(changed if changes else parts, changes)


def _without_end(row: Row, excess: int) -> Row:
    """Return the row with at least so many characters less, or the same row if that leaves none."""
    questions = [
        number
        for number in range(len(row.inputs))
        if row.messages is None or row.messages[number]["role"] != "assistant"
    ]
    longest = max(questions, key=lambda number: len(row.inputs[number]), default=None)
    if longest is None or len(row.inputs[longest]) <= excess:
        return row
    kept = row.inputs[longest][: len(row.inputs[longest]) - excess]
    words, _, part_of_word = kept.rpartition(" ")
    text = trimmed(words if len(part_of_word) <= _LONGEST_WORD and words.strip() else kept)
    return row._replace(inputs=(*row.inputs[:longest], text, *row.inputs[longest + 1 :])) if text else row


def drop(parts: Parts, facts: Facts, why: Callable[[Row], str | None]) -> Repaired:
    """Leave out each row for which `why` has a reason."""
    changes: list[Change] = []
    kept: dict[str, list[Row]] = {}
    for part, rows in parts.items():
        kept[part] = []
        for row in rows:
            if (reason := why(row)) is None:
                kept[part].append(row)
            else:
                changes.append(Change(row.place, facts.texts.shown(row), None, reason))
    return Repaired(kept if changes else parts, changes)


def _in_each_text(parts: Parts, change: Callable[[str], str]) -> Repaired:
    """Change every text of every row; a row counts once."""
    changes: list[Change] = []
    changed: dict[str, list[Row]] = {}
    for part, rows in parts.items():
        changed[part] = []
        for row in rows:
            inputs, answers = tuple(map(change, row.inputs)), tuple(map(change, row.answers))
            if inputs != row.inputs or answers != row.answers:
                before, after = _first_difference((*row.inputs, *row.answers), (*inputs, *answers))
                changes.append(Change(row.place, before, after))
            changed[part].append(row._replace(inputs=inputs, answers=answers))
    return Repaired(changed if changes else parts, changes)


def _first_difference(before: Iterable[str], after: Iterable[str]) -> tuple[str, str]:
    return next((old, new) for old, new in zip(before, after, strict=True) if old != new)
