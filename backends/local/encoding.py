"""Encoding of data-file lines into token ids and labels, and batches of similar length.

A language model sees `bos + tokens(prompt) + tokens(completion)`. Prompt and completion are
tokenized separately, so that the boundary never moves and a label has the same tokens after every
prompt. A completion ends with the data set's stop sequence. If there is none, the tokenizer's
end-of-sequence token is added, so that generation ends by itself. A prompt that is too long loses
its beginning. A completion is never cut.

A conversation may have several answers to train; see `conversations`. It becomes one sequence of
texts that are targets or not, each tokenized separately, or several sequences. A conversation that
is too long loses its earliest exchanges, but not its system prompt.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.contract import BackendError, Dataset
from backends.local.conversations import Conversation, TrainingText
from backends.local.example_template import ExampleTemplate
from backends.local.model_source import user_error
from backends.model_packages.chat_text import questions

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]
Line = Mapping[str, Any]

WINDOW_BATCHES = 16
"""Examples are sorted by length only inside windows of this many batches, so that their order stays
close to random.
"""


@dataclass(frozen=True)
class AnswerCounts:
    """How many answers the sequences train, how many they do not, and why.

    `lost` answers are in exchanges that a conversation lost because it is too long, or after
    messages that the chat template rejects. `split` counts the conversations whose answers needed
    several sequences.
    """

    trained: int
    lost: int = 0
    split: int = 0


@dataclass(frozen=True)
class CausalData:
    """Encoded sequences of a language model, one per example unless a conversation needs several.

    `targets[i]` says of each token of `ids[i]` whether it is trained and measured. The first token
    of a sequence never is, because no token precedes it; the last one always is.

    `label_ids` holds the tokens of each allowed completion and `labels[i]` the index of the correct
    one. Both are None if the data set has no labels. With labels, all targets of a sequence are at
    its end. `truncated` counts the examples that lost their beginning.
    """

    ids: tuple[Ids, ...]
    targets: tuple[Flags, ...]
    labels: Ids | None
    label_ids: tuple[Ids, ...] | None
    truncated: int
    answers: AnswerCounts

    @property
    def lengths(self) -> Ids:
        """The number of tokens of each sequence, (N,)."""
        return np.array([len(sequence) for sequence in self.ids], dtype=np.int64)

    @cached_property
    def completion_starts(self) -> Ids:
        """The index of the first target of each sequence, at least 1, (N,)."""
        return np.array([int(flags.argmax()) for flags in self.targets], dtype=np.int64)

    @cached_property
    def target_counts(self) -> Ids:
        """The number of targets of each sequence, at least 1, (N,)."""
        return np.array([int(flags.sum()) for flags in self.targets], dtype=np.int64)

    def take(self, indices: Sequence[int]) -> CausalData:
        """Return the sequences at `indices`, in that order. The counts stay those of all data."""
        labels = None if self.labels is None else self.labels[list(indices)]
        ids, targets = tuple(self.ids[i] for i in indices), tuple(self.targets[i] for i in indices)
        return CausalData(ids, targets, labels, self.label_ids, self.truncated, self.answers)


@dataclass(frozen=True)
class ClassData:
    """Encoded examples of an encoder: token ids, segment ids (None if the model has none), and
    label indices.
    """

    ids: tuple[Ids, ...]
    segments: tuple[Ids, ...] | None
    labels: Ids
    truncated: int

    @property
    def lengths(self) -> Ids:
        """The number of tokens of each example, (N,)."""
        return np.array([len(example) for example in self.ids], dtype=np.int64)

    def take(self, indices: Sequence[int]) -> ClassData:
        """Return the examples at `indices`, in that order."""
        segments = None if self.segments is None else tuple(self.segments[i] for i in indices)
        return ClassData(tuple(self.ids[i] for i in indices), segments, self.labels[list(indices)], self.truncated)


EncodedData = CausalData | ClassData


def read_lines(path: str) -> list[dict[str, Any]]:
    """Read a JSON-lines file. Raises BackendError (user) if it is missing, empty or malformed."""
    try:
        with Path(path).open(encoding="utf-8") as stream:
            lines = [json.loads(line) for line in stream if line.strip()]
    except OSError as error:
        raise user_error(f"the data file {path} cannot be read", "prepare the data again") from error
    except ValueError as error:
        raise user_error(f"the data file {path} is not JSON lines: {error}", "prepare the data again") from error
    if not lines:
        raise user_error(f"the data file {path} is empty", "give at least one example")
    return lines


@contextmanager
def missing_fields_reported(path: str) -> Iterator[None]:
    """Translate the error for a line without a required field into BackendError (user) that names
    the file.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise user_error(f"a line of {path} lacks {error}", "prepare the data again") from error


