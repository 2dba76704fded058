"""Messages that leave no trace in the text that a chat template writes.

Some templates have no place for a system prompt, for tools, or for the answers of tools, and leave
them out without an error. Nothing is read from the template's source: a word is put in place of a
message, and the text has it or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backends.model_packages import chat_text
from backends.model_packages.chat_text import Message, RejectedConversationError, for_template

_TRIES = 3
"""Conversations with which each kind of message is tried."""

_TRACE = "quokkatrace"
_TOOLS = "the list of tools"
_CALLS = "calls of tools"


def dropped_messages(tokenizer: Any, lines: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Return which kinds of message the template drops, each with the numbers (from 1) of the
    conversations that have such messages.

    Without a chat template nothing is dropped. A conversation that the template rejects says
    nothing.
    """
    if not tokenizer.chat_template:
        return {}
    having: dict[str, list[int]] = {}
    for number, line in enumerate(lines, 1):
        for kind in dict.fromkeys(kind for kind, _ in _kinds(line)):
            having.setdefault(kind, []).append(number)
    return {
        kind: numbers
        for kind, numbers in having.items()
        if _is_dropped(tokenizer, kind, [lines[number - 1] for number in numbers[:_TRIES]])
    }


def _kinds(line: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the kinds of message of a conversation, each with the index of such a message."""
    if line.get("tools"):
        yield _TOOLS, 0
    last = len(line["messages"]) - 1
    for index, message in enumerate(line["messages"]):
        if message.get("tool_calls"):
            yield _CALLS, index
        elif str(message.get("content") or "").strip():
            if message["role"] != "assistant":
                yield f"messages of the role {message['role']}", index
            elif index < last:
                yield "earlier answers", index


def _is_dropped(tokenizer: Any, kind: str, lines: Sequence[Mapping[str, Any]]) -> bool:
    found = [_leaves_trace(tokenizer, kind, line) for line in lines]
    return any(trace is False for trace in found) and not any(found)


def _leaves_trace(tokenizer: Any, kind: str, line: Mapping[str, Any]) -> bool | None:
    """Return whether a message of this kind is in the text; None if the template rejects it."""
    messages, tools = [for_template(message) for message in line["messages"]], list(line.get("tools") or ())
    index = next(index for found, index in _kinds(line) if found == kind)
    if kind == _TOOLS:
        tools = [{**tools[0], "function": {**tools[0]["function"], "name": _TRACE}}]
    elif kind == _CALLS:
        messages[index] = _renamed_call(messages[index])
    else:
        messages[index] = {**messages[index], "content": _TRACE}
    try:
        return _TRACE in chat_text.write(tokenizer, messages, tools)
    except RejectedConversationError:
        return None


def _renamed_call(message: Message) -> Message:
    first, *others = message["tool_calls"]
    return {**message, "tool_calls": [{**first, "function": {**first["function"], "name": _TRACE}}, *others]}
