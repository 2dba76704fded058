"""Examples in the formats of hosts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.contract import BackendError, Dataset, FailureKind, TrainingRequest
from backends.hosted import HostedBackend, example_format, label_scoring
from backends.hosted.example_format import ExampleFormat
from backends.hosted.options import HostedOptions
from backends.testing import write_jsonl

pytestmark = pytest.mark.unit

EXAMPLE = {
    "prompt": "A dog.\nAn animal.\n\n###\n\n",
    "completion": " entailment END",
    "segments": ["A dog.", "An animal."],
}


def test_prompt_and_completion_become_messages() -> None:
    assert example_format.formatted(EXAMPLE, ExampleFormat(chat=True, stop=" END")) == {
        "messages": [
            {"role": "user", "content": "A dog.\nAn animal.\n\n###\n\n"},
            {"role": "assistant", "content": "entailment"},
        ]
    }


def test_the_system_message_comes_first() -> None:
    formatted = example_format.formatted(EXAMPLE, ExampleFormat(chat=True, system_message="Be brief."))
    assert formatted["messages"][0] == {"role": "system", "content": "Be brief."}
    assert len(formatted["messages"]) == 3


def test_a_completion_model_gets_the_unchanged_text() -> None:
    assert example_format.formatted(EXAMPLE, ExampleFormat(chat=False, stop=" END")) == {
        "prompt": EXAMPLE["prompt"],
        "completion": EXAMPLE["completion"],
    }


def test_a_host_for_encoders_gets_the_segments() -> None:
    format_ = ExampleFormat(chat=False, fields=("prompt", "completion", "segments"))
    assert example_format.formatted(EXAMPLE, format_) == EXAMPLE


def test_messages_stay_unchanged_and_cannot_become_a_prompt() -> None:
    chat = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    assert example_format.formatted(chat, ExampleFormat(chat=True)) == chat
    with pytest.raises(BackendError) as raised:
        example_format.formatted(chat, ExampleFormat(chat=False))
    assert raised.value.failure.kind is FailureKind.USER


def test_the_prompt_of_a_prediction_equals_the_prompt_of_the_training() -> None:
    for format_ in (ExampleFormat(chat=True, stop=" END"), ExampleFormat(chat=True, system_message="s")):
        training_messages = example_format.formatted(EXAMPLE, format_)["messages"]
        assert example_format.prompt_messages(EXAMPLE, format_) == training_messages[:-1]
    chat = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    assert example_format.prompt_messages(chat, ExampleFormat(chat=True)) == chat["messages"][:-1]
    prompt_only = {"messages": chat["messages"][:1]}
    assert example_format.prompt_messages(prompt_only, ExampleFormat(chat=True)) == prompt_only["messages"]


@given(st.lists(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), min_size=1, unique=True))
def test_every_label_is_recognised_as_the_model_writes_it(words: list[str]) -> None:
    labels = [f" {word} END" for word in words]
    for format_ in (ExampleFormat(chat=True, stop=" END"), ExampleFormat(chat=False, stop=" END")):
        written = example_format.formatted_labels(labels, format_)
        indices = [label_scoring.label_index(written, label) for label in written]
        assert indices == list(range(len(labels)))


def test_the_name_of_a_file_is_its_digest(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "d.jsonl", [EXAMPLE, EXAMPLE])
    chat = example_format.write_formatted(file, ExampleFormat(chat=True), tmp_path / "out")
    again = example_format.write_formatted(file, ExampleFormat(chat=True), tmp_path / "out")
    text = example_format.write_formatted(file, ExampleFormat(chat=False), tmp_path / "out")
    marked = example_format.write_formatted(file, ExampleFormat(chat=False, byte_order_mark=True), tmp_path / "out")
    assert chat == again
    assert len({chat.sha256, text.sha256, marked.sha256}) == 3
    assert chat.path.stat().st_size == chat.bytes
    assert marked.path.read_bytes() == b"\xef\xbb\xbf" + text.path.read_bytes()
    assert [json.loads(line) for line in chat.path.read_text().splitlines()] == [
        example_format.formatted(EXAMPLE, ExampleFormat(chat=True))
    ] * 2
    assert not list((tmp_path / "out").glob("*.part"))


# ------------------------------------------------------------------------------------ conversations
CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
TOOLS = [{"type": "function", "function": {"name": "add"}}]
TALK = {
    "messages": [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "2", "tool_call_id": "c"},
        {"role": "assistant", "content": "2", "weight": 0},
        {"role": "user", "content": "sure?"},
        {"role": "assistant", "content": "yes", "weight": 1},
    ],
    "tools": TOOLS,
}


@pytest.mark.parametrize(
    ("train_on", "weights", "untrained"),
    [("all", True, [3]), ("last", True, [1, 3]), ("all", False, []), ("last", False, [])],
)
def test_an_answer_that_is_not_trained_has_weight_0_where_the_host_takes_weights(
    train_on: Literal["all", "last"], weights: bool, untrained: list[int]
) -> None:
    written = example_format.formatted(TALK, ExampleFormat(chat=True, train_on=train_on, weights=weights))
    assert written["tools"] == TOOLS
    assert [number for number, message in enumerate(written["messages"]) if "weight" in message] == untrained
    assert {message["weight"] for message in written["messages"] if "weight" in message} <= {0}
    assert written["messages"][1] == {
        "role": "assistant",
        "tool_calls": [CALL],
        **({"weight": 0} if 1 in untrained else {}),
    }


def test_a_question_has_no_weights() -> None:
    asked = example_format.prompt_messages(TALK, ExampleFormat(chat=True))
    assert asked[3] == {"role": "assistant", "content": "2"}
    assert len(asked) == 5


def test_answers_that_are_not_to_be_trained_are_counted(tmp_path: Path) -> None:
    single = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    several = {"messages": [*single["messages"], *single["messages"]]}
    file = write_jsonl(tmp_path / "x.jsonl", [TALK, single, several])
    assert example_format.untrained_answers(file, "all") == 1
    assert example_format.untrained_answers(file, "last") == 2


@pytest.mark.parametrize(("host", "takes_weights"), [("openai", True), ("azure", True), ("nebius", False)])
def test_a_host_that_would_train_other_answers_is_refused_at_check(
    tmp_path: Path, host: str, takes_weights: bool
) -> None:
    several = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 2}
    file = write_jsonl(tmp_path / "x.jsonl", [several] * 12)
    options = HostedOptions(host=host, model="m", base_url="http://127.0.0.1:9/v1", price_per_million_tokens=1.0)
    backend = HostedBackend(options, tmp_path / "w", {options.key_name: "k"})
    try:
        for train_on, is_refused in (("last", not takes_weights), ("all", False)):
            dataset = Dataset(file, file, "chat", train_on=train_on)  # type: ignore[arg-type]
            request = TrainingRequest("key", "m", dataset, {"n_epochs": 1}, 7)
            problems = [failure.message for failure in backend._local_problems(request) if "answers" in failure.message]
            assert bool(problems) is is_refused
            if is_refused:
                assert problems == [
                    "Nebius Token Factory trains every answer of a conversation, but 24 conversations have answers "
                    "that are not to be trained"
                ]
    finally:
        backend.close()
