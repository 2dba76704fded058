"""Rows: examples in the making. Their texts have neither template, separator nor stop sequence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from sweeps.data.examples import ChatRecipe, Recipe
from sweeps.data.repairs.spaces import trimmed

ARROW = " -> "
"""Stands between prompt and answer on the screen."""


class Carried(NamedTuple):
    """The delimiters that a text of the file already had, as they stood there."""

    separator: str = ""
    lead: str = ""
    stop: str = ""


class Row(NamedTuple):
    """One example: what the model reads, and what it answers.

    `inputs` are the values of the prompt's columns, or the messages before the last answer.
    `answers` are the values of the completion's columns, or the last answer alone. Only
    conversations have `messages`; their contents are in `inputs` and `answers`. `file` is the name
    of the file, relative to the input. `others` are the columns that no template uses.
    """

    inputs: tuple[str, ...]
    answers: tuple[str, ...]
    file: str
    line: int
    group: str | None = None
    carried: Carried = Carried()
    messages: tuple[Mapping[str, Any], ...] | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None
    others: Mapping[str, Any] | None = None

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"

    @property
    def with_contents(self) -> tuple[Mapping[str, Any], ...]:
        """The messages with the contents that repairs may have changed."""
        contents = (*self.inputs, *self.answers)
        return tuple({**message, "content": text} for message, text in zip(self.messages or (), contents, strict=True))


Parts: TypeAlias = Mapping[str, Sequence[Row]]
"""The rows of train, valid and test, in this order; valid and test may be absent."""


@dataclass(frozen=True)
class Texts:
    """Makes the texts of rows with the templates of one recipe."""

    recipe: Recipe

    def prompt(self, row: Row) -> str:
        """Return what the model reads, without separator."""
        if isinstance(self.recipe, ChatRecipe):
            return "\n".join(text for text in row.inputs if text)
        filled = self.recipe.prompt.fill(row.inputs)
        return trimmed(filled.removesuffix(self.recipe.separator))

    def answer(self, row: Row) -> str:
        """Return what the model answers, without stop sequence and leading space."""
        if isinstance(self.recipe, ChatRecipe):
            calls = (row.messages or ({},))[-1].get("tool_calls")
            return row.answers[0] or (json.dumps(calls, sort_keys=True, ensure_ascii=False) if calls else "")
        filled = self.recipe.completion.fill(row.answers)
        text = trimmed(filled.removesuffix(self.recipe.stop))
        is_indented = text[:1] == " " and not text[1:2].isspace()
        return text[1:] if is_indented else text  # one space is no indentation, but the leading space

    def has_answer(self, row: Row) -> bool:
        """Return whether the columns of the answer have any text."""
        return any(map(str.strip, row.answers)) or (isinstance(self.recipe, ChatRecipe) and bool(self.answer(row)))

    def whole(self, row: Row) -> str:
        """Return a text that is equal for exactly the rows that train the same."""
        if row.messages is None:
            return json.dumps([self.prompt(row), self.answer(row)])
        return json.dumps([row.with_contents, row.tools], sort_keys=True, default=str)

    def shown(self, row: Row) -> str:
        """Return prompt and answer for the screen."""
        return f"{self.prompt(row)}{ARROW}{self.answer(row)}"


def all_rows(parts: Parts) -> Iterator[tuple[str, Row]]:
    """Yield every row with the name of its part."""
    for part, rows in parts.items():
        for row in rows:
            yield part, row
