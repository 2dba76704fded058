"""Records -> examples: one recipe of templates, separator and stop sequence for all parts of the data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from sweeps.data.findings import Finding, error, nearest, quoted
from sweeps.data.formats import Record
from sweeps.data.templates import FieldError, Template

DEFAULT_SEPARATOR = "\n\n###\n\n"
DEFAULT_STOP = "\n"

SEPARATORS = ("\n\n###\n\n", "\n###\n", "\n##\n", "\n\n===\n\n", "\n\n---\n\n", "\n\n===>\n\n", "\n\n--->\n\n", " ->")
"""Recognised at the end of prompts that were prepared elsewhere: those that the vendors' guides and tools use."""

STOPS = ("\n###\n", " END", "***", "+++", "&&&", "$$$", "@@@", "%%%", " [END]")
"""Recognised at the end of completions, and proposed where the default occurs inside them."""

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode

_ROLES = ("system", "developer", "user", "assistant", "tool")


class Example(NamedTuple):
    """One example as the model sees it, and where it comes from. `messages` only in the chat layout."""

    prompt: str
    completion: str
    segments: tuple[str, ...]
    file: str
    line: int
    messages: tuple[Mapping[str, str], ...] | None = None

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"

    def to_line(self) -> str:
        """Return the line of the prepared file, without the line break (`backends.contract.Dataset` says the form)."""
        if self.messages is not None:
            return _encode({"messages": self.messages})
        return _encode({"prompt": self.prompt, "completion": self.completion, "segments": self.segments})


@dataclass(frozen=True)
class Pairs:
    """Makes prompt/completion examples; the same object makes those for training, validation and test."""

    layout: ClassVar[Literal["completion"]] = "completion"
    prompt: Template
    completion: Template
    separator: str
    stop: str

    def example(self, record: Record) -> Example:
        """Return the record's example. Raises FieldError where it lacks what the templates ask for."""
        values = self.prompt.values(record.fields)
        prompt = self.prompt.fill(values)
        if not prompt.endswith(self.separator):
            prompt += self.separator
        if values[-1].endswith(self.separator):
            values = (*values[:-1], values[-1].removesuffix(self.separator))
        return Example(prompt, self.answer(self.completion.values(record.fields)), values, record.file, record.line)

    def answer(self, values: Sequence[str]) -> str:
        """Return the completion with these values, ended by the stop sequence exactly once."""
        completion = self.completion.fill(values)
        return completion if completion.endswith(self.stop) else completion + self.stop


@dataclass(frozen=True)
class Chat:
    """Makes examples of conversations; the model's own chat template delimits their messages."""

    layout: ClassVar[Literal["chat"]] = "chat"
    separator: ClassVar[str] = ""
    stop: ClassVar[str] = ""

    def example(self, record: Record) -> Example:
        """Return the record's example. Raises FieldError where it is no conversation that ends with an answer."""
        return _conversation(record)


Recipe: TypeAlias = Pairs | Chat


def recipe(
    sample: Sequence[Record], prompt: str | None, completion: str | None, separator: str | None, stop: str | None
) -> Recipe | Finding:
    """Choose the recipe for a data set from its first records and what its owner wrote; None is not written."""
    columns = list(sample[0].fields) if sample else []
    templated = prompt is not None or completion is not None
    if not templated and "messages" in columns:
        if separator is not None or stop is not None:
            message = "chat examples have no separator and no stop sequence of their own: the model's chat template has"
            return error("chat", sample[0].place, message, "leave out separator and stop")
        return Chat()
    if not templated and not {"prompt", "completion"} & set(columns):
        names = ", ".join(repr(name) for name in columns[:12])
        hint = nearest("prompt", columns) if "prompt" in [name.casefold() for name in columns] else _suggestion(columns)
        return error("no-template", sample[0].place, f"the columns are {names}: neither prompt nor messages", hint)
    asked = Template.parse("{prompt}" if prompt is None else prompt)
    answer = Template.parse("{completion}" if completion is None else completion)
    if separator is None:
        if any(not character.isalnum() and character != " " for character in asked.tail):
            separator = asked.tail
        else:
            separator = _shared_ending(sample, asked, SEPARATORS) or DEFAULT_SEPARATOR
    if stop is None:
        stop = _shared_ending(sample, answer, STOPS) or DEFAULT_STOP
    return Pairs(asked, answer, separator, stop)