# ----------------------------------------------------------------------------------------- encoding
def encode_causal(tokenizer: Any, lines: Sequence[Line], dataset: Dataset, max_length: int) -> CausalData:
    """Encode examples for a language model, each in sequences of at most `max_length` tokens.

    Raises BackendError (user) for a completion that is empty, too long for `max_length`, or not an
    allowed label.
    """
    template = ExampleTemplate(tokenizer, dataset.layout, dataset.stop)
    if not dataset.labels and not template.has_end:
        raise user_error(
            "the tokenizer has no end-of-sequence token, so a generated answer would never end",
            "set data.stop, or name `eos_token` in the model's tokenizer_config.json",
        )
    if dataset.layout == "chat" and not dataset.labels:
        return _ConversationEncoder(template, dataset, max_length).encode(lines)
    label_ids = labels = None
    if dataset.labels:
        label_ids = label_tokens(template, lines[0], dataset.labels)
        labels = label_indices([template.answer(line) for line in lines], dataset.labels)
        completions = [label_ids[n].tolist() for n in labels]
    else:
        completions = template.tokenize_continuations([template.completion(line) for line in lines])
    longest = _longest([*enumerate(completions, 1), *((1, label) for label in label_ids or ())], max_length)
    prompts, truncated = template.tokenize_prompts(lines, max_length - longest)
    rows = [
        _Row([(prompt, False), (completion, True)]) for prompt, completion in zip(prompts, completions, strict=True)
    ]
    return CausalData(
        ids=tuple(row.ids for row in rows),
        targets=tuple(row.targets for row in rows),
        labels=labels,
        label_ids=label_ids,
        truncated=truncated,
        answers=AnswerCounts(len(rows)),
    )


def _longest(completions: Iterable[tuple[int, Sequence[int] | Ids]], max_length: int) -> int:
    """Return the length of the longest of these completions, each with the number of its example.

    Raises BackendError (user) for one that is empty, or leaves no room for a prompt.
    """
    longest = 0
    for number, completion in completions:
        if not len(completion):
            raise user_error(f"example {number} has an empty completion", "remove it, or add a stop sequence")
        longest = max(longest, len(completion))
    if longest >= max_length:
        raise user_error(
            f"a completion has {longest} tokens, but prompt and completion together may have at most {max_length}",
            "raise backend.max_length if the model allows it, or shorten the completions",
        )
    return longest


class _Row:
    """A sequence of pieces, each with its tokens, and whether they are targets."""

    def __init__(self, pieces: Sequence[tuple[Sequence[int], bool]]) -> None:
        self.pieces = pieces

    @property
    def ids(self) -> Ids:
        return np.array([token for tokens, _ in self.pieces for token in tokens], dtype=np.int64)

    @property
    def targets(self) -> Flags:
        return np.repeat([is_target for _, is_target in self.pieces], [len(tokens) for tokens, _ in self.pieces])

    @property
    def last(self) -> Sequence[int]:
        """The tokens of the last answer."""
        return self.pieces[-1][0]

    def __len__(self) -> int:
        return sum(len(tokens) for tokens, _ in self.pieces)


