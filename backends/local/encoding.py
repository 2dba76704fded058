"""Encoding of data-file lines into token ids and labels, and batches of similar length.

A language model sees `bos + tokens(prompt) + tokens(completion)`. Prompt and completion are
tokenized separately, so that the boundary never moves and a label has the same tokens after every
prompt. A completion ends with the data set's stop sequence. If there is none, the tokenizer's
end-of-sequence token is added, so that generation ends by itself. A prompt that does not fit beside
its own completion loses its beginning, one that does not fit beside every label of a classification
does, too; see `truncation`. `conversation_encoding` does the same for conversations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from backends.contract import Dataset
from backends.local.conversation_encoding import ConversationEncoder
from backends.local.encoded_data import AnswerCounts, CausalData, ClassData, Flags, Ids
from backends.local.example_template import ExampleTemplate
from backends.local.model_source import user_error
from backends.local.truncation import LengthLedger, LengthRule

Line = Mapping[str, Any]

WINDOW_BATCHES = 16
"""Examples are sorted by length only inside windows of this many batches, so that their order stays
close to random.
"""


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
def encode_causal(
    tokenizer: Any, lines: Sequence[Line], dataset: Dataset, rule: LengthRule, path: str = ""
) -> CausalData:
    """Encode examples for a language model, in sequences that obey the rule; `path` is their file.

    Raises BackendError (user) for a completion that is empty or not an allowed label, and for what
    the rule refuses.
    """
    template = ExampleTemplate(tokenizer, dataset.layout, dataset.stop)
    if not dataset.labels and not template.has_end:
        raise user_error(
            "the tokenizer has no end-of-sequence token, so a generated answer would never end",
            "set data.stop, or name `eos_token` in the model's tokenizer_config.json",
        )
    ledger = LengthLedger(rule, len(lines), path)
    if dataset.layout == "chat" and not dataset.labels:
        return ConversationEncoder(template, dataset, ledger).encode(lines)
    label_ids = labels = None
    if dataset.labels:
        label_ids = label_tokens(template, lines[0], dataset.labels)
        labels = label_indices([template.answer(line) for line in lines], dataset.labels)
        completions = [label_ids[n].tolist() for n in labels]
        _check_labels(label_ids, rule.max_length)
        # All labels are scored after each prompt, so that the longest one decides its room.
        reserved = [max(map(len, label_ids))] * len(lines)
    else:
        completions = template.tokenize_continuations([template.completion(line) for line in lines])
        _check_completions(completions)
        reserved = [len(completion) for completion in completions]
        ledger.take_long_completions(
            {number: length for number, length in enumerate(reserved, 1) if length >= rule.max_length}
        )
    whole = template.prompt_tokens(lines)
    rows: list[tuple[list[int], list[int]]] = []
    for n, (line, prompt, completion) in enumerate(zip(lines, whole, completions, strict=True)):
        room = rule.max_length - reserved[n]
        if room < 1:  # only a completion that is dropped or cut
            room = min(len(prompt), rule.least_prompt_room)
        fitted = template.fitted_prompt(line, prompt, room)
        kept = completion[: rule.max_length - len(fitted)]
        tokens_whole, tokens_kept = len(prompt) + len(completion), len(fitted) + len(kept)
        ledger.record(n + 1, tokens_whole, tokens_kept, prompt_is_cut=len(fitted) < len(prompt))
        rows.append((fitted, kept))
    truncation = ledger.close()
    chosen = [n for n in range(len(lines)) if n + 1 not in ledger.dropped]
    return CausalData(
        ids=tuple(np.array([*rows[n][0], *rows[n][1]], dtype=np.int64) for n in chosen),
        targets=tuple(np.repeat([False, True], [len(rows[n][0]), len(rows[n][1])]) for n in chosen),
        labels=None if labels is None else labels[chosen],
        label_ids=label_ids,
        truncation=truncation,
        answers=AnswerCounts(len(chosen)),
    )


def _check_completions(completions: Sequence[Sequence[int]]) -> None:
    for number, completion in enumerate(completions, 1):
        if not completion:
            raise user_error(f"example {number} has an empty completion", "remove it, or add a stop sequence")


def _check_labels(label_ids: Sequence[Ids], max_length: int) -> None:
    longest = max(map(len, label_ids))
    if not min(map(len, label_ids)):
        raise user_error("a label has no token", "remove the empty label, or add a stop sequence")
    if longest >= max_length:
        raise user_error(
            f"a label has {longest} tokens, but prompt and label together may have at most {max_length}",
            "raise backend.max_length if the model allows it, or shorten the labels",
        )


def label_tokens(template: ExampleTemplate, line: Line, labels: Sequence[str]) -> tuple[Ids, ...]:
    """Return the tokens of each label as the completion of `line`."""
    rendered = template.tokenize_continuations([template.completion_for(line, label) for label in labels])
    return tuple(np.array(tokens, dtype=np.int64) for tokens in rendered)


def encode_classes(
    tokenizer: Any, lines: Sequence[Line], dataset: Dataset, rule: LengthRule, with_segment_ids: bool, path: str = ""
) -> ClassData:
    """Encode examples for an encoder: two segments as a pair, any other number joined into one
    text.

    `with_segment_ids` is for models that distinguish the segments of a pair. Raises BackendError
    (user) for a completion that is not an allowed label, and for what the rule refuses.
    """
    template = ExampleTemplate(tokenizer, dataset.layout, dataset.stop)
    labels = label_indices([template.answer(line) for line in lines], dataset.labels)
    ids, segments, whole = encode_segments(tokenizer, lines, rule.max_length, with_segment_ids)
    ledger = LengthLedger(rule, len(lines), path)
    for number, (kept, length) in enumerate(zip(ids, whole, strict=True), 1):
        ledger.record(number, length, len(kept), prompt_is_cut=length > len(kept))
    truncation = ledger.close()
    data = ClassData(ids, segments, labels, truncation)
    return data.take([n for n in range(len(ids)) if n + 1 not in ledger.dropped]) if ledger.dropped else data


def encode_segments(
    tokenizer: Any, lines: Sequence[Line], max_length: int, with_segment_ids: bool
) -> tuple[tuple[Ids, ...], tuple[Ids, ...] | None, list[int]]:
    """Return token ids of at most `max_length`, segment ids (None without `with_segment_ids`), and
    how many tokens each example has whole.
    """
    pairs, options = [_segments(line) for line in lines], {"verbose": False, "return_token_type_ids": True}
    encoded = [tokenizer(*pair, **options) for pair in pairs]
    whole = [len(example["input_ids"]) for example in encoded]
    for n, length in enumerate(whole):
        if length > max_length:
            encoded[n] = tokenizer(*pairs[n], truncation=True, max_length=max_length, **options)
    ids = tuple(np.array(example["input_ids"], dtype=np.int64) for example in encoded)
    if not with_segment_ids:
        return ids, None, whole
    return ids, tuple(np.array(example["token_type_ids"], dtype=np.int64) for example in encoded), whole


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