def build(records: Iterable[Record | Finding], how: Recipe) -> Iterator[Example | Finding]:
    """Make the examples of one part, in order. A field that no record of the part has is one finding, not thousands."""
    total = 0
    missing: dict[str, list[Finding]] = {}
    first: Record | None = None
    for record in records:
        if isinstance(record, Finding):
            yield record
            continue
        total += 1
        first = first or record
        try:
            yield how.example(record)
        except FieldError as lack:
            found = error("missing-field" if lack.missing else "field", record.place, lack.message, lack.hint)
            if lack.missing:
                missing.setdefault(lack.field, []).append(found)
            else:
                yield found
    for field, lacking in missing.items():
        if len(lacking) == total > 1 and first is not None:
            message = f"no record of {first.file} has the field {field!r}"
            yield error("missing-field", _asking(how, field, first.file), message, lacking[0].hint, len(lacking))
        else:
            yield from lacking


def _asking(how: Recipe, field: str, file: str) -> str:
    """Return the key of the template that asks for a field; the file, where there is no template."""
    if isinstance(how, Chat):
        return file
    return "data.prompt" if field in how.prompt.fields else "data.completion"


def _conversation(record: Record) -> Example:
    """Check a chat record. The last message, by the assistant, is the completion."""
    if "messages" not in record.fields:
        raise FieldError("messages", "the field 'messages' is missing", missing=True)
    messages = record.fields["messages"]
    if not isinstance(messages, list) or not messages:
        raise FieldError("messages", "'messages' is not a list of messages", 'write [{"role": ..., "content": ...}]')
    if beyond := {"tools", "functions"} & record.fields.keys():
        raise FieldError("messages", f"{beyond.pop()!r}: conversations with tools are not supported")
    kept = tuple(_message(number, message) for number, message in enumerate(messages))
    if kept[-1]["role"] != "assistant":
        hint = "the last message is what the model learns to say"
        raise FieldError("messages", f"the last message is by {kept[-1]['role']!r}, not by 'assistant'", hint)
    asked = tuple(message["content"] for message in kept[:-1])
    prompt = "\n".join(f"{message['role']}: {message['content']}" for message in kept[:-1] if message["content"])
    return Example(prompt, kept[-1]["content"], asked, record.file, record.line, kept)


def _message(number: int, message: Any) -> Mapping[str, str]:
    name = f"messages.{number}"
    if not isinstance(message, dict):
        raise FieldError(name, f"{name} is not an object", 'write {"role": ..., "content": ...}')
    for key in ("role", "content"):
        if key not in message:
            raise FieldError(name, f"{name} has no {key!r}", nearest(key, [str(each) for each in message]))
    if message["role"] not in _ROLES:
        hint = nearest(str(message["role"]), _ROLES)
        raise FieldError(name, f"{name} has the role {quoted(str(message['role']))}", hint)
    if not isinstance(message["content"], str):
        raise FieldError(name, f"the content of {name} is not a text")
    if beyond := sorted(message.keys() - {"role", "content"}):
        raise FieldError(name, f"{name} has {beyond[0]!r}, which is not supported", "keep only role and content")
    return {"role": message["role"], "content": message["content"]}


def _shared_ending(sample: Sequence[Record], template: Template, known: Sequence[str]) -> str | None:
    texts = []
    for record in sample:
        try:
            texts.append(template.fill(template.values(record.fields)))
        except FieldError:
            continue
    return next((each for each in known if texts and all(text.endswith(each) for text in texts)), None)


def _suggestion(columns: Sequence[str]) -> str:
    if len(columns) < 2:
        return "say prompt: and completion: as templates over columns"
    return f'say for example prompt: "{{{columns[0]}}}" and completion: " {{{columns[-1]}}}"'
