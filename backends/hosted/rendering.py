"""An example as a host receives it: messages or texts. The host's own template stays unknown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any

from backends.chat_lines import most_answers, trained_messages
from backends.contract import TrainingRequest
from backends.hosted.example_format import format_of, formatted, read_examples
from backends.hosted.options import HostedOptions
from backends.rendering import LOOKED_AT, Piece, RenderedExample


def render(request: TrainingRequest, options: HostedOptions) -> RenderedExample:
    """Return one training example; see `rendering.SupportsRendering`."""
    examples = list(islice(read_examples(request.dataset.train), LOOKED_AT))
    number = most_answers(examples, request.dataset.train_on)
    format_ = format_of(request, options)
    written = formatted(examples[number], format_)
    if "messages" not in written:
        pieces = [Piece(str(written["prompt"]), False), Piece(str(written["completion"]), True)]
        return RenderedExample(number + 1, tuple(pieces))
    pieces = [Piece(f"tools: {_json(written['tools'])}\n", False)] if "tools" in written else []
    # An example of a prompt has one answer, and a chat host without weights trains all of them.
    train_on = "all" if "messages" not in examples[number] or not format_.weights else format_.train_on
    trained = trained_messages(written["messages"], train_on)
    for index, message in enumerate(written["messages"]):
        pieces += [Piece(f"{message['role']}: ", False), Piece(_text(message), index in trained), Piece("\n", False)]
    return RenderedExample(number + 1, tuple(pieces[:-1]))


def _text(message: Mapping[str, Any]) -> str:
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    content = message.get("content")
    return "\n".join([*([str(content)] if content else []), *([_json(calls)] if calls else [])])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
