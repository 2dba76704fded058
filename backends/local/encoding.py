"""From lines of a data file to token ids, masks and batches of similar length.

A language model sees `bos + tokens(prompt) + tokens(completion)`. Both texts are tokenised on their own, so that the
boundary never moves and a label has the same tokens after every prompt. A completion ends with the data set's stop
sequence; where there is none, the tokenizer's end-of-sequence token is added, so that generation ends by itself.
Prompts that are too long lose their beginning; completions are never cut.
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

Ids = NDArray[np.int64]
Line = Mapping[str, Any]

_ANCHOR = "\n"

WINDOW_BATCHES = 16
"""Examples are sorted by length inside windows of this many batches, and nowhere else: order stays close to random."""


@dataclass(frozen=True)
class CausalData:
    """Encoded prompt/completion examples. `starts[i]`, at least 1, is where the completion begins in
    `ids[i]`.

    `label_ids` are the tokens of each allowed completion and `labels[i]` the index of the right one; both are None
    where the data set has no labels. `truncated` prompts lost their beginning.
    """

    ids: tuple[Ids, ...]
    starts: Ids
    labels: Ids | None
    label_ids: tuple[Ids, ...] | None
    truncated: int

    @property
    def lengths(self) -> Ids:
        """Tokens of each example."""
        return np.array([len(each) for each in self.ids], dtype=np.int64)

    def take(self, indices: Sequence[int]) -> CausalData:
        """Return some of the examples."""
        labels = None if self.labels is None else self.labels[list(indices)]
        ids = tuple(self.ids[i] for i in indices)
        return CausalData(ids, self.starts[list(indices)], labels, self.label_ids, self.truncated)


@dataclass(frozen=True)
class ClassData:
    """Encoded examples of an encoder: token ids, segment ids where the model has them, and the index of the label."""

    ids: tuple[Ids, ...]
    segments: tuple[Ids, ...] | None
    labels: Ids
    truncated: int

    @property
    def lengths(self) -> Ids:
        """Tokens of each example."""
        return np.array([len(each) for each in self.ids], dtype=np.int64)

    def take(self, indices: Sequence[int]) -> ClassData:
        """Return some of the examples."""
        segments = None if self.segments is None else tuple(self.segments[i] for i in indices)
        return ClassData(tuple(self.ids[i] for i in indices), segments, self.labels[list(indices)], self.truncated)


Data = CausalData | ClassData


def read_lines(path: str) -> list[dict[str, Any]]:
    """Read a JSON-lines file. Raises BackendError (user) where it is missing or malformed."""
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
def readable(path: str) -> Iterator[None]:
    """Say which file it is where a line lacks a field."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise user_error(f"a line of {path} lacks {error}", "prepare the data again") from error


