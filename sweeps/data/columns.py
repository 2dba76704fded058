"""The columns of a data set: which one holds the texts, which one the answers, and of what kind the
answers are.

Names are hints, the content decides: a column with few, short, often repeated values is a label,
whatever it is called.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from sweeps.data.examples import STOPS
from sweeps.data.readers.record import Record, RepeatedColumn
from sweeps.errors import Problem, UserInputError

MAX_CLASSES, EXAMPLES_A_CLASS, MAX_CLASS_CHARACTERS = 300, 3, 50
"""A label has at most so many different values, each so often on average, of so many characters."""

AnswerKind = Literal["label", "number", "json", "short text", "text"]

_ANSWER_NAMES = (
    *("completion", "label", "gold_label", "class", "target", "category", "intent", "sentiment", "topic", "tag"),
    *("answer", "answers", "output", "response", "reply", "summary", "translation", "json", "sql", "chosen", "result"),
)
_TEXT_NAMES = (
    *("prompt", "question", "instruction", "input", "text", "sentence", "message", "query", "document", "article"),
    *("review", "comment", "body", "content", "description", "utterance", "premise", "hypothesis", "passage"),
)
_CONTEXT_NAMES = ("context", "passage", "document", "article", "input", "premise", "background", "paragraph")
_PAIRS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text_a", "text_b"))
_ID_NAME = re.compile(r"(^|[_\W])(id|idx|index|uuid|guid|key|no|nr|row|url|date|time|timestamp|created|updated)$", re.I)
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Column:
    """What a column holds: its texts, and how often it has one (`filled`, a share).

    `path` names it in a template; nested values have names such as `instances.0.input`. A template
    can use it in every record if `is_complete`: an empty text is one, null is none.
    """

    path: str
    texts: tuple[str, ...]
    filled: float
    is_complete: bool = True

    @property
    def name(self) -> str:
        """The last part of its path that is a name, in lower case."""
        return next((part for part in reversed(self.path.casefold().split(".")) if not part.isdigit()), "")

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each text occurs, without spaces around it."""
        return Counter(text.strip() for text in self.texts)

    @cached_property
    def mean_words(self) -> float:
        """The mean number of words."""
        return sum(len(_WORD.findall(text)) for text in self.texts) / len(self.texts)

    @property
    def is_constant(self) -> bool:
        """Whether all its texts are equal."""
        return len(self.counts) < 2

    @property
    def can_be_label(self) -> bool:
        """Whether its values are few, short, and repeated."""
        counts = self.counts
        return (
            1 < len(counts) <= MAX_CLASSES
            and EXAMPLES_A_CLASS * len(counts) <= counts.total()
            and all(len(text) <= MAX_CLASS_CHARACTERS and "\n" not in text for text in counts)
        )

    @property
    def is_identifier(self) -> bool:
        """Whether it numbers or names the rows, rather than saying something."""
        if _ID_NAME.search(self.path) and not self.can_be_label:
            return True
        distinct = len(self.counts)
        return distinct > 0.95 * len(self.texts) and all(len(text.split()) <= 1 for text in self.texts)


# -------------------------------------------------------------------------------------- the columns
def columns_of(records: Sequence[Record]) -> list[Column]:
    """Return the columns that have texts, in the order of the first record."""
    texts: dict[str, list[str]] = {}
    present: Counter[str] = Counter()
    for record in records:
        for path, value in _leaves(record.fields):
            kept = texts.setdefault(path, [])
            present[path] += value is not None
            if (text := _as_text(value)) is not None:
                kept.append(text)
    return [
        Column(path, tuple(found), len(found) / len(records), present[path] == len(records))
        for path, found in texts.items()
        if found
    ]


def _leaves(fields: Mapping[str, Any], prefix: str = "", depth: int = 3) -> Iterator[tuple[str, Any]]:
    """Yield the values of a record; of a list of objects, those of the first."""
    for name, value in fields.items():
        path = f"{prefix}{name}"
        if not name or set(name) & set("{}") or isinstance(value, RepeatedColumn):
            continue
        if isinstance(value, Mapping) and depth:
            yield from _leaves(value, f"{path}.", depth - 1)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping) and depth:
            yield from _leaves(value[0], f"{path}.0.", depth - 1)
        else:
            yield path, value


