"""Conversations as text: with the chat template of a tokenizer, or without one.

A copy of this module travels with a packaged model. It stands alone: it imports nothing of this
software.

A model without a chat template gets one line per message, `role: content`, and the tokenizer's end
of sequence after every answer.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any

import jinja2

Message = dict[str, Any]
Tools = Sequence[Mapping[str, Any]]

TEMPLATE_DATE = date(2024, 7, 26)
"""The date in texts of templates that write today's one: with the real date, a run that is resumed
on another day would train on other texts. It is the default of Llama 3.1.
"""

_DATE_CODES = ("%d", "%m", "%b", "%B", "%Y", "%y")
_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f" | replace('{code}', '{TEMPLATE_DATE.strftime(code)}')" for code in _DATE_CODES)
    + " }}{%- endmacro +%}"
)
"""Hides the function of this name that templates can call."""

_TEMPLATE_FIELDS = ("role", "content", "tool_calls", "tool_call_id", "name")
_QUESTION, _ANSWER = "question", "answer"


class RejectedConversationError(ValueError):
    """The chat template takes no such conversation. The text names its roles and the reason."""


# ----------------------------------------------------------------------------------------- messages
def messages_before_answer(line: Mapping[str, Any]) -> list[Message]:
    """Return the messages before the completion of a line, as templates read them."""
    messages = line["messages"]
    before = messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages
    return [for_template(message) for message in before]


def for_template(message: Mapping[str, Any]) -> Message:
    """Return a message with the fields that templates read, and arguments of calls as objects."""
    chosen = {field: message[field] for field in _TEMPLATE_FIELDS if message.get(field) is not None}
    chosen.setdefault("content", "")
    if calls := chosen.get("tool_calls"):
        chosen["tool_calls"] = [_with_parsed_arguments(call) for call in calls]
    return chosen


def _with_parsed_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    if isinstance(function.get("arguments"), str):
        try:
            parsed = json.loads(function["arguments"])
        except ValueError:
            parsed = None
        if isinstance(parsed, dict):
            function["arguments"] = parsed
    return {**call, "function": function}


def questions(messages: Sequence[Message]) -> list[int]:
    """Return the indices of the messages that begin an exchange of question and answer."""
    return [index for index, message in enumerate(messages) if message["role"] == "user"]


def kept_without(messages: Sequence[Message], exchanges: int) -> list[int]:
    """Return the indices of the messages that stay without the earliest exchanges.

    The system prompt stays, and so does the last question: `exchanges` is smaller than the number
    of questions, or zero.
    """
    if not exchanges:
        return list(range(len(messages)))
    asked = questions(messages)
    system = [n for n in range(asked[0]) if messages[n]["role"] in ("system", "developer")]
    return [*system, *range(asked[exchanges], len(messages))]


def fitting(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> list[int]:
    """Return the indices of the messages that stay if as many of the earliest exchanges are left
    out as it takes to fit. If nothing fits, only the last exchange stays.
    """
    removable = max(len(questions(messages)) - 1, 0)

    def fits_without(exchanges: int) -> bool:
        return fits([messages[index] for index in kept_without(messages, exchanges)])

    return kept_without(messages, bisect_left(range(removable), True, key=fits_without))


# --------------------------------------------------------------------------------------------- text
def write(tokenizer: Any, messages: Sequence[Message], tools: Tools = (), *, for_generation: bool = False) -> str:
    """Return the text of messages; with `for_generation`, the beginning of an answer follows.

    Templates that write a date write `TEMPLATE_DATE`. Raises RejectedConversationError.
    """
    if not tokenizer.chat_template:
        lines = [f"tools: {_json(list(tools))}"] if tools else []
        lines += [_plain(message, tokenizer.eos_token or "") for message in messages]
        return "\n".join([*lines, "assistant:"] if for_generation else lines)
    try:
        template = str(tokenizer.get_chat_template(tools=list(tools) or None))
        text = tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) or None,
            chat_template=_FIXED_DATE + template if "strftime_now" in template else template,
            tokenize=False,
            add_generation_prompt=for_generation,
        )
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        roles = ", ".join(str(message["role"]) for message in messages[:6])
        raise RejectedConversationError(f"({roles}): {error}") from error
    return str(text)


def answer_after(tokenizer: Any, prompt: str, whole: str, answer: Message) -> str:
    """Return the text of an answer after the prompt for it, the end of its turn included.

    `prompt` and `whole` are the texts of the messages before it, for generation, and with it.
    """
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    if answer.get("tool_calls"):  # only the template knows how to write them
        common = next((n for n, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
        return whole[common:]
    return str(answer["content"]) + turn_end(tokenizer)


def turn_end(tokenizer: Any) -> str:
    """Return the text that the chat template puts after an answer; empty if there is none.

    If the template writes an answer in another way than its prompt for one begins, the end of
    sequence counts as the end where the template has it there.
    """
    return _turn_end(tokenizer, str(tokenizer.chat_template)) if tokenizer.chat_template else ""


@lru_cache(maxsize=8)
def _turn_end(tokenizer: Any, template: str) -> str:
    """Return the end of a turn; `template` is that of the tokenizer, which can be replaced."""
    eos = str(tokenizer.eos_token or "")
    question = {"role": "user", "content": _QUESTION}
    try:
        prompt = write(tokenizer, [question], for_generation=True)
        whole = write(tokenizer, [question, {"role": "assistant", "content": _ANSWER}])
    except RejectedConversationError:  # it takes other conversations only; those of the data are rendered as they are
        return eos
    if whole.startswith(prompt):
        return whole[len(prompt) :].partition(_ANSWER)[2]
    end = whole.rpartition(_ANSWER)[2] if _ANSWER in whole else ""
    return eos if (eos and eos in end) or not end.strip() else end


def _plain(message: Message, end: str) -> str:
    content = str(message["content"])
    if calls := message.get("tool_calls"):
        content = "\n".join([*([content] if content else []), _json([call["function"] for call in calls])])
    return f"{message['role']}: {content}{end if message['role'] == 'assistant' else ''}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
