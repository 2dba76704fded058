"""Uploaded JSON lines -> the data set of a run: chat or prompt/completion, examined as the real services do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from backends.contract import DataFile, Dataset
from sweeps.server.records import Task

MIN_EXAMPLES = 10
"""What the real services ask of a training file."""

MAX_AUTO_LABELS = 100
TRAINING_SAMPLE = 256
"""Examples of the training file that are measured where there is no validation file."""

_SHOWN = 3
_ROLES = frozenset({"system", "developer", "user", "assistant"})


class DataError(Exception):
    """A file that cannot be trained on: the code of the job's error, its parameter, and what is wrong."""

    def __init__(self, code: str, param: str, message: str) -> None:
        super().__init__(message)
        self.code, self.param, self.message = code, param, message


@dataclass(frozen=True)
class Examined:
    """A file that can be trained on. `as_it_is`: the trainers read it so; otherwise a plain copy is made."""

    layout: Literal["completion", "chat"]
    examples: int
    answers: tuple[str, ...]
    as_it_is: bool
    notes: tuple[str, ...]


def prepare(
    training: Path, validation: Path | None, task: Task, folder: Path, min_examples: int
) -> tuple[Dataset, list[str]]:
    """Examine the files and lay them below `folder`; return the data set, and what the user should know.

    Without a validation file, the first examples of the training file stand in for it. The files in `folder` are
    links where they can be: deleting an uploaded file does no harm to its jobs. Raises DataError.
    """
    train = _examine(training, "training_file", min_examples)
    files, notes = [(training, train, "train")], list(train.notes)
    if validation is not None:
        valid = _examine(validation, "validation_file", 1)
        if valid.layout != train.layout:
            message = f"The training file is {train.layout}, the validation file is {valid.layout}"
            raise DataError("invalid_validation_file", "validation_file", message)
        files.append((validation, valid, "valid"))
        notes += valid.notes
    folder.mkdir(parents=True, exist_ok=True)
    laid = [_lay(source, folder / f"{name}.jsonl", examined) for source, examined, name in files]
    if validation is None:
        laid.append(_sample(Path(laid[0].path), folder / "sample.jsonl"))
    labels = _labels(task, [each for _, each, _ in files])
    return Dataset(laid[0], laid[1], train.layout, labels, task.stop), notes


def _labels(task: Task, files: list[Examined]) -> tuple[str, ...]:
    if not isinstance(task.labels, str):
        labels = task.labels
    else:
        labels = tuple(sorted(files[0].answers))
        if len(labels) > MAX_AUTO_LABELS:
            message = f"The training file has more than {MAX_AUTO_LABELS} different completions: these are no labels"
            raise DataError("invalid_training_file", "task.labels", message)
    for examined, which in zip(files, ("training_file", "validation_file"), strict=False):
        if labels and (unknown := sorted(set(examined.answers) - set(labels))):
            message = f"A completion is none of the labels: {unknown[0]!r}"
            raise DataError(f"invalid_{which}", which, message)
    return labels


