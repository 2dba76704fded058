"""How prepared examples become what a host is given, and how its words become labels again.

For chat models, an example of prompt and completion becomes

    {"messages": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": COMPLETION}]}

with the option's system message before them where there is one. PROMPT is unchanged: the separator at its end stays, as
it does no harm and the same text is asked later. COMPLETION loses one leading space and the stop sequence at its end:
both belong to the continuation of a text, and a message ends by itself. Chat examples stay as they are.

For completion models, an example of prompt and completion stays as it is, stop sequence included; what only encoders
see (`segments`) is left out unless the host takes it. Messages cannot be made into a prompt: that is refused.
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

from backends.contract import BackendError, DataFile, Dataset, Failure, FailureKind

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

PREFIX = "sweep-"
"""How the names of data files begin, here and at the host."""


@dataclass(frozen=True)
class Form:
    """What a host is given: messages or texts, and the particulars of either."""

    chat: bool
    stop: str = ""
    system_message: str | None = None
    fields: tuple[str, ...] = ("prompt", "completion")
    byte_order_mark: bool = False


@dataclass(frozen=True)
class Written:
    """A file as the host is given it."""

    path: Path
    sha256: str
    bytes: int


def write(file: DataFile, form: Form, folder: Path) -> Written:
    """Write a data file in the host's form below `folder`; its name says its digest. Raises BackendError (user)."""
    folder.mkdir(parents=True, exist_ok=True)
    # two processes may write the same file at once: each its own, and the last one to be renamed stays
    handle, name = tempfile.mkstemp(".part", f"{file.sha256[:16]}-", folder)
    temporary = Path(name)
    digest, size = hashlib.sha256(), 0
    with os.fdopen(handle, "wb") as stream:
        head = BYTE_ORDER_MARK if form.byte_order_mark else b""
        for text in _texts(file, form, head):
            stream.write(text)
            digest.update(text)
            size += len(text)
    path = folder / f"{PREFIX}{digest.hexdigest()}.jsonl"
    temporary.replace(path)
    return Written(path, digest.hexdigest(), size)


def _texts(file: DataFile, form: Form, head: bytes) -> Iterator[bytes]:
    if head:
        yield head
    for line in lines(file):
        yield (json.dumps(as_given(line, form), ensure_ascii=False) + "\n").encode("utf-8")


def lines(file: DataFile) -> Iterator[dict[str, Any]]:
    """Yield the examples of a data file. Raises BackendError (user) where it is gone or no longer what it was."""
    try:
        with Path(file.path).open(encoding="utf-8") as stream:
            for line in stream:
                if line.strip():
                    yield json.loads(line)
    except (OSError, ValueError) as error:
        message = f"the data file {file.path} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise BackendError(Failure(FailureKind.USER, message, "prepare the data again")) from error


def as_given(line: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """Return one example in the host's form. Raises BackendError (user) where there is none."""
    if form.chat:
        if "messages" in line:
            return {"messages": line["messages"]}
        answer = {"role": "assistant", "content": as_message(str(line["completion"]), form.stop)}
        return {"messages": [*as_question(line, form), answer]}
    if "messages" in line:
        message = "messages cannot be given to a completion model"
        raise BackendError(Failure(FailureKind.USER, message, "use a chat model, or data of prompt and completion"))
    return {name: line[name] for name in form.fields if name in line}


def as_question(line: Mapping[str, Any], form: Form) -> list[dict[str, Any]]:
    """Return the messages that ask for an example's completion, which itself is not looked at."""
    if "messages" in line:
        messages = list(line["messages"])
        return messages[:-1] if messages and messages[-1].get("role") == "assistant" else messages
    system = [{"role": "system", "content": form.system_message}] if form.system_message else []
    return [*system, {"role": "user", "content": str(line["prompt"])}]


def as_message(completion: str, stop: str) -> str:
    """Return a completion as the content of a message."""
    text = completion.removesuffix(stop) if stop else completion
    return text.removeprefix(" ")


def as_trained(dataset: Dataset, form: Form) -> tuple[list[str], str]:
    """Return the labels and the stop sequence as they stand in the files that a host is given."""
    if form.chat and dataset.layout == "completion":
        return as_spoken(dataset.labels, form), ""
    return list(dataset.labels), dataset.stop


def as_spoken(labels: Sequence[str], form: Form) -> list[str]:
    """Return the labels as a model of this form says them."""
    return [as_message(each, form.stop) if form.chat else each for each in labels]
