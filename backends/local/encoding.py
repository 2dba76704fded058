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
from backends.local.conversations import Conversation, ConversationText, TrainingText
from backends.local.model_source import user_error
from backends.local.special_tokens import stop_text
from backends.model_packages.chat_text import Message, Tools, fitting, messages_before_answer, questions, turn_end

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]
Line = Mapping[str, Any]

_ANCHOR = "\n"

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


# ---------------------------------------------------------------------------------------- templates
@dataclass(frozen=True)
class ExampleTemplate:
    """Conversion of a line into prompt and completion.

    `chat` uses the tokenizer's chat template if it has one.
    """

    tokenizer: Any
    layout: str
    stop: str

    @property
    def conversations(self) -> ConversationText:
        """The writer of conversations, for the layout `chat`."""
        return ConversationText(self.tokenizer)

    @property
    def eos(self) -> tuple[int, ...]:
        """The tokens to add to a completion: end-of-sequence, or nothing if a stop sequence or
        template ends it.
        """
        own_end = self.stop or (self.layout == "chat" and turn_end(self.tokenizer).strip())
        return () if own_end or self.tokenizer.eos_token_id is None else (self.tokenizer.eos_token_id,)

    @property
    def stop_text(self) -> str:
        """The text before which a generated answer ends; empty if only tokens end it."""
        return self.stop or (stop_text(self.tokenizer) if self.layout == "chat" else "")

    @property
    def has_end(self) -> bool:
        """Whether something marks the end of a completion, so that generation can stop."""
        return bool(self.eos or self.stop or (self.layout == "chat" and turn_end(self.tokenizer).strip()))

    @property
    def bos(self) -> tuple[int, ...]:
        """The tokens before a prompt: beginning-of-sequence if the tokenizer itself adds it, else
        nothing.
        """
        if self.layout == "chat" and self.tokenizer.chat_template:
            return ()  # the chat template contains it
        bos = self.tokenizer.bos_token_id
        with_special = self.tokenizer("a", verbose=False)["input_ids"]
        return (bos,) if bos is not None and with_special[:1] == [bos] else ()

    def prompt(self, line: Line) -> str:
        """Return the text before the completion."""
        if self.layout == "completion":
            return str(line["prompt"])
        return self.conversations.render(messages_before_answer(line), line.get("tools") or (), for_generation=True)

    def completion(self, line: Line) -> str:
        """Return the text of the line's own completion."""
        return self.completion_for(line, str(self.answer(line)))

    def completion_for(self, line: Line, answer: str) -> str:
        """Return the text that the line's completion would have if its answer were `answer`."""
        if self.layout == "completion":
            return answer
        message = {"role": "assistant", "content": answer}
        return self.without_eos(
            self.conversations.answer(messages_before_answer(line), message, line.get("tools") or ())
        )

    def without_eos(self, answer: str) -> str:
        """Return the text of an answer without an end that `eos` adds as a token."""
        return (
            answer.removesuffix(self.tokenizer.eos_token) if self.eos and not self.tokenizer.chat_template else answer
        )

    def answer(self, line: Line) -> str:
        """Return the correct answer exactly as the file has it."""
        return str(line["completion"] if self.layout == "completion" else line["messages"][-1]["content"])

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts as they are, without special tokens."""
        if not texts:
            return []
        encoded: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return encoded

    def tokenize_continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts that follow another text, and add `eos`."""
        eos = self.eos
        return [[*tokens, *eos] for tokens in self.tokenize_inner(texts)]

    def tokenize_inner(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts that follow another text.

        Some tokenizers insert a space at the beginning of a text. Each text is therefore tokenized
        after an anchor whose tokens are then removed.
        """
        anchor = self.tokenize([_ANCHOR])[0]
        continuations = self.tokenize([_ANCHOR + text for text in texts])
        merged = [n for n, tokens in enumerate(continuations) if tokens[: len(anchor)] != anchor]
        result = [tokens[len(anchor) :] for tokens in continuations]
        for n, tokens in zip(merged, self.tokenize([texts[n] for n in merged]), strict=True):
            result[n] = tokens  # the tokenizer has merged the anchor with the text
        return result

    def tokenize_prompts(self, lines: Sequence[Line], limit: int) -> tuple[list[list[int]], int]:
        """Return the tokens of each prompt, and how many prompts lost their beginning to fit into
        `limit` tokens.

        A conversation loses its earliest exchanges before it loses a part of the last question.
        """
        encoded = self.tokenize([self.prompt(line) for line in lines])
        room = max(limit - len(self.bos), 0)
        cut = [n for n, tokens in enumerate(encoded) if len(tokens) > room]
        for n in cut if self.layout == "chat" else ():
            before, tools = messages_before_answer(lines[n]), lines[n].get("tools") or ()
            kept = [before[index] for index in self.fitting(before, tools, "", limit)]
            encoded[n] = self.tokenize([self.conversations.render(kept, tools, for_generation=True)])[0]
        return [self.cut_prompt(tokens, limit) for tokens in encoded], len(cut)

    def cut_prompt(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Return a prompt of at most `limit` tokens, and at least one: without its beginning."""
        bos = self.bos
        room = max(limit - len(bos), 0)
        # A completion's first token must be predicted from some token, even after an empty prompt.
        return [*bos, *tokens[max(len(tokens) - room, 0) :]] or [self.tokenizer.eos_token_id or 0]

    def fitting(self, before: Sequence[Message], tools: Tools, answer: str, limit: int) -> list[int]:
        """Return the indices of the messages that stay, without early exchanges, so that the prompt
        and the text of its answer fit into `limit` tokens; see `chat_text.fitting`.
        """

        def fits(messages: Sequence[Message]) -> bool:
            text = self.conversations.render(messages, tools, for_generation=True) + answer
            return len(self.bos) + len(self.tokenize([text])[0]) <= limit

        return fitting(before, fits)


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
        answers = split = 0
        for number, line in enumerate(lines, 1):
            conversation = Conversation.of(line, self._train_on)
            if not conversation.targets:
                message = f"example {number} has no answer to train"
                raise user_error(message, "remove it, or end it with an answer whose weight is not 0")
            answers += len(conversation.targets)
            try:
                own, _ = self._writer.training_texts(conversation)
            except BackendError as error:
                raise user_error(f"example {number}: {error.failure.message}", error.failure.detail) from error
            texts += own
            numbers += [number] * len(own)
            split += len(own) > 1
        rows = self._rows(texts)
        is_last = [n + 1 == len(numbers) or numbers[n + 1] != number for n, number in enumerate(numbers)]
        finals = [(number, row.last) for number, row, last in zip(numbers, rows, is_last, strict=True) if last]
        longest = _longest(finals, self._max_length)
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
            texts, _ = self._writer.training_texts(conversation.of_messages([*kept, len(before)]))
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


def pad(rows: Sequence[Ids | Flags], value: int, left: bool = False) -> Ids:
    """Return the rows as one matrix (B, T), padded with `value` on the right, or on the left if
    `left`.
    """
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for n, row in enumerate(rows):
        padded[n, slice(-len(row), None) if left else slice(len(row))] = row
    return padded