def _examine(path: Path, which: str, min_examples: int) -> Examined:
    code, name = f"invalid_{which}", which.replace("_", " ").capitalize()
    problems: list[str] = []
    answers: dict[str, None] = {}
    layouts: set[Literal["completion", "chat"]] = set()
    examples, turns, as_it_is = 0, 0, True
    try:
        for number, value in _lines(path):
            found = value if isinstance(value, str) else _problem(value)
            if found is not None:
                problems.append(f"line {number}: {found}")
                if len(problems) == _SHOWN:
                    break
                continue
            assert not isinstance(value, str)
            examples += 1
            plain = _plain(value)
            as_it_is = as_it_is and (plain is value)
            layouts.add("chat" if "messages" in value else "completion")
            answer = plain["messages"][-1]["content"] if "messages" in plain else plain["completion"]
            if len(answers) <= MAX_AUTO_LABELS:
                answers[answer] = None
            turns += sum(each.get("role") == "assistant" for each in value.get("messages", ())) > 1
    except UnicodeDecodeError as error:
        raise DataError(code, which, f"{name} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if problems:
        raise DataError(code, which, f"{name} is not valid: {'; '.join(problems)}")
    if len(layouts) > 1:
        raise DataError(code, which, f"{name} mixes chat and prompt/completion examples")
    if examples < min_examples:
        message = f"{name} has {examples} example(s), but must have at least {min_examples} examples"
        raise DataError("invalid_n_examples", which, message)
    with path.open("rb") as stream:
        as_it_is = as_it_is and stream.read(3) != b"\xef\xbb\xbf"
    notes = (f"{turns} conversations have several answers; only the last one is trained",) if turns else ()
    return Examined(layouts.pop(), examples, tuple(answers), as_it_is, notes)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield each line that is not blank with its number, or what is wrong with it."""
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if line.isspace():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                yield number, "not valid JSON"
                continue
            yield number, value if isinstance(value, dict) else "not a JSON object"


def _problem(line: Mapping[str, Any]) -> str | None:
    if "messages" in line:
        return _chat_problem(line["messages"])
    if "prompt" not in line and "completion" not in line:
        missing = "it needs `messages`, or `prompt` and `completion`"
        return "preference examples are not supported" if "preferred_output" in line else missing
    for name in ("prompt", "completion"):
        if not isinstance(line.get(name), str):
            return f"`{name}` is missing or not a string"
    if not line["completion"]:
        return "`completion` is empty"
    segments = line.get("segments", [])
    if not isinstance(segments, list) or not all(isinstance(segment, str) for segment in segments):
        return "`segments` is not a list of strings"
    return None


def _chat_problem(messages: Any) -> str | None:
    if not isinstance(messages, list) or not messages:
        return "`messages` is not a list, or empty"
    for message in messages:
        if not isinstance(message, dict) or "role" not in message:
            return "a message is no object with a `role`"
        if message["role"] not in _ROLES:
            return f"the role {str(message['role'])[:30]!r} is not supported"
        if message.get("tool_calls") or message.get("function_call"):
            return "tool calls are not supported"
        if _text(message.get("content")) is None:
            return "the `content` of a message is missing or not text"
    last = messages[-1]
    if last["role"] != "assistant":
        return "the last message is not from the assistant"
    if last.get("weight", 1) != 1:
        return "the last message has a weight other than 1"
    return None if last["content"] else "the last message is empty"


def _text(content: Any) -> str | None:
    """Return the text of a message's content: a string, or a list of text parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        texts = [
            each.get("text") if isinstance(each, dict) and each.get("type") == "text" else None for each in content
        ]
        if all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
    return None


def conversation(messages: list[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return messages with plain texts. Raises ValueError where one is no text message."""
    plain = []
    for message in messages:
        text = _text(message.get("content"))
        if text is None or message.get("role") not in _ROLES:
            raise ValueError("only text messages of the roles system, developer, user and assistant are supported")
        plain.append({"role": str(message["role"]), "content": text})
    return plain


def _plain(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line as the trainers read it: the very same object where it is so already."""
    if "messages" in line and not all(isinstance(message["content"], str) for message in line["messages"]):
        return {"messages": conversation(line["messages"])}
    return line


def _lay(source: Path, target: Path, examined: Examined) -> DataFile:
    target.unlink(missing_ok=True)
    if examined.as_it_is:
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copyfile(source, target)
    else:
        with target.open("w", encoding="utf-8") as stream:
            for _, value in _lines(source):
                assert not isinstance(value, str)
                stream.write(json.dumps(_plain(value), ensure_ascii=False) + "\n")
    return _described(target, examined.examples)


def _sample(training: Path, target: Path) -> DataFile:
    with training.open("rb") as stream, target.open("wb") as out:
        lines = list(islice((line for line in stream if line.strip()), TRAINING_SAMPLE))
        out.writelines(lines)
    return _described(target, len(lines))


def _described(path: Path, examples: int) -> DataFile:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    return DataFile(str(path), examples, digest.hexdigest())
