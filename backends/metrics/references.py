"""The texts that a metric reads: from the lines of a data file and from predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from backends.metrics.failures import user_error


def compared_text(text: str, stop: str) -> str:
    """Return a prediction or a completion as metrics see it.

    That is without the stop sequence at its end and without white space around it.
    """
    return text.removesuffix(stop).strip() if stop else text.strip()


def reference_texts(line: Mapping[str, Any], stop: str, column: str | None) -> tuple[str, ...]:
    """Return the acceptable texts of a line of a prepared data file, at least one.

    `column` is a column of the line's `row`. A list in it holds several texts. A number, a truth
    value or an object counts as its JSON text. Without `column`, the completion of the line is the
    only acceptable text; for a chat that is the content of its last message.

    Raises BackendError (user) if there is no such text; the message has no subject.
    """
    if column is None:
        return (compared_text(_completion(line), stop),)
    row = line.get("row", {})
    value = row.get(column)
    if value is None:
        columns = ", ".join(sorted(row)) or "none"
        raise user_error(f"has no value in the column {column!r}", f"Its columns with values: {columns}.")
    texts = tuple(compared_text(_as_text(item), stop) for item in (value if isinstance(value, list) else [value]))
    if not texts:
        raise user_error(f"has an empty list in the column {column!r}", "Give at least one acceptable text.")
    return texts


def prompt_text(line: Mapping[str, Any]) -> str:
    """Return what a line of a prepared data file asks a model, as one text.

    For a chat that is the content of the only message before the last one, or all of them with
    their roles.
    """
    if "messages" not in line:
        return str(line.get("prompt", "")).strip()
    messages = line["messages"][:-1]
    contents = [_content(message) for message in messages]
    if len(messages) == 1:
        return contents[0].strip()
    return "\n\n".join(
        f"{message.get('role', '')}: {content}" for message, content in zip(messages, contents, strict=True)
    )


def _completion(line: Mapping[str, Any]) -> str:
    if "messages" not in line:
        return str(line["completion"])
    content = _content(line["messages"][-1])
    if not content:
        raise user_error(
            "has no text in its last message", "Name the column to compare with, by `reference` of the metric."
        )
    return content


def _content(message: Mapping[str, Any]) -> str:
    """Return the text of a message, which may consist of parts."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content or "")


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
