"""Records -> examples: one recipe (templates, separator, stop sequence) for all parts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from sweeps.data.findings import Finding, error, nearest_hint, quoted
from sweeps.data.formats import Record
from sweeps.data.templates import FieldError, Template

DEFAULT_SEPARATOR = "\n\n###\n\n"
DEFAULT_STOP = "\n"

SEPARATORS = ("\n\n###\n\n", "\n###\n", "\n##\n", "\n\n===\n\n", "\n\n---\n\n", "\n\n===>\n\n", "\n\n--->\n\n", " ->")
"""Separators that vendors' guides and tools use, recognised in prompts prepared elsewhere."""

STOPS = ("\n###\n", " END", "***", "+++", "&&&", "$$$", "@@@", "%%%", " [END]")
"""Stop sequences recognised in completions, and proposed if the default occurs inside them."""

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode

_ROLES = ("system", "developer", "user", "assistant", "tool")


class Example(NamedTuple):
    """One example as the model sees it, and its origin. Only the chat layout has `messages`."""

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
        """Return its line in the prepared file, without line break.

        `backends.contract.Dataset` defines the form.
        """
        if self.messages is not None:
            return _encode({"messages": self.messages})
        return _encode({"prompt": self.prompt, "completion": self.completion, "segments": self.segments})


@dataclass(frozen=True)
class PairRecipe:
    """Makes prompt/completion examples. One object makes those of training, validation and test."""

    layout: ClassVar[Literal["completion"]] = "completion"
    prompt: Template
    completion: Template
    separator: str
    stop: str

    def example(self, record: Record) -> Example:
        """Return the example of a record. Raises FieldError if a field of a template is missing."""
        values = self.prompt.values(record.fields)
        prompt = self.prompt.fill(values)
        if not prompt.endswith(self.separator):
            prompt += self.separator
        if values[-1].endswith(self.separator):
            values = (*values[:-1], values[-1].removesuffix(self.separator))
        return Example(
            prompt, self.completion_text(self.completion.values(record.fields)), values, record.file, record.line
        )

    def completion_text(self, values: Sequence[str]) -> str:
        """Return the completion with these values and the stop sequence exactly once at its end."""
        completion = self.completion.fill(values)
        return completion if completion.endswith(self.stop) else completion + self.stop


@dataclass(frozen=True)
class ChatRecipe:
    """Makes examples of conversations. The model's chat template delimits their messages."""

    layout: ClassVar[Literal["chat"]] = "chat"
    separator: ClassVar[str] = ""
    stop: ClassVar[str] = ""

    def example(self, record: Record) -> Example:
        """Return the example of a record.

        Raises FieldError if it is not a conversation that ends with an answer.
        """
        return _conversation(record)


Recipe: TypeAlias = PairRecipe | ChatRecipe


def choose_recipe(
    sample: Sequence[Record], prompt: str | None, completion: str | None, separator: str | None, stop: str | None
) -> Recipe | Finding:
    """Choose the recipe for a data set from its first records and the keys of the sweep file.

    A key is None if the file does not have it. Returns an error finding if no recipe fits.
    """
    columns = list(sample[0].fields) if sample else []
    templated = prompt is not None or completion is not None
    if not templated and "messages" in columns:
        if separator is not None or stop is not None:
            message = "chat examples take separator and stop sequence from the model's chat template"
            return error("chat", sample[0].place, message, "remove separator and stop")
        return ChatRecipe()
    if not templated and not {"prompt", "completion"} & set(columns):
        names = ", ".join(repr(name) for name in columns[:12])
        has_other_case = "prompt" in [name.casefold() for name in columns]
        hint = nearest_hint("prompt", columns) if has_other_case else _template_hint(columns)
        return error("no-template", sample[0].place, f"there is no column prompt or messages, only {names}", hint)
    prompt_template = Template.parse("{prompt}" if prompt is None else prompt)
    completion_template = Template.parse("{completion}" if completion is None else completion)
    if separator is None:
        tail = prompt_template.tail
        if any(not character.isalnum() and character != " " for character in tail):
            separator = tail
        else:
            separator = _shared_ending(sample, prompt_template, SEPARATORS) or DEFAULT_SEPARATOR
    if stop is None:
        stop = _shared_ending(sample, completion_template, STOPS) or DEFAULT_STOP
    return PairRecipe(prompt_template, completion_template, separator, stop)