def _as_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value if value.strip() else None
    return json.dumps(value) if isinstance(value, bool | int | float) else None


def choose_answer(columns: Sequence[Column], first: Record) -> Column:
    """Return the column to learn: a label if there is one, else the text that is named so, else the
    last text.
    """
    candidates = [column for column in columns if not column.is_constant and column.filled > 0.5]
    if len(candidates) < 2:
        names = ", ".join(repr(column.path) for column in columns[:6]) or "none"
        hint = "add a column with the texts and one with the answers"
        for value in first.fields.values():
            if isinstance(value, RepeatedColumn):
                hint = f"rename one column: {value}"
        message = f"fewer than two columns hold different values (columns with text: {names})"
        raise UserInputError([Problem(first.place, message, hint)])
    # Numbers that are all different may number the rows, unless they are called the answer.
    texts = [column for column in candidates if not column.is_identifier or column.name in _ANSWER_NAMES]
    longest = max(candidates, key=lambda column: column.mean_words)
    labels = [column for column in texts if column.can_be_label and column is not longest]
    named = _first_named(texts, _ANSWER_NAMES)
    has_question = any(column is not named and not column.can_be_label for column in texts)
    if named is not None and (named in labels or has_question):
        return named
    if labels:
        # A word says more than a number, and a column of marks has few values.
        return min(labels, key=lambda column: (_is_numeric(column), len(column.counts)))
    if named is not None:
        return named
    prompt = _first_named(texts, _TEXT_NAMES)
    others = [column for column in texts if column is not prompt] or [c for c in candidates if c is not prompt]
    return others[-1]


def choose_texts(columns: Sequence[Column], answer: Column, first: Record) -> list[Column]:
    """Return the columns of the prompt, in their order."""
    candidates = [column for column in columns if column.filled > 0.5 and not column.is_identifier]
    candidates = [column for column in candidates if not (column.is_constant or column.can_be_label)] or candidates
    if not candidates:
        message = f"beside the answers in {answer.path!r} no column holds texts"
        raise UserInputError([Problem(first.place, message, "add a column with the texts")])
    for names in _PAIRS:
        pair = [column for name in names for column in candidates if column.name == name]
        if len(pair) == 2:
            return pair
    main = _first_named(candidates, _TEXT_NAMES)
    longest = max(candidates, key=lambda column: column.mean_words)
    if main is None or (answer.can_be_label and longest.mean_words > 3 * main.mean_words):
        main = longest
    context = [
        column for column in candidates if column is not main and column.is_complete and column.name in _CONTEXT_NAMES
    ]
    return [column for column in candidates if column is main or column in context]


def _first_named(columns: Sequence[Column], names: Sequence[str]) -> Column | None:
    by_name: dict[str, Column] = {}
    for column in columns:
        by_name.setdefault(column.name, column)
    return next((by_name[name] for name in names if name in by_name), None)


def _is_numeric(column: Column) -> bool:
    return all(_NUMBER.fullmatch(text) for text in column.counts)


_NUMBER = re.compile(r"[-+]?[\d.,]+%?")
_FINAL_NUMBER = re.compile(r"(####|\\boxed\{)\s*[-+$]?[\d.,]+\}?\s*$")


def answer_kind(answer: Column) -> AnswerKind:
    """Return of what kind the answers in a column are."""
    if answer.can_be_label:
        return "label"
    texts = _without_stop([text.strip() for text in answer.texts])
    if all(_NUMBER.fullmatch(text) or _FINAL_NUMBER.search(text) for text in texts):
        return "number"
    if all(text[:1] in ("{", "[") and _is_json(text) for text in texts):
        return "json"
    return "short text" if answer.mean_words <= 4 else "text"


def _without_stop(texts: Sequence[str]) -> Sequence[str]:
    """Return the answers without the stop sequence that all of them end with."""
    for stop in STOPS:
        if all(text.endswith(stop.rstrip()) for text in texts):
            return [text.removesuffix(stop.rstrip()).rstrip() for text in texts]
    return texts


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
