"""From uploaded JSON lines to the data set of a run, with the checks of the real services."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

from backends.chat_lines import TrainOn, trained_messages
from backends.contract import DataFile, Dataset
from sweeps.server.records import JobFailure, Task
from sweeps.server.strict_json import has_lone_surrogate

MIN_EXAMPLES = 10
"""The fewest examples in a training file, as at the real services."""

MAX_AUTO_LABELS = 100
TRAINING_SAMPLE_EXAMPLES = 256
"""The number of training examples that stand in for a missing validation file."""

MAX_LINE_CHARACTERS = 16 * 2**20
"""The longest accepted line, because a line is read into memory as a whole."""

_REPORTED_PROBLEMS = 3
_ROLES = frozenset({"system", "developer", "user", "assistant"})

_FileParameter: TypeAlias = Literal["training_file", "validation_file"]


class DatasetError(Exception):
    """The files cannot be trained on; `failure` says why, as the job reports it."""

    def __init__(self, code: str, param: str, message: str) -> None:
        super().__init__(message)
        self.failure = JobFailure(code, message, param)


@dataclass(frozen=True)
class CheckedFile:
    """The properties of a file that passed the checks.

    `completions` holds the distinct completions, up to one more than `MAX_AUTO_LABELS`. `is_plain`:
    the trainers can read the file as it is, otherwise they need a converted copy. `trained_answers`
    counts the answers whose weight is not 0. `conversations` counts those whose trained answers are
    not just the last message, and `untrained_ends` those whose last message has the weight 0.
    """

    path: Path
    layout: Literal["completion", "chat"]
    examples: int
    completions: tuple[str, ...]
    is_plain: bool
    trained_answers: int
    conversations: int
    untrained_ends: int


def prepare_dataset(
    training: Path, validation: Path | None, task: Task, folder: Path, min_examples: int
) -> tuple[Dataset, list[str]]:
    """Check the files and place them below `folder`. Return the data set, and notes for the user.

    Without a validation file, the first examples of the training file stand in for it. The files in
    `folder` are hard links if possible, so that a job keeps its data when the user deletes an
    uploaded file. Raises DatasetError.
    """
    _check_task(task)
    train = _check(training, "training_file", min_examples)
    valid = None if validation is None else _check(validation, "validation_file", 1)
    if valid is not None and valid.layout != train.layout:
        message = f"The training file is {train.layout}, the validation file is {valid.layout}"
        raise DatasetError("invalid_validation_file", "validation_file", message)
    folder.mkdir(parents=True, exist_ok=True)
    train_data = _place(train, folder / "train.jsonl")
    if valid is None:
        valid_data = _sample(Path(train_data.path), folder / "sample.jsonl")
    else:
        valid_data = _place(valid, folder / "valid.jsonl")
    labels = _labels(task, train, valid)
    has_conversations = train.conversations or (valid is not None and valid.conversations)
    train_on: TrainOn = "all" if has_conversations and not labels else "last"
    notes = []
    if train.conversations:
        trained = f"{train.trained_answers} answers are" if train_on == "all" else "only the last one is"
        notes.append(f"{train.conversations} conversations have several answers; {trained} trained")
    return Dataset(train_data, valid_data, train.layout, labels, task.stop, train_on), notes


def _check_task(task: Task) -> None:
    """Raise DatasetError for a text that cannot be written. An earlier version accepted it."""
    labels = () if task.labels == "auto" else task.labels
    for name, texts in (("labels", labels), ("stop", (task.stop,)), ("keep_metric", (task.keep_metric,))):
        if any(has_lone_surrogate(text) for text in texts):
            message = f"task.{name} has half a character (a lone surrogate, like \\ud800)"
            raise DatasetError("invalid_request", f"task.{name}", message)


def _labels(task: Task, train: CheckedFile, valid: CheckedFile | None) -> tuple[str, ...]:
    if task.labels == "auto":
        labels = tuple(sorted(train.completions))
        if len(labels) > MAX_AUTO_LABELS:
            message = f"The training file has more than {MAX_AUTO_LABELS} different completions, too many to be labels"
            raise DatasetError("invalid_training_file", "task.labels", message)
    else:
        labels = task.labels
    files: Sequence[tuple[CheckedFile | None, str]] = ((train, "training_file"), (valid, "validation_file"))
    for file, param in files:
        if labels and file is not None and (unknown := sorted(set(file.completions) - set(labels))):
            message = f"The completion {unknown[0]!r} is not one of the labels"
            raise DatasetError(f"invalid_{param}", param, message)
        if labels and file is not None and file.untrained_ends:
            count = f"{file.untrained_ends} of {file.examples} last answers have the weight 0"
            message = f"With labels, only last answers are trained, but {count}"
            raise DatasetError(f"invalid_{param}", param, message)
    return labels


def _check(path: Path, param: _FileParameter, min_examples: int) -> CheckedFile:
    code, title = f"invalid_{param}", param.replace("_", " ").capitalize()
    problems: list[str] = []
    completions: dict[str, None] = {}
    layouts: set[Literal["completion", "chat"]] = set()
    examples, trained_answers, conversations, untrained_ends, is_plain = 0, 0, 0, 0, True
    try:
        for number, line in _lines(path):
            problem = line if isinstance(line, str) else _problem(line)
            if problem is not None:
                problems.append(f"line {number}: {problem}")
                if len(problems) == _REPORTED_PROBLEMS:
                    break
                continue
            assert not isinstance(line, str)
            examples += 1
            plain = _plain(line)
            is_plain = is_plain and (plain is line)
            layouts.add("chat" if "messages" in line else "completion")
            completion = plain["messages"][-1]["content"] if "messages" in plain else plain["completion"]
            if len(completions) <= MAX_AUTO_LABELS:
                completions[completion] = None
            messages = line.get("messages", ())
            trained = trained_messages(messages, "all")
            trained_answers += len(trained)
            last = len(messages) - 1
            conversations += "messages" in line and trained != [last]
            untrained_ends += "messages" in line and last not in trained
    except UnicodeDecodeError as error:
        message = f"{title} is not UTF-8 text: {error.reason} at byte {error.start}"
        raise DatasetError(code, param, message) from error
    if problems:
        raise DatasetError(code, param, f"{title} is not valid: {'; '.join(problems)}")
    if len(layouts) > 1:
        raise DatasetError(code, param, f"{title} mixes chat and prompt/completion examples")
    if examples < min_examples:
        message = f"{title} has {examples} example(s), but must have at least {min_examples} examples"
        raise DatasetError("invalid_n_examples", param, message)
    with path.open("rb") as stream:
        is_plain = is_plain and stream.read(3) != b"\xef\xbb\xbf"
    return CheckedFile(
        path, layouts.pop(), examples, tuple(completions), is_plain, trained_answers, conversations, untrained_ends
    )


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield each line that is not blank: its number, and its JSON object or an error message."""
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(iter(partial(stream.readline, MAX_LINE_CHARACTERS + 1), ""), 1):
            if len(line) > MAX_LINE_CHARACTERS:
                yield number, f"longer than {MAX_LINE_CHARACTERS} characters"
                return
            if line.isspace():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                yield number, "not valid JSON"
                continue
            if "\\u" in line and _has_lone_surrogate(value):
                yield number, "it has half a character (a lone surrogate, like \\ud800)"
                continue
            yield number, value if isinstance(value, dict) else "not a JSON object"