def build_examples(records: Iterable[Record | Finding], recipe: Recipe) -> Iterator[Example | Finding]:
    """Make the examples of one part, in order.

    A field that no record of the part has is one finding, not thousands.
    """
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
            yield recipe.example(record)
        except FieldError as problem:
            code = "missing-field" if problem.missing else "field"
            finding = error(code, record.place, problem.message, problem.hint)
            if problem.missing:
                missing.setdefault(problem.field, []).append(finding)
            else:
                yield finding
    for field, findings in missing.items():
        if len(findings) == total > 1 and first is not None:
            message = f"no record of {first.file} has the field {field!r}"
            place = _place_of_template(recipe, field, first.file)
            yield error("missing-field", place, message, findings[0].hint, len(findings))
        else:
            yield from findings


def _place_of_template(recipe: Recipe, field: str, file: str) -> str:
    """Return the key of the template that names a field, or the file if there is no template."""
    if isinstance(recipe, ChatRecipe):
        return file
    return "data.prompt" if field in recipe.prompt.fields else "data.completion"


def _conversation(record: Record) -> Example:
    """Check a chat record. The last message comes from the assistant and is the completion."""
    if "messages" not in record.fields:
        raise FieldError("messages", "the field 'messages' is missing", missing=True)
    messages = record.fields["messages"]
    if not isinstance(messages, list) or not messages:
        raise FieldError("messages", "'messages' is not a list of messages", 'write [{"role": ..., "content": ...}]')
    if unsupported := {"tools", "functions"} & record.fields.keys():
        raise FieldError("messages", f"{unsupported.pop()!r}: conversations with tools are not supported")
    checked = tuple(_message(number, message) for number, message in enumerate(messages))
    if checked[-1]["role"] != "assistant":
        hint = "end with an answer of the assistant; the model learns it"
        raise FieldError("messages", f"the last message is by {checked[-1]['role']!r}, not by 'assistant'", hint)
    context = checked[:-1]
    segments = tuple(message["content"] for message in context)
    prompt = "\n".join(f"{message['role']}: {message['content']}" for message in context if message["content"])
    return Example(prompt, checked[-1]["content"], segments, record.file, record.line, checked)


def _message(number: int, message: Any) -> Mapping[str, str]:
    name = f"messages.{number}"
    if not isinstance(message, dict):
        raise FieldError(name, f"{name} is not an object", 'write {"role": ..., "content": ...}')
    for key in ("role", "content"):
        if key not in message:
            raise FieldError(name, f"{name} has no {key!r}", nearest_hint(key, [str(name) for name in message]))
    if message["role"] not in _ROLES:
        hint = nearest_hint(str(message["role"]), _ROLES)
        raise FieldError(name, f"{name} has the role {quoted(str(message['role']))}", hint)
    if not isinstance(message["content"], str):
        raise FieldError(name, f"the content of {name} is not text")
    if unsupported := sorted(message.keys() - {"role", "content"}):
        raise FieldError(name, f"{name} has {unsupported[0]!r}, which is not supported", "keep only role and content")
    return {"role": message["role"], "content": message["content"]}


def _shared_ending(sample: Sequence[Record], template: Template, known: Sequence[str]) -> str | None:
    """Return the first known ending that all texts of the sample have."""
    texts = []
    for record in sample:
        try:
            texts.append(template.fill(template.values(record.fields)))
        except FieldError:
            continue
    return next((ending for ending in known if texts and all(text.endswith(ending) for text in texts)), None)


def _template_hint(columns: Sequence[str]) -> str:
    if len(columns) < 2:
        return "write prompt: and completion: as templates over the columns"
    return f'write for example prompt: "{{{columns[0]}}}" and completion: " {{{columns[-1]}}}"'