# ---------------------------------------------------------------------------------------------------------------- texts
@dataclass(frozen=True)
class ExampleTemplate:
    """How lines become a prompt and a completion; `chat` uses the tokenizer's own chat template where it has one."""

    tokenizer: Any
    layout: str
    stop: str

    @property
    def eos(self) -> tuple[int, ...]:
        """What is added to a completion: the end-of-sequence token where no stop sequence ends it."""
        own_end = self.stop or (self.layout == "chat" and self.tokenizer.chat_template)
        return () if own_end or self.tokenizer.eos_token_id is None else (self.tokenizer.eos_token_id,)

    @property
    def bos(self) -> tuple[int, ...]:
        """What goes before a prompt: the beginning-of-sequence token where the tokenizer itself puts it there."""
        if self.layout == "chat" and self.tokenizer.chat_template:
            return ()  # the template holds it
        bos = self.tokenizer.bos_token_id
        with_special = self.tokenizer("a", verbose=False)["input_ids"]
        return (bos,) if bos is not None and with_special[:1] == [bos] else ()

    def prompt(self, line: Line) -> str:
        """Return the text before the completion."""
        if self.layout == "completion":
            return str(line["prompt"])
        messages = self._messages(line)
        if self.tokenizer.chat_template:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return "".join(f"{each['role']}: {each['content']}\n" for each in messages) + "assistant:"

    def completion(self, line: Line) -> str:
        """Return the completion's text."""
        return self.label(line, str(self.answer(line)))

    def label(self, line: Line, content: str) -> str:
        """Return the completion's text where the answer to a line were `content`."""
        if self.layout == "completion":
            return content
        if not self.tokenizer.chat_template:
            return f" {content}"
        messages = [*self._messages(line), {"role": "assistant", "content": content}]
        whole = str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        prompt = self.prompt(line)
        return whole[len(prompt) :] if whole.startswith(prompt) else content + (self.tokenizer.eos_token or "")

    def answer(self, line: Line) -> str:
        """Return the right answer as it stands in the file."""
        return str(line["completion"] if self.layout == "completion" else line["messages"][-1]["content"])

    @staticmethod
    def _messages(line: Line) -> list[dict[str, str]]:
        messages = list(line["messages"])
        return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise texts as they are, without special tokens."""
        if not texts:
            return []
        encoded: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return encoded

    def continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise texts as they are behind another text: some tokenizers put a space before what begins a text."""
        before = self.tokens([_ANCHOR])[0]
        anchored = self.tokens([_ANCHOR + each for each in texts])
        plain = [n for n, each in enumerate(anchored) if each[: len(before)] != before]
        result = [each[len(before) :] for each in anchored]
        for n, each in zip(plain, self.tokens([texts[n] for n in plain]), strict=True):
            result[n] = each  # the anchor has merged with the text
        return [[*each, *self.eos] for each in result]

    def prompt_tokens(self, lines: Sequence[Line], limit: int) -> tuple[list[list[int]], int]:
        """Return the prompts' tokens, their beginning cut where they exceed `limit`, and how many were cut."""
        bos, encoded = list(self.bos), self.tokens([self.prompt(each) for each in lines])
        room = max(limit - len(bos), 0)
        cut = sum(len(each) > room for each in encoded)
        # A completion's first token must be predicted from something, even where the prompt is empty.
        nothing = [self.tokenizer.eos_token_id or 0]
        return [bos + each[max(len(each) - room, 0) :] or nothing for each in encoded], cut


# ------------------------------------------------------------------------------------------------------------- encoding
def encode_causal(tokenizer: Any, lines: Sequence[Line], dataset: Dataset, max_length: int) -> CausalData:
    """Encode examples for a language model.

    Raises BackendError (user) where a completion is empty, longer than `max_length`, or not an allowed label.
    """
    template = ExampleTemplate(tokenizer, dataset.layout, dataset.stop)
    completions = template.continuations([template.completion(line) for line in lines])
    label_ids = labels = None
    if dataset.labels:
        label_ids = label_tokens(template, lines[0], dataset.labels)
        labels = label_indices([template.answer(each) for each in lines], dataset.labels)
        completions = [label_ids[n].tolist() for n in labels]
    for number, each in enumerate(completions, 1):
        if not each:
            raise user_error(f"example {number} has an empty completion", "remove it, or add a stop sequence")
    longest = max([len(each) for each in completions] + [len(each) for each in label_ids or ()])
    if longest >= max_length:
        raise user_error(
            f"a completion has {longest} tokens, with the prompt at most {max_length} fit",
            "raise backend.max_length where the model allows it, or shorten the completions",
        )
    prompts, truncated = template.prompt_tokens(lines, max_length - longest)
    return CausalData(
        ids=tuple(np.array(p + c, dtype=np.int64) for p, c in zip(prompts, completions, strict=True)),
        starts=np.array([len(each) for each in prompts], dtype=np.int64),
        labels=labels,
        label_ids=label_ids,
        truncated=truncated,
    )