def _has_lone_surrogate(value: Any) -> bool:
    """Return whether a text of a JSON value cannot be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _problem(line: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a line, or None."""
    if "messages" in line:
        return _chat_problem(line["messages"])
    if "prompt" not in line and "completion" not in line:
        if "preferred_output" in line:
            return "preference examples are not supported"
        return "it needs `messages`, or `prompt` and `completion`"
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
            return "a message is not an object with a `role`"
        if message["role"] not in _ROLES:
            return f"the role {str(message['role'])[:30]!r} is not supported"
        if message.get("tool_calls") or message.get("function_call"):
            return "tool calls are not supported"
        if _text(message.get("content")) is None:
            return "the `content` of a message is missing or not text"
        if message.get("weight", 1) not in (0, 1):
            return "the `weight` of a message is neither 0 nor 1"
    last = messages[-1]
    if last["role"] != "assistant":
        return "the last message is not from the assistant"
    if not trained_messages(messages, "all"):
        return "every answer has the weight 0"
    return None if last["content"] else "the last message is empty"


def _text(content: Any) -> str | None:
    """Return the text of a message's content, or None if it is neither a string nor text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    texts: list[str] = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            return None
        texts.append(part["text"])
    return "".join(texts)


def conversation(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return messages with plain strings as contents.

    Raises ValueError if one is not a text message.
    """
    plain = []
    for message in messages:
        text = _text(message.get("content"))
        if text is None or message.get("role") not in _ROLES:
            raise ValueError("only text messages of the roles system, developer, user and assistant are supported")
        plain.append({"role": str(message["role"]), "content": text})
    return plain


def _plain(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line as the trainers read it: the same object if it needs no conversion."""
    if "messages" in line and not all(isinstance(message["content"], str) for message in line["messages"]):
        weights = [{"weight": message["weight"]} if "weight" in message else {} for message in line["messages"]]
        plain = conversation(line["messages"])
        return {"messages": [{**message, **weight} for message, weight in zip(plain, weights, strict=True)]}
    return line


def _place(file: CheckedFile, target: Path) -> DataFile:
    """Link, copy or convert a file to `target`."""
    target.unlink(missing_ok=True)
    if file.is_plain:
        try:
            os.link(file.path, target)
        except OSError:  # `target` is on another file system
            shutil.copyfile(file.path, target)
    else:
        with target.open("w", encoding="utf-8") as stream:
            for _, line in _lines(file.path):
                assert not isinstance(line, str)
                stream.write(json.dumps(_plain(line), ensure_ascii=False) + "\n")
    return _data_file(target, file.examples)


def _sample(training: Path, target: Path) -> DataFile:
    with training.open("rb") as stream, target.open("wb") as out:
        lines = list(islice((line for line in stream if line.strip()), TRAINING_SAMPLE_EXAMPLES))
        out.writelines(lines)
    return _data_file(target, len(lines))


def _data_file(path: Path, examples: int) -> DataFile:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    return DataFile(str(path), examples, digest.hexdigest())
