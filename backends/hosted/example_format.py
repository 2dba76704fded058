"""Convert prepared examples into a host's format, and labels into the words of a model.

For a chat model, an example with prompt and completion becomes

{"messages": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": COMPLETION}]}

preceded by the system message of the options, if there is one. PROMPT is unchanged: the separator
at its end is harmless, and predictions use the same text later. COMPLETION loses one leading space
and the stop sequence at its end: both belong to a continued text, whereas a message ends by itself.

Hosts train every answer of a conversation. Where a host takes weights of messages, an answer that
is not to be trained has `weight: 0`; elsewhere `untrained_answers` finds it. Otherwise chat
examples stay as they are, with their tools.

For a completion model, an example with prompt and completion stays as it is, stop sequence
included. `segments`, which only encoders read, is left out unless the host accepts it. Messages
cannot become a prompt: that is an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.chat_lines import TrainOn, trained_messages
from backends.contract import BackendError, DataFile, Dataset, Failure, FailureKind, TrainingRequest
from backends.hosted.options import HostedOptions

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

FILE_PREFIX = "sweep-"
"""The beginning of the name of every data file, here and at the host."""


@dataclass(frozen=True)
class ExampleFormat:
    """The format of examples for one base model: messages or texts, with their details.

    `train_on` is that of the data set. `weights`: the host takes weights of messages.
    """

    chat: bool
    stop: str = ""
    system_message: str | None = None
    fields: tuple[str, ...] = ("prompt", "completion")
    byte_order_mark: bool = False
    train_on: TrainOn = "last"
    weights: bool = False


@dataclass(frozen=True)
class FormattedFile:
    """A data file in a host's format."""

    path: Path
    sha256: str
    bytes: int


def base_model_of(request: TrainingRequest) -> str:
    """Return the base model of a request: the hyperparameter `base_model` wins."""
    return str(request.hyperparameters.get("base_model", request.base_model))


def format_of(request: TrainingRequest, options: HostedOptions) -> ExampleFormat:
    """Return the format of a request's examples."""
    rules = options.profile.files
    return ExampleFormat(
        chat=options.is_chat(base_model_of(request)),
        stop=request.dataset.stop,
        system_message=options.system_message,
        fields=rules.completion_fields,
        byte_order_mark=rules.byte_order_mark,
        train_on=request.dataset.train_on,
        weights=rules.message_weights,
    )


def write_formatted(file: DataFile, format_: ExampleFormat, folder: Path) -> FormattedFile:
    """Write a data file in a host's format into `folder`; its name contains its digest.

    Raises BackendError (user) where an example does not fit the format or the file is unreadable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Two processes may write the same file at once. Each writes its own; the last one to rename it
    # wins.
    handle, name = tempfile.mkstemp(".part", f"{file.sha256[:16]}-", folder)
    temporary = Path(name)
    digest, size = hashlib.sha256(), 0
    with os.fdopen(handle, "wb") as stream:
        for chunk in _chunks(file, format_):
            stream.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    path = folder / f"{FILE_PREFIX}{digest.hexdigest()}.jsonl"
    temporary.replace(path)
    return FormattedFile(path, digest.hexdigest(), size)


def _chunks(file: DataFile, format_: ExampleFormat) -> Iterator[bytes]:
    if format_.byte_order_mark:
        yield BYTE_ORDER_MARK
    for example in read_examples(file):
        yield (json.dumps(formatted(example, format_), ensure_ascii=False) + "\n").encode("utf-8")


def read_examples(file: DataFile) -> Iterator[dict[str, Any]]:
    """Yield the examples of a data file.

    Raises BackendError (user) where the file is missing or damaged.
    """
    try:
        with Path(file.path).open(encoding="utf-8") as stream:
            for line in stream:
                if line.strip():
                    yield json.loads(line)
    except (OSError, ValueError) as error:
        message = f"cannot read the data file {file.path}: {getattr(error, 'strerror', None) or error}"
        raise BackendError(Failure(FailureKind.USER, message, "Prepare the data again.")) from error


def formatted(example: Mapping[str, Any], format_: ExampleFormat) -> dict[str, Any]:
    """Return one example in a host's format.

    Raises BackendError (user) for messages at a completion model.
    """
    if format_.chat:
        if "messages" in example:
            tools = {"tools": example["tools"]} if example.get("tools") else {}
            return {"messages": _weighted_messages(example["messages"], format_), **tools}
        answer = {"role": "assistant", "content": message_content(str(example["completion"]), format_.stop)}
        return {"messages": [*prompt_messages(example, format_), answer]}
    if "messages" in example:
        raise messages_error()
    return {name: example[name] for name in format_.fields if name in example}


def _weighted_messages(messages: Sequence[Mapping[str, Any]], format_: ExampleFormat) -> list[dict[str, Any]]:
    trained = trained_messages(messages, format_.train_on)
    return [
        {
            **_without_weight(message),
            **({"weight": 0} if format_.weights and message["role"] == "assistant" and index not in trained else {}),
        }
        for index, message in enumerate(messages)
    ]


def _without_weight(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message without its weight, and without an empty content beside its calls."""
    has_no_text = bool(message.get("tool_calls")) and not message.get("content")
    return {key: value for key, value in message.items() if key != "weight" and not (has_no_text and key == "content")}


def untrained_answers(file: DataFile, train_on: TrainOn) -> int:
    """Return how many conversations of a chat file have an answer that is not to be trained."""
    return sum(
        sum(message["role"] == "assistant" for message in example["messages"])
        > len(trained_messages(example["messages"], train_on))
        for example in read_examples(file)
    )


def messages_error() -> BackendError:
    """Return the error for messages at a completion model."""
    message = "a completion model cannot take messages"
    return BackendError(Failure(FailureKind.USER, message, "Use a chat model, or data with prompt and completion."))


def prompt_messages(example: Mapping[str, Any], format_: ExampleFormat) -> list[dict[str, Any]]:
    """Return the messages that ask for an example's completion, without the completion itself."""
    if "messages" in example:
        messages = [_without_weight(message) for message in example["messages"]]
        return messages[:-1] if messages and messages[-1].get("role") == "assistant" else messages
    system = [{"role": "system", "content": format_.system_message}] if format_.system_message else []
    return [*system, {"role": "user", "content": str(example["prompt"])}]


def message_content(completion: str, stop: str) -> str:
    """Return a completion as the content of a message."""
    text = completion.removesuffix(stop) if stop else completion
    return text.removeprefix(" ")


def formatted_labels(labels: Sequence[str], format_: ExampleFormat) -> list[str]:
    """Return the labels as a model of this format writes them."""
    return [message_content(label, format_.stop) if format_.chat else label for label in labels]


def labels_and_stop_in_files(dataset: Dataset, format_: ExampleFormat) -> tuple[list[str], str]:
    """Return the labels and the stop sequence exactly as they occur in the host's data files."""
    if format_.chat and dataset.layout == "completion":
        return formatted_labels(dataset.labels, format_), ""
    return list(dataset.labels), dataset.stop
