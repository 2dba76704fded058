"""What a data set is about, found out from its first records: the texts, the answers, the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from sweeps.data.columns import AnswerKind, Column, answer_kind, choose_answer, choose_texts, columns_of
from sweeps.data.conversations import ChatLayout, Conversation, recognise
from sweeps.data.examples import DEFAULT_SEPARATOR, DEFAULT_STOP, SEPARATORS, STOPS, shared_ending
from sweeps.data.findings import Finding, capped, errors_as_problems
from sweeps.data.readers.record import Record
from sweeps.data.sources import Source, own_data
from sweeps.data.templates import FieldError
from sweeps.errors import Problem, UserInputError

SAMPLE = 20_000
"""The first records, which decide."""

READ = 200_000
"""How many records are read to find out the encoding."""

_ENCODINGS = ("utf-8", "cp1252", "latin-1")


@dataclass(frozen=True)
class Inspection:
    """What was found out. `prompt` and `completion` are templates without a separator; both are
    None for conversations, and for data that come as prompt and completion.

    `stop` is set if the default would cut an answer. `encoding` is the one that reads the file.

    `labels` counts the labels of a classification, the most frequent first; it is empty otherwise.
    `has_separator`: every text already ends with a separator. `other_columns` are not used.
    `sampled`: there are more records than `examples`. `other_script` is the share of letters beyond
    ASCII.
    """

    examples: int
    sampled: bool
    prompt: str | None
    completion: str | None
    text_columns: tuple[str, ...]
    answer_column: str
    answer_kind: AnswerKind
    labels: Mapping[str, int]
    layout: str
    has_separator: bool
    stop: str | None
    mean_answer_characters: float
    max_answer_characters: int
    other_columns: tuple[str, ...]
    other_script: float
    parts: tuple[str, ...]
    encoding: str = "utf-8"

    @property
    def imbalance(self) -> float:
        """How many times more often the most frequent label occurs than the rarest one."""
        return max(self.labels.values()) / min(self.labels.values()) if self.labels else 1.0


def inspect(place: str) -> Inspection:
    """Look at the first records of a file, a folder, an archive or a URL.

    A file that is no UTF-8 text is read again in the encodings of Windows. Raises UserInputError if
    nothing can be read, or if it is not clear what to learn from it.
    """
    for encoding in _ENCODINGS:
        source = own_data(place, encoding)
        records, sampled, found = _read(source)
        if not any(finding.code == "encoding" for finding in found):
            break
    if not records:
        raise UserInputError(errors_as_problems(capped(found)) or [Problem(place, "there is no example")])
    return replace(_inspected(records, sampled, tuple(source.parts)), encoding=encoding)


def _read(source: Source) -> tuple[list[Record], bool, list[Finding]]:
    """Return the first records, whether there are more, and what the readers found."""
    records: list[Record] = []
    found: list[Finding] = []
    count = 0
    for item in islice(source.parts["train"](), READ):
        if isinstance(item, Finding):
            found.append(item)
            continue
        count += 1
        if count <= SAMPLE:
            records.append(item)
    return records, count > SAMPLE, found


def _inspected(records: Sequence[Record], sampled: bool, parts: tuple[str, ...]) -> Inspection:
    names = list(records[0].fields)
    if (layout := recognise(names, records[0].fields)) is not None:
        try:
            return _conversations(records, sampled, layout, parts)
        except FieldError as problem:
            raise UserInputError([Problem(records[0].place, problem.message, problem.hint)]) from None
    columns = columns_of(records)
    by_path = {column.path: column for column in columns}
    is_prepared = {"prompt", "completion"} <= set(by_path)
    if is_prepared:
        texts, answer = [by_path["prompt"]], by_path["completion"]
    else:
        answer = choose_answer(columns, records[0])
        texts = choose_texts([column for column in columns if column is not answer], answer, records[0])
    kind = answer_kind(answer)
    separated = shared_ending(texts[-1].texts, SEPARATORS) is not None
    used = {answer.path, *(column.path for column in texts)}
    others = tuple(column.path for column in columns if column.path not in used and not column.is_constant)
    letters = "".join(char for column in texts for text in column.texts[:200] for char in text if char.isalpha())
    return Inspection(
        examples=len(records),
        sampled=sampled,
        prompt=None if is_prepared else "\n".join(_field(column.path) for column in texts),
        completion=None if is_prepared else _completion(answer),
        text_columns=tuple(column.path for column in texts),
        answer_column=answer.path,
        answer_kind=kind,
        labels=dict(answer.counts.most_common()) if kind == "label" else {},
        layout="prompt and completion" if is_prepared else "columns",
        has_separator=separated,
        stop=_stop(answer.texts),
        mean_answer_characters=sum(map(len, answer.texts)) / len(answer.texts),
        max_answer_characters=max(map(len, answer.texts)),
        other_columns=others,
        other_script=sum(not char.isascii() for char in letters) / max(len(letters), 1),
        parts=parts,
    )


def _conversations(records: Sequence[Record], sampled: bool, layout: ChatLayout, parts: tuple[str, ...]) -> Inspection:
    """Return the inspection of chat data. Single answers can be labels, as a column can."""
    conversations: list[Conversation] = []
    for record in records:
        with suppress(FieldError):
            conversations.append(layout.conversation(record.fields))
    if not conversations:
        layout.conversation(records[0].fields)  # raises what is wrong with it
    texts = tuple(str(found.messages[-1]["content"]) for found in conversations)
    answers = Column("answer", tuple(text for text in texts if text.strip()) or ("",), 1.0)
    is_single = all(sum(message["role"] == "assistant" for message in found.messages) == 1 for found in conversations)
    kind: AnswerKind = answer_kind(answers) if is_single else "text"
    letters = "".join(
        char
        for found in conversations[:200]
        for message in found.messages
        for char in str(message["content"])
        if char.isalpha()
    )
    return Inspection(
        *(len(records), sampled, None, None, (), "", kind),
        labels=dict(answers.counts.most_common()) if kind == "label" else {},
        layout=layout.name,
        has_separator=False,
        stop=None,
        mean_answer_characters=sum(map(len, answers.texts)) / len(answers.texts),
        max_answer_characters=max(map(len, answers.texts)),
        other_columns=(),
        other_script=sum(not char.isascii() for char in letters) / max(len(letters), 1),
        parts=parts,
    )


def _completion(answer: Column) -> str:
    """Return the template of the completion: it begins with the space that separates words."""
    begins_with_space = all(text.startswith(" ") for text in answer.texts)
    return _field(answer.path) if begins_with_space else f" {_field(answer.path)}"


def _field(path: str) -> str:
    return f"{{{path}}}"


def _stop(answers: Sequence[str]) -> str | None:
    """Return a stop sequence that no answer has, None if the one chosen anyway cuts none."""
    if shared_ending(answers, STOPS) or not any(DEFAULT_STOP in text.removesuffix(DEFAULT_STOP) for text in answers):
        return None
    unused = (stop for stop in STOPS if stop not in DEFAULT_SEPARATOR)
    return next((stop for stop in unused if not any(stop in text for text in answers)), None)
