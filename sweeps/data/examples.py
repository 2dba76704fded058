"""Records -> examples: one recipe (templates, separator, stop sequence) for all parts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from backends.chat_lines import TrainOn, trained_messages
from sweeps.data.conversations import OPENAI_CHAT, ChatLayout, recognise
from sweeps.data.findings import Finding, error, nearest_hint
from sweeps.data.preference_pairs import preference_finding
from sweeps.data.readers.record import Record, RepeatedColumn
from sweeps.data.templates import FieldError, Template, optional_text

DEFAULT_SEPARATOR = "\n\n###\n\n"
DEFAULT_STOP = "\n"

SEPARATORS = ("\n\n###\n\n", "\n###\n", "\n##\n", "\n\n===\n\n", "\n\n---\n\n", "\n\n===>\n\n", "\n\n--->\n\n", " ->")
"""Separators that vendors' guides and tools use, recognised in prompts prepared elsewhere."""

STOPS = ("\n###\n", " END", "***", "+++", "&&&", "$$$", "@@@", "%%%", " [END]")
"""Stop sequences recognised in completions, and proposed if the default occurs inside them."""

SHARED_ENDING = 0.9
"""The share of the first texts that must have an ending so that it is taken for the delimiter."""

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=str).encode
"""A value of a column that JSON does not have, such as a date, becomes text."""


class Example(NamedTuple):
    """One example as the model sees it, and its origin.

    Only the chat layout has `messages` and `tools`; `unanswered` counts the messages after the last
    answer, which are left out. `row` holds the columns of the record, if somebody needs them.
    Examples of one `group` stay in one part.
    """

    prompt: str
    completion: str
    segments: tuple[str, ...]
    file: str
    line: int
    messages: tuple[Mapping[str, Any], ...] | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None
    unanswered: int = 0
    row: Mapping[str, Any] | None = None
    group: str | None = None

    @property
    def place(self) -> str:
        """`file:line`."""
        return f"{self.file}:{self.line}"

    @property
    def answers(self) -> int:
        """The number of answers: one, unless it is a conversation."""
        return 1 if self.messages is None else sum(message["role"] == "assistant" for message in self.messages)

    def trained_answers(self, train_on: TrainOn) -> int:
        """Return the number of answers that are targets of training."""
        return 1 if self.messages is None else len(trained_messages(self.messages, train_on))

    def to_line(self, with_row: bool = False) -> str:
        """Return its line in the prepared file, without line break.

        `backends.contract.Dataset` defines the form.
        """
        row = {"row": self.row} if with_row and self.row is not None else {}
        if self.messages is not None:
            tools = {} if self.tools is None else {"tools": self.tools}
            return _encode({"messages": self.messages, **tools, **row})
        return _encode({"prompt": self.prompt, "completion": self.completion, "segments": self.segments, **row})


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

    source: ChatLayout = OPENAI_CHAT
    train_on: TrainOn = "all"

    def example(self, record: Record) -> Example:
        """Return the example of a record.

        Raises FieldError if it is not a conversation that ends with an answer, or if no answer is
        trained.
        """
        conversation = self.source.conversation(record.fields)
        *context, answer = conversation.messages
        if not trained_messages(conversation.messages, self.train_on):
            asked = "no answer is trained" if self.train_on == "all" else "the last answer is not trained"
            hint = "give one the weight 1" if self.train_on == "all" else "write train_on: all, or give it the weight 1"
            raise FieldError(self.source.column, f"{asked}: its weight is 0", hint)
        segments = tuple(_readable(message) for message in context)
        prompt = "\n".join(
            f"{message['role']}: {text}" for message, text in zip(context, segments, strict=True) if text
        )
        return Example(
            prompt,
            _readable(answer),
            segments,
            record.file,
            record.line,
            conversation.messages,
            conversation.tools,
            conversation.unanswered,
        )


Recipe: TypeAlias = PairRecipe | ChatRecipe