def label_tokens(template: ExampleTemplate, line: Line, labels: Sequence[str]) -> tuple[Ids, ...]:
    """Return the tokens of each label as the completion of a line."""
    rendered = template.continuations([template.label(line, each) for each in labels])
    return tuple(np.array(each, dtype=np.int64) for each in rendered)


def encode_classes(tokenizer: Any, lines: Sequence[Line], dataset: Dataset, max_length: int, typed: bool) -> ClassData:
    """Encode examples for an encoder: two segments as a pair, any other number joined.

    `typed`: the model tells the segments of a pair apart. Raises BackendError (user) where a completion is not an
    allowed label.
    """
    template = ExampleTemplate(tokenizer, dataset.layout, dataset.stop)
    ids, segments, truncated = encode_segments(tokenizer, lines, max_length, typed)
    labels = label_indices([template.answer(each) for each in lines], dataset.labels)
    return ClassData(ids, segments, labels, truncated)


def encode_segments(
    tokenizer: Any, lines: Sequence[Line], max_length: int, typed: bool
) -> tuple[tuple[Ids, ...], tuple[Ids, ...] | None, int]:
    """Return token ids, segment ids (None unless `typed`), and how many examples were cut to `max_length`."""
    pairs, options = [_segments(each) for each in lines], {"verbose": False, "return_token_type_ids": True}
    encoded = [tokenizer(*pair, **options) for pair in pairs]
    truncated = sum(len(each["input_ids"]) > max_length for each in encoded)
    if truncated:
        encoded = [tokenizer(*pair, truncation=True, max_length=max_length, **options) for pair in pairs]
    ids = tuple(np.array(each["input_ids"], dtype=np.int64) for each in encoded)
    if not typed:
        return ids, None, truncated
    return ids, tuple(np.array(each["token_type_ids"], dtype=np.int64) for each in encoded), truncated


def _segments(line: Line) -> tuple[str, ...]:
    parts = [str(each) for each in line.get("segments") or ()]
    if "messages" in line:
        messages = line["messages"]
        given = messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages
        parts = [str(each["content"]) for each in given]
    if not parts:
        parts = [str(line["prompt"])]
    return tuple(parts) if len(parts) == 2 else ("\n".join(parts),)


def label_indices(answers: Sequence[str], labels: Sequence[str]) -> Ids:
    """Return the index of each answer among the labels. Raises BackendError (user) for an answer that is none."""
    index = {label: n for n, label in enumerate(labels)}
    unknown = next(((n, each) for n, each in enumerate(answers, 1) if each not in index), None)
    if unknown is not None:
        raise user_error(f"example {unknown[0]} has the completion {unknown[1]!r}, which is none of the labels")
    return np.array([index[each] for each in answers], dtype=np.int64)


# -------------------------------------------------------------------------------------------------------------- batches
def epoch_batches(lengths: Ids, batch_size: int, seed: int, epoch: int) -> list[Ids]:
    """Return the batches of an epoch, each example once; a function of its arguments alone.

    Examples are shuffled, sorted by length inside windows of `WINDOW_BATCHES` batches, cut into batches, and the
    batches are shuffled. Each example is equally likely at every place of the epoch. Only the last batch cut may be
    smaller than `batch_size`. Inside a batch, examples are in ascending length.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    window = batch_size * WINDOW_BATCHES
    parts = [order[start : start + window] for start in range(0, len(order), window)]
    order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[n] for n in random.permutation(len(batches))]


def token_batches(lengths: Ids, max_tokens: int) -> list[Ids]:
    """Return batches in ascending length, each of at most `max_tokens` tokens with padding, or of one example."""
    order, batches, start = np.argsort(lengths, kind="stable"), [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > max_tokens:
            batches.append(order[start:end])
            start = end
    return batches


def pad(rows: Sequence[Ids], value: int, left: bool = False) -> Ids:
    """Return rows as a matrix (B, T), filled with `value` on the right, or on the left."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for n, row in enumerate(rows):
        padded[n, slice(-len(row), None) if left else slice(len(row))] = row
    return padded