class _ConversationEncoder:
    """Encodes conversations for training on their answers."""

    def __init__(self, template: ExampleTemplate, dataset: Dataset, max_length: int) -> None:
        self._template, self._writer = template, template.conversations
        self._train_on, self._max_length = dataset.train_on, max_length

    def encode(self, lines: Sequence[Line]) -> CausalData:
        """Return the data. `encode_causal` says which errors it raises."""
        texts: list[TrainingText] = []
        numbers: list[int] = []  # of the line of each text
        finals: list[int] = []  # the indices of the texts that train the last answer of a line
        answers = split = 0
        for number, line in enumerate(lines, 1):
            conversation = Conversation.of(line, self._train_on)
            if not conversation.targets:
                message = f"example {number} has no answer to train"
                raise user_error(message, "remove it, or end it with an answer whose weight is not 0")
            answers += len(conversation.targets)
            try:
                own = self._writer.training_texts(conversation)
            except BackendError as error:
                raise user_error(f"example {number}: {error.failure.message}", error.failure.detail) from error
            texts += own
            numbers += [number] * len(own)
            finals.append(len(texts) - 1)
            split += len(own) > 1
        rows = self._rows(texts)
        longest = _longest([(numbers[n], rows[n].last) for n in finals], self._max_length)
        kept: list[_Row] = []
        cut: set[int] = set()
        for number, text, row in zip(numbers, texts, rows, strict=True):
            fitted = self._fitted(text, row, longest)
            if fitted != [row]:
                cut.add(number)
            kept += fitted
        trained = sum(is_target for row in kept for _, is_target in row.pieces)
        return CausalData(
            ids=tuple(row.ids for row in kept),
            targets=tuple(row.targets for row in kept),
            labels=None,
            label_ids=None,
            truncated=len(cut),
            answers=AnswerCounts(trained, answers - trained, split),
        )

    def _rows(self, texts: Sequence[TrainingText]) -> list[_Row]:
        """Tokenize texts, each piece separately, so that targets are whole tokens."""
        template = self._template
        firsts = template.tokenize([text.texts[0] for text in texts])
        contexts = iter(template.tokenize_inner([piece for text in texts for piece in text.texts[2::2]]))
        answers = [template.without_eos(piece) for text in texts for piece in text.texts[1::2]]
        targets = iter(template.tokenize_continuations(answers))
        rows = []
        for text, first in zip(texts, firsts, strict=True):
            pieces: list[tuple[Sequence[int], bool]] = [(template.cut_prompt(first, sys.maxsize), False)]
            pieces.append((next(targets), True))
            for _ in text.texts[2::2]:
                pieces += [(next(contexts), False), (next(targets), True)]
            rows.append(_Row(pieces))
        return rows

    def _fitted(self, text: TrainingText, row: _Row, longest: int = 0) -> list[_Row]:
        """Return the row if it fits, else the rows that train what a shorter conversation has.

        A single question leaves room for an answer of `longest` tokens, as every prompt does.
        """
        conversation = text.conversation
        before = conversation.messages[:-1]
        is_single = len(text.texts) == 2 and len(questions(before)) < 2
        prompt_limit = self._max_length - max(longest, len(row.last))
        if len(row) <= self._max_length and not (is_single and len(row) - len(row.last) > prompt_limit):
            return [row]
        if prompt_limit <= 0:
            return []
        kept = self._template.fitting(before, conversation.tools, text.texts[-1], self._max_length)
        if len(kept) < len(before):
            texts = self._writer.training_texts(conversation.of_messages([*kept, len(before)]))
            rows = self._rows(texts)
            return [fitted for pair in zip(texts, rows, strict=True) for fitted in self._fitted(*pair)]
        prompt = self._template.tokenize([text.prompt])[0]
        return [_Row([(self._template.cut_prompt(prompt, prompt_limit), False), (row.last, True)])]


def label_tokens(template: ExampleTemplate, line: Line, labels: Sequence[str]) -> tuple[Ids, ...]:
    """Return the tokens of each label as the completion of `line`."""
    rendered = template.tokenize_continuations([template.completion_for(line, label) for label in labels])
    return tuple(np.array(tokens, dtype=np.int64) for tokens in rendered)