def choose_recipe(
    sample: Sequence[Record],
    prompt: str | None,
    completion: str | None,
    separator: str | None,
    stop: str | None,
    train_on: TrainOn = "all",
) -> Recipe | Finding:
    """Choose the recipe for a data set from its first records and the keys of the sweep file.

    A key is None if the file does not have it. Returns an error finding if no recipe fits.
    """
    columns = list(sample[0].fields) if sample else []
    templated = prompt is not None or completion is not None
    if not templated and sample and (preferences := preference_finding(columns, sample[0].fields, sample[0].place)):
        return preferences
    if not templated and sample and (layout := recognise(columns, sample[0].fields)):
        if separator is not None or stop is not None:
            message = "chat examples take separator and stop sequence from the model's chat template"
            hint = "remove separator and stop"
            if layout.name == "Alpaca":
                hint += ', or write prompt: "{instruction}" and completion: " {output}"'
            return error("chat", sample[0].place, message, hint)
        return ChatRecipe(layout, train_on)
    if not templated and not {"prompt", "completion"} & set(columns):
        names = ", ".join(repr(name) for name in columns[:12])
        has_other_case = "prompt" in [name.casefold() for name in columns]
        hint = nearest_hint("prompt", columns) if has_other_case else _template_hint(columns)
        return error("no-template", sample[0].place, f"there is no column prompt or messages, only {names}", hint)
    prompt_template = Template.parse("{prompt}" if prompt is None else prompt)
    completion_template = Template.parse("{completion}" if completion is None else completion)
    for name in (*prompt_template.fields, *completion_template.fields):
        if sample and isinstance(repeated := sample[0].fields.get(name), RepeatedColumn):
            return error("repeated-column", sample[0].file, str(repeated), "rename one of them in the header")
    if separator is None:
        tail = prompt_template.tail
        if any(not character.isalnum() and character != " " for character in tail):
            separator = tail
        else:
            separator = _ending_of(sample, prompt_template, SEPARATORS) or DEFAULT_SEPARATOR
    if stop is None:
        stop = _ending_of(sample, completion_template, STOPS) or DEFAULT_STOP
    return PairRecipe(prompt_template, completion_template, separator, stop)


def build_examples(
    records: Iterable[Record | Finding], recipe: Recipe, keep_rows: bool = False, group_by: str | None = None
) -> Iterator[Example | Finding]:
    """Make the examples of one part, in order. With `keep_rows` they have the columns as `row`.

    The text of the field `group_by` becomes their `group`; an empty one means that the example
    belongs to no group. A field that no record of the part has is one finding, not thousands.
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
            example = recipe.example(record)
            if keep_rows:
                example = example._replace(row=record.fields)
            if group_by is not None:
                example = example._replace(group=optional_text(record.fields, group_by).strip() or None)
            yield example
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
            place = "data.group_by" if field == group_by else _place_of_template(recipe, field, first.file)
            yield error("missing-field", place, message, findings[0].hint, len(findings))
        else:
            yield from findings


def _place_of_template(recipe: Recipe, field: str, file: str) -> str:
    """Return the key of the template that names a field, or the file if there is no template."""
    if isinstance(recipe, ChatRecipe):
        return file
    return "data.prompt" if field in recipe.prompt.fields else "data.completion"


def _readable(message: Mapping[str, Any]) -> str:
    """Return the text of a message for checks and comparisons: its content, else its calls."""
    calls = message.get("tool_calls")
    return str(message["content"]) or (_encode([call["function"] for call in calls]) if calls else "")


def _ending_of(sample: Sequence[Record], template: Template, known: Sequence[str]) -> str | None:
    texts = []
    for record in sample:
        try:
            values = template.values(record.fields)
        except FieldError:
            continue
        if any(map(str.strip, values)):
            texts.append(template.fill(values))
    return shared_ending(texts, known)


def shared_ending(texts: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the first known ending that nearly all texts have, but for empty ones.

    One row without its ending must not make the ending a part of all other texts.
    """
    written = [text for text in texts if text.strip()]
    least = max(1.0, SHARED_ENDING * len(written))
    return next((ending for ending in known if sum(text.endswith(ending) for text in written) >= least), None)


def _template_hint(columns: Sequence[str]) -> str:
    if len(columns) < 2:
        return "write prompt: and completion: as templates over the columns"
    return f'write for example prompt: "{{{columns[0]}}}" and completion: " {{{columns[-1]}}}"'
