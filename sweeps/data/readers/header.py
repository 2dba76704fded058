"""The first row of a table: column names, or already an example."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from sweeps.data.findings import quoted
from sweeps.data.readers.damage import FileFaultError

_NUMBER = re.compile(r"[-+]?(\d+([.,]\d+)?|[.,]\d+)%?")
_WORDS_OF_A_SENTENCE = 6
_REPETITIONS = 2

NAME_THE_COLUMNS = 'write the column names into the first line, e.g. "text,label"'


def check_header(header: Sequence[str], rows: Sequence[Sequence[str]], line: int = 1) -> None:
    """Raise FileFaultError if the first row holds no column names.

    `rows` are the first rows below it. A row counts as an example only on evidence: one of its
    cells is also a value of its column, or it has numbers or sentences where its columns have such,
    and no cell that looks like the name of its column.
    """
    if not any(header):
        raise FileFaultError("header", "no column has a name", NAME_THE_COLUMNS, line)
    if evidence := _evidence_of_data(header, rows):
        message = f"the first row should name the columns, but looks like an example: {evidence}"
        raise FileFaultError("header", message, NAME_THE_COLUMNS, line)


def _evidence_of_data(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    others = [row for row in rows if [cell.strip() for cell in row[: len(header)]] != list(header)]
    columns = [
        (name, [row[number].strip() for row in others if number < len(row) and row[number].strip()])
        for number, name in enumerate(header)
    ]
    filled = [(name, values) for name, values in columns if name and values]
    for name, values in filled:
        if (count := values.count(name)) >= _REPETITIONS:
            return f"{quoted(name)} is also a value of this column, {count} times in the next {len(rows)} rows"
    if _are_positions(header):
        return ""
    if any(_is_contrast(name, values) for name, values in filled):
        return ""
    for name, values in filled:
        if _NUMBER.fullmatch(name) and all(_NUMBER.fullmatch(value) for value in values):
            return f"{quoted(name)} is a number, as all values of this column are"
    for name, values in filled:
        if _is_sentence(name, values) and _typical_words(values) >= _WORDS_OF_A_SENTENCE / 2:
            return f"{quoted(name)} is a sentence"
    return ""


def _are_positions(header: Sequence[str]) -> bool:
    """Return whether the numeric names count up, as tables without names get them (0, 1, 2)."""
    numbers = [int(name) for name in header if name.isdecimal()]
    return len(numbers) > 1 and all(after == before + 1 for before, after in pairwise(numbers))


def _is_contrast(name: str, values: Sequence[str]) -> bool:
    """Return whether a name differs from its values as names do: a word above numbers or texts."""
    if _NUMBER.fullmatch(name):
        return False
    if all(value[0].isdecimal() for value in values) and not name[0].isdecimal():
        return True  # a word above numbers, dates or amounts
    return len(name.split()) < _WORDS_OF_A_SENTENCE / 2 <= _typical_words(values) / 2


def _is_sentence(name: str, values: Sequence[str]) -> bool:
    """Return whether a name is a sentence. In forms, columns are named by the question they ask."""
    words = len(name.split())
    if name.endswith("?"):
        return words >= _WORDS_OF_A_SENTENCE and 2 * sum(value.endswith("?") for value in values) >= len(values)
    return words >= 2 * _WORDS_OF_A_SENTENCE or (words >= _WORDS_OF_A_SENTENCE and name[-1] in ".!…")


def _typical_words(values: Sequence[str]) -> float:
    return median(len(value.split()) for value in values)
