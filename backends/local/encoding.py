"""Encoding of data-file lines into token ids and labels, and batches of similar length.

A language model sees `bos + tokens(prompt) + tokens(completion)`. Prompt and completion are
tokenized separately, so that the boundary never moves and a label has the same tokens after every
prompt. A completion ends with the data set's stop sequence. If there is none, the tokenizer's
end-of-sequence token is added, so that generation ends by itself. A prompt that is too long loses
its beginning. A completion is never cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.contract import Dataset
from backends.local.model_source import user_error
from backends.local.special_tokens import render, stop_text, turn_end

Ids = NDArray[np.int64]
Line = Mapping[str, Any]

_ANCHOR = "\n"

WINDOW_BATCHES = 16
"""Examples are sorted by length only inside windows of this many batches, so that their order stays
close to random.
"""


@dataclass(frozen=True)
class CausalData:
    """Encoded prompt/completion examples of a language model.

    `ids[i]` holds prompt and completion of example i, and `completion_starts[i]` (at least 1) is
    the index of the completion's first token. `label_ids` holds the tokens of each allowed
    completion and `labels[i]` the index of the correct one. Both are None if the data set has no
    labels. `truncated` counts the prompts that lost their beginning.
    """

    ids: tuple[Ids, ...]
    completion_starts: Ids
    labels: Ids | None
    label_ids: tuple[Ids, ...] | None
    truncated: int

    @property
    def lengths(self) -> Ids:
        """The number of tokens of each example, (N,)."""
        return np.array([len(example) for example in self.ids], dtype=np.int64)

    def take(self, indices: Sequence[int]) -> CausalData:
        """Return the examples at `indices`, in that order."""
        labels = None if self.labels is None else self.labels[list(indices)]
        ids = tuple(self.ids[i] for i in indices)
        return CausalData(ids, self.completion_starts[list(indices)], labels, self.label_ids, self.truncated)


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
        messages = self._prompt_messages(line)
        if self.tokenizer.chat_template:
            return render(self.tokenizer, messages, for_generation=True)
        return "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant:"

    def completion(self, line: Line) -> str:
        """Return the text of the line's own completion."""
        return self.completion_for(line, str(self.answer(line)))

    def completion_for(self, line: Line, answer: str) -> str:
        """Return the text that the line's completion would have if its answer were `answer`."""
        if self.layout == "completion":
            return answer
        if not self.tokenizer.chat_template:
            return f" {answer}"
        messages = [*self._prompt_messages(line), {"role": "assistant", "content": answer}]
        whole = render(self.tokenizer, messages)
        prompt = self.prompt(line)
        return whole[len(prompt) :] if whole.startswith(prompt) else answer + (self.tokenizer.eos_token or "")

    def answer(self, line: Line) -> str:
        """Return the correct answer exactly as the file has it."""
        return str(line["completion"] if self.layout == "completion" else line["messages"][-1]["content"])

    @staticmethod
    def _prompt_messages(line: Line) -> list[dict[str, str]]:
        messages = list(line["messages"])
        return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts as they are, without special tokens."""
        if not texts:
            return []
        encoded: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return encoded

    def tokenize_continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts that follow another text, and add `eos`.

        Some tokenizers insert a space at the beginning of a text. Each text is therefore tokenized
        after an anchor whose tokens are then removed.
        """
        anchor = self.tokenize([_ANCHOR])[0]
        continuations = self.tokenize([_ANCHOR + text for text in texts])
        merged = [n for n, tokens in enumerate(continuations) if tokens[: len(anchor)] != anchor]
        result = [tokens[len(anchor) :] for tokens in continuations]
        for n, tokens in zip(merged, self.tokenize([texts[n] for n in merged]), strict=True):
            result[n] = tokens  # the tokenizer has merged the anchor with the text
        eos = self.eos
        return [[*tokens, *eos] for tokens in result]

    def tokenize_prompts(self, lines: Sequence[Line], limit: int) -> tuple[list[list[int]], int]:
        """Return the tokens of each prompt, and how many prompts lost their beginning to fit into
        `limit` tokens.
        """
        bos, encoded = list(self.bos), self.tokenize([self.prompt(line) for line in lines])
        room = max(limit - len(bos), 0)
        cut = sum(len(tokens) > room for tokens in encoded)
        # A completion's first token must be predicted from some token, even after an empty prompt.
        placeholder = [self.tokenizer.eos_token_id or 0]
        return [bos + tokens[max(len(tokens) - room, 0) :] or placeholder for tokens in encoded], cut


# ----------------------------------------------------------------------------------------- encoding
def encode_causal(tokenizer: Any, lines: Sequence[Line], dataset: Dataset, max_length: int) -> CausalData:
    """Encode examples for a language model, each in at most `max_length` tokens.

    Raises BackendError (user) for a completion that is empty, too long for `max_length`, or not an
    allowed label.
    """
    template = ExampleTemplate(tokenizer, dataset.layout, dataset.stop)
    if not dataset.labels and not template.has_end:
        raise user_error(
            "the tokenizer has no end-of-sequence token, so a generated answer would never end",
            "set data.stop, or name `eos_token` in the model's tokenizer_config.json",
        )
    completions = template.tokenize_continuations([template.completion(line) for line in lines])
    label_ids = labels = None
    if dataset.labels:
        label_ids = label_tokens(template, lines[0], dataset.labels)
        labels = label_indices([template.answer(line) for line in lines], dataset.labels)
        completions = [label_ids[n].tolist() for n in labels]
    for number, completion in enumerate(completions, 1):
        if not completion:
            raise user_error(f"example {number} has an empty completion", "remove it, or add a stop sequence")
    longest = max([len(completion) for completion in completions] + [len(label) for label in label_ids or ()])
    if longest >= max_length:
        raise user_error(
            f"a completion has {longest} tokens, but prompt and completion together may have at most {max_length}",
            "raise backend.max_length if the model allows it, or shorten the completions",
        )
    prompts, truncated = template.tokenize_prompts(lines, max_length - longest)
    return CausalData(
        ids=tuple(np.array(p + c, dtype=np.int64) for p, c in zip(prompts, completions, strict=True)),
        completion_starts=np.array([len(prompt) for prompt in prompts], dtype=np.int64),
        labels=labels,
        label_ids=label_ids,
        truncated=truncated,
    )


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


def pad(rows: Sequence[Ids], value: int, left: bool = False) -> Ids:
    """Return the rows as one matrix (B, T), padded with `value` on the right, or on the left if
    `left`.
    """
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for n, row in enumerate(rows):
        padded[n, slice(-len(row), None) if left else slice(len(row))] = row
    return padded
