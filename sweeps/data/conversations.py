"""Records -> conversations: the chat layouts that people have, and the checks of their messages.

Each layout becomes the messages of the OpenAI chat format; `backends.contract.Dataset` defines the
fields that stay. Every fault is a FieldError with a remedy.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from sweeps.data.findings import nearest_hint, quoted
from sweeps.data.templates import FieldError

Message = dict[str, Any]
LayoutName = Literal["OpenAI chat", "ShareGPT", "Alpaca"]

COLUMNS = ("messages", "conversations", "conversation")
"""Columns that hold a conversation."""

_ALPACA_COLUMNS = {"instruction", "output"}

ROLES = ("system", "developer", "user", "assistant", "tool")

_SHAREGPT_ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": "function_call",
    "tool_call": "function_call",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool": "tool",
}

_MESSAGE_FIELDS = ("role", "content", "name", "weight", "tool_calls", "tool_call_id")
_WRITE_MESSAGE = 'write {"role": ..., "content": ...}'
_WRITE_MESSAGES = 'write [{"role": ..., "content": ...}]'
_WRITE_CALL = 'write [{"id": ..., "type": "function", "function": {"name": ..., "arguments": "{...}"}}]'
_WRITE_TOOL = 'write [{"type": "function", "function": {"name": ..., "parameters": {...}}}]'


@dataclass(frozen=True)
class Conversation:
    """Checked messages, of which the last is an answer, and the tools that they may call.

    `unanswered` counts the messages after the last answer, which are left out.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] | None = None
    unanswered: int = 0


@dataclass(frozen=True)
class ChatLayout:
    """A layout, and the column that holds the conversation; Alpaca's has several."""

    name: LayoutName
    column: str = "messages"

    def conversation(self, fields: Mapping[str, Any]) -> Conversation:
        """Return the conversation of a record. Raises FieldError if it is not one."""
        if self.name == "Alpaca":
            return Conversation(tuple(_alpaca_messages(fields)))
        if self.column not in fields:
            raise FieldError(self.column, f"the field {self.column!r} is missing", missing=True)
        written = _list_in_text(fields[self.column])
        if not isinstance(written, list) or not written:
            raise FieldError(self.column, f"{self.column!r} is not a list of messages", _WRITE_MESSAGES)
        if fields.get("functions") is not None:
            hint = "write tools: [{type: function, function: ...}] and tool_calls instead"
            raise FieldError(self.column, "'functions' is the old form of tools, which is not supported", hint)
        unanswered = 0
        if self.name == "ShareGPT":
            written = _openai_messages(written, self.column)
            if fields.get("system"):
                written = [{"role": "system", "content": fields["system"]}, *written]
            answers = [number for number, message in enumerate(written, 1) if message["role"] == "assistant"]
            unanswered = len(written) - answers[-1] if answers else 0
        messages = [_message(f"{self.column}.{number}", message) for number, message in enumerate(written)]
        messages = messages[: len(messages) - unanswered]
        _check_order(messages, self.column)
        return Conversation(tuple(messages), _tools(fields.get("tools")), unanswered)


OPENAI_CHAT = ChatLayout("OpenAI chat")


def has_conversations(columns: Collection[str]) -> bool:
    """Return whether a data set with these columns needs no templates, because it is chat data."""
    if "messages" in columns:
        return True
    return not {"prompt", "completion"} & set(columns) and (
        bool(set(COLUMNS) & set(columns)) or set(columns) >= _ALPACA_COLUMNS
    )


def recognise(columns: Sequence[str], record: Mapping[str, Any]) -> ChatLayout | None:
    """Return the chat layout of a data set with these columns and this first record, or None."""
    if not has_conversations(columns):
        return None
    column = next((column for column in COLUMNS if column in columns), None)
    if column is None:
        return ChatLayout("Alpaca", "instruction")
    value = _list_in_text(record.get(column))
    first = value[0] if isinstance(value, list) and value else None
    is_sharegpt = isinstance(first, dict) and "from" in first and "role" not in first
    return ChatLayout("ShareGPT" if is_sharegpt else "OpenAI chat", column)


# -------------------------------------------------------------------------------------- the layouts
def _alpaca_messages(fields: Mapping[str, Any]) -> list[Message]:
    messages = [{"role": "system", "content": _text(fields, "system")}] if fields.get("system") else []
    history = fields.get("history") or []
    if not isinstance(history, list) or not all(
        isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn) for turn in history
    ):
        raise FieldError("history", "'history' is not a list of [question, answer]")
    for question, answer in history:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    question = _text(fields, "instruction")
    if fields.get("input"):
        question = f"{question}\n{_text(fields, 'input')}" if question else _text(fields, "input")
    return [*messages, {"role": "user", "content": question}, {"role": "assistant", "content": _text(fields, "output")}]


