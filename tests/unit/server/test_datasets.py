"""Uploaded conversations: which answers a job trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.contract import Dataset
from sweeps.server.datasets import DatasetError, prepare_dataset
from sweeps.server.records import Task

pytestmark = pytest.mark.unit


def talk(number: int, *weights: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for turn, weight in enumerate(weights):
        messages.append({"role": "user", "content": f"question {number}.{turn}"})
        messages.append(
            {"role": "assistant", "content": f"answer {turn}", **({} if weight is ... else {"weight": weight})}
        )
    return messages


def prepared(folder: Path, talks: list[list[dict[str, Any]]], task: Task | None = None) -> tuple[Dataset, list[str]]:
    file = folder / "file.jsonl"
    file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in talks))
    return prepare_dataset(file, None, task or Task(), folder / "job", 1)


def test_every_answer_of_a_conversation_is_trained(tmp_path: Path) -> None:
    data, notes = prepared(tmp_path, [talk(0, ..., ...), talk(1, ...), talk(2, 0, ...)])
    assert data.train_on == "all"
    assert notes == ["1 conversations have several answers; 4 answers are trained"]


def test_single_answers_are_the_same_data_set_as_ever(tmp_path: Path) -> None:
    data, notes = prepared(tmp_path, [talk(0, ...), talk(1, 0, ...), talk(2, 1)])
    assert (data.train_on, notes) == ("last", [])


def test_labels_are_last_answers(tmp_path: Path) -> None:
    data, notes = prepared(tmp_path, [talk(0, ..., ...), talk(1, ...)], Task(labels="auto"))
    assert (data.train_on, data.labels) == ("last", ("answer 0", "answer 1"))
    assert notes == ["1 conversations have several answers; only the last one is trained"]


def test_an_untrained_answer_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="1 of 2 last answers have the weight 0"):
        prepared(tmp_path, [talk(0, ..., 0), talk(1, ...)], Task(labels="auto"))


def test_conversations_only_for_validation_make_no_note(tmp_path: Path) -> None:
    files = []
    for name, talks in (("train", [talk(0, ...)]), ("valid", [talk(1, ..., ...)])):
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in talks))
    data, notes = prepare_dataset(files[0], files[1], Task(), tmp_path / "job", 1)
    assert (data.train_on, notes) == ("all", [])


@pytest.mark.parametrize(
    ("weights", "message"),
    [((0.5,), "the `weight` of a message is neither 0 nor 1"), ((0, 0), "every answer has the weight 0")],
)
def test_a_wrong_weight_is_an_error_with_its_line(tmp_path: Path, weights: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DatasetError, match=f"line 2: {message}"):
        prepared(tmp_path, [talk(0, ...), talk(1, *weights)])


def test_messages_in_parts_keep_their_weights(tmp_path: Path) -> None:
    messages = talk(0, 0, ...)
    messages[0]["content"] = [{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]
    data, _ = prepared(tmp_path, [messages])
    (line,) = map(json.loads, Path(data.train.path).read_text().splitlines())
    assert [message.get("weight") for message in line["messages"]] == [None, 0, None, None]
    assert line["messages"][0]["content"] == "in parts"