def encode_classes(
    tokenizer: Any, lines: Sequence[Line], dataset: Dataset, max_length: int, with_segment_ids: bool
) -> ClassData:
    """Encode examples for an encoder: two segments as a pair, any other number joined into one
    text.

    `with_segment_ids` is for models that distinguish the segments of a pair. Raises BackendError
    (user) for a completion that is not an allowed label.
    """
    template = ExampleTemplate(tokenizer, dataset.layout, dataset.stop)
    ids, segments, truncated = encode_segments(tokenizer, lines, max_length, with_segment_ids)
    labels = label_indices([template.answer(line) for line in lines], dataset.labels)
    return ClassData(ids, segments, labels, truncated)


def encode_segments(
    tokenizer: Any, lines: Sequence[Line], max_length: int, with_segment_ids: bool
) -> tuple[tuple[Ids, ...], tuple[Ids, ...] | None, int]:
    """Return token ids, segment ids (None without `with_segment_ids`), and how many examples were
    truncated.
    """
    pairs, options = [_segments(line) for line in lines], {"verbose": False, "return_token_type_ids": True}
    encoded = [tokenizer(*pair, **options) for pair in pairs]
    truncated = sum(len(example["input_ids"]) > max_length for example in encoded)
    if truncated:
        encoded = [tokenizer(*pair, truncation=True, max_length=max_length, **options) for pair in pairs]
    ids = tuple(np.array(example["input_ids"], dtype=np.int64) for example in encoded)
    if not with_segment_ids:
        return ids, None, truncated
    return ids, tuple(np.array(example["token_type_ids"], dtype=np.int64) for example in encoded), truncated


def _segments(line: Line) -> tuple[str, ...]:
    parts = [str(segment) for segment in line.get("segments") or ()]
    if "messages" in line:
        messages = line["messages"]
        prompt_messages = messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages
        parts = [str(message["content"]) for message in prompt_messages]
    if not parts:
        parts = [str(line["prompt"])]
    return tuple(parts) if len(parts) == 2 else ("\n".join(parts),)


def label_indices(answers: Sequence[str], labels: Sequence[str]) -> Ids:
    """Return the label index of each answer.

    Raises BackendError (user) for an answer that is not a label.
    """
    index = {label: n for n, label in enumerate(labels)}
    for number, answer in enumerate(answers, 1):
        if answer not in index:
            raise user_error(f"example {number} has the completion {answer!r}, which is not one of the labels")
    return np.array([index[answer] for answer in answers], dtype=np.int64)


# ------------------------------------------------------------------------------------------ batches
def epoch_batches(lengths: Ids, batch_size: int, seed: int, epoch: int) -> list[Ids]:
    """Return the batches of an epoch as arrays of example indices, each example once.

    The result depends only on the arguments. Examples are shuffled, sorted by length inside windows
    of `WINDOW_BATCHES` batches, and cut into batches; then the batches are shuffled. Each example
    is equally likely at every position of the epoch. Only the last batch cut may be smaller than
    `batch_size`. Inside a batch, examples are in ascending order of length.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    window_size = batch_size * WINDOW_BATCHES
    windows = [order[start : start + window_size] for start in range(0, len(order), window_size)]
    order = np.concatenate([window[np.argsort(lengths[window], kind="stable")] for window in windows])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[n] for n in random.permutation(len(batches))]


def token_batches(lengths: Ids, max_tokens: int) -> list[Ids]:
    """Return batches of example indices in ascending order of length.

    A batch has at most `max_tokens` tokens, padding included, or holds a single example.
    """
    order, batches, start = np.argsort(lengths, kind="stable"), [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > max_tokens:
            batches.append(order[start:end])
            start = end
    return batches


def pad(rows: Sequence[Ids | Flags], value: int) -> Ids:
    """Return the rows as one matrix (B, T), padded with `value` on the right."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for n, row in enumerate(rows):
        padded[n, : len(row)] = row
    return padded