def _text(fields: Mapping[str, Any], name: str) -> str:
    if name not in fields:
        raise FieldError(name, f"the field {name!r} is missing", nearest_hint(name, list(fields)), missing=True)
    if not isinstance(fields[name], str):
        raise FieldError(name, f"the field {name!r} is not text")
    return str(fields[name])


def _openai_messages(turns: Sequence[Any], column: str) -> list[Message]:
    """Return the turns of a ShareGPT conversation as messages that are still to be checked."""
    messages: list[Message] = []
    calls = 0
    open_calls: list[str] = []
    for number, turn in enumerate(turns):
        name = f"{column}.{number}"
        if not isinstance(turn, dict):
            raise FieldError(name, f"{name} is not an object", 'write {"from": ..., "value": ...}')
        for key in ("from", "value"):
            if key not in turn:
                raise FieldError(name, f"{name} has no {key!r}", nearest_hint(key, list(map(str, turn))))
        role = _SHAREGPT_ROLES.get(str(turn["from"]).lower())
        if role is None:
            hint = nearest_hint(str(turn["from"]), list(_SHAREGPT_ROLES))
            raise FieldError(name, f"{name} is from {quoted(str(turn['from']))}, an unknown role", hint)
        message: Message = {"role": role, "content": turn["value"]}
        if turn.get("weight") is not None:
            message["weight"] = turn["weight"]
        if role == "function_call":
            functions = _called_functions(turn["value"], name)
            # Nine characters are what Mistral's template asks for.
            open_calls = [f"call{calls + n:05d}" for n in range(len(functions))]
            calls += len(functions)
            tool_calls = [
                {"id": call_id, "type": "function", "function": function}
                for call_id, function in zip(open_calls, functions, strict=True)
            ]
            message |= {"role": "assistant", "content": "", "tool_calls": tool_calls}
        elif role == "tool" and open_calls:
            message["tool_call_id"] = open_calls.pop(0) if len(open_calls) > 1 else open_calls[0]
        messages.append(message)
    return messages


def _called_functions(value: Any, name: str) -> list[dict[str, Any]]:
    """Return the functions that a `function_call` turn calls, as in the OpenAI chat format."""
    calls = _parsed(value)
    calls = calls if isinstance(calls, list) else [calls]
    functions = []
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            hint = 'write {"name": ..., "arguments": {...}} as JSON'
            raise FieldError(name, f"the value of {name} is not a function call", hint)
        arguments = call.get("arguments", call.get("parameters", {}))
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        functions.append({"name": call["name"], "arguments": arguments})
    return functions


def _list_in_text(value: Any) -> Any:
    """Return a list that a table holds as JSON text, for it has no other way; else the value."""
    return _parsed(value) if isinstance(value, str) and value.lstrip().startswith("[") else value


def _parsed(value: Any) -> Any:
    """Return a JSON value that may be written as text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


# --------------------------------------------------------------------------------------- the checks
def _message(name: str, message: Any) -> Message:
    """Check a message of the OpenAI chat format, and return it with the fields that stay."""
    if not isinstance(message, dict):
        raise FieldError(name, f"{name} is not an object", _WRITE_MESSAGE)
    written = {key: value for key, value in message.items() if value is not None}
    if "role" not in written:
        raise FieldError(name, f"{name} has no 'role'", nearest_hint("role", list(map(str, message))))
    role = written["role"]
    if role not in ROLES:
        raise FieldError(name, f"{name} has the role {quoted(str(role))}", nearest_hint(str(role), ROLES))
    if "content" not in written and not written.get("tool_calls"):
        raise FieldError(name, f"{name} has no 'content'", nearest_hint("content", list(map(str, message))))
    if unsupported := sorted(map(str, written.keys() - set(_MESSAGE_FIELDS))):
        hint = f"keep only {', '.join(_MESSAGE_FIELDS)}"
        raise FieldError(name, f"{name} has {unsupported[0]!r}, which is not supported", hint)
    checked: Message = {"role": role, "content": _content(written.get("content", ""), name)}
    if "name" in written:
        if not isinstance(written["name"], str):
            raise FieldError(name, f"the name of {name} is not text")
        checked["name"] = written["name"]
    if "weight" in written:
        checked |= _weight(written["weight"], role, name)
    if "tool_calls" in written:
        checked |= _tool_calls(written["tool_calls"], role, name)
    if "tool_call_id" in written:
        if role != "tool" or not isinstance(written["tool_call_id"], str):
            hint = "write the id of the call as text, in messages of the role tool only"
            raise FieldError(name, f"{name} has a wrong tool_call_id", hint)
        checked["tool_call_id"] = written["tool_call_id"]
    return checked


def _content(content: Any, name: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        texts = [part.get("text") if isinstance(part, dict) else None for part in content]
        are_texts = all(isinstance(part, dict) and part.get("type") == "text" for part in content)
        if are_texts and all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    raise FieldError(name, f"the content of {name} is not text", "a language model is trained on texts only")


def _weight(weight: Any, role: str, name: str) -> dict[str, int]:
    if isinstance(weight, bool) or weight not in (0, 1):
        message = f"{name} has the weight {quoted(json.dumps(weight, default=str))}"
        raise FieldError(name, message, "write 0 to leave an answer out of training, 1 to train it")
    if role == "assistant":
        return {"weight": int(weight)}
    if weight:
        hint = "only answers of the assistant are trained; remove the weight"
        raise FieldError(name, f"{name} has the weight 1, but is by {role!r}", hint)
    return {}


def _tool_calls(calls: Any, role: str, name: str) -> dict[str, list[dict[str, Any]]]:
    if not isinstance(calls, list):
        raise FieldError(name, f"the tool_calls of {name} are not a list", _WRITE_CALL)
    if calls and role != "assistant":
        raise FieldError(name, f"{name} has tool_calls, but is by {role!r}", "only the assistant calls tools")
    for number, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise FieldError(name, f"{name}.tool_calls.{number} names no function", _WRITE_CALL)
        arguments = function.get("arguments", "{}")
        if isinstance(arguments, str) and not isinstance(_parsed(arguments or "{}"), dict):
            hint = "write the arguments as a JSON object"
            raise FieldError(name, f"the arguments of {name}.tool_calls.{number} are not a JSON object", hint)
        if not isinstance(arguments, str | dict):
            raise FieldError(name, f"the arguments of {name}.tool_calls.{number} are not a JSON object", _WRITE_CALL)
    return {"tool_calls": [_without_none(call) for call in calls]} if calls else {}


def _without_none(call_or_tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call or a tool without the empty keys that tables of nested records have."""
    given = {key: value for key, value in call_or_tool.items() if value is not None}
    return {**given, "function": {key: value for key, value in given["function"].items() if value is not None}}


def _check_order(messages: Sequence[Message], column: str) -> None:
    """Check how the messages belong together, and that there is an answer to train at the end."""
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise FieldError(column, "there is no message of the assistant, so there is nothing to train")
    if messages[-1]["role"] != "assistant":
        hint = "end with an answer of the assistant; the model learns it"
        raise FieldError(column, f"the last message is by {messages[-1]['role']!r}, not by 'assistant'", hint)
    known: list[str] = []
    for number, message in enumerate(messages):
        name = f"{column}.{number}"
        known += [str(call["id"]) for call in message.get("tool_calls", ()) if "id" in call]
        if "tool_call_id" in message and known and message["tool_call_id"] not in known:
            hint = nearest_hint(message["tool_call_id"], known)
            raise FieldError(name, f"{name} answers the unknown call {quoted(message['tool_call_id'])}", hint)
        is_empty = not message["content"].strip() and "tool_calls" not in message
        if message["role"] == "assistant" and is_empty and message.get("weight", 1) and number + 1 < len(messages):
            raise FieldError(name, f"the answer {name} is empty", "remove it, or give it the weight 0")


def _tools(tools: Any) -> tuple[Mapping[str, Any], ...] | None:
    if not tools:
        return None
    parsed = _parsed(tools)
    if not isinstance(parsed, list):
        _wrong_tools("'tools' is not a list")
    checked = []
    for number, tool in enumerate(parsed):
        wrapped = {"type": "function", "function": tool} if isinstance(tool, dict) and "name" in tool else tool
        function = wrapped.get("function") if isinstance(wrapped, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            _wrong_tools(f"tools.{number} names no function")
        checked.append(_without_none(wrapped))
    return tuple(checked) or None


def _wrong_tools(message: str) -> NoReturn:
    raise FieldError("tools", message, _WRITE_TOOL)
