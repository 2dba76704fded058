"""Conversations: the layouts that people have, and the faults of their messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sweeps.data import DataSpec, PreparedData, prepare
from sweeps.data.conversations import ChatLayout, recognise
from sweeps.data.examples import ChatRecipe, choose_recipe
from sweeps.data.findings import Finding
from sweeps.data.readers.record import Record
from sweeps.data.templates import FieldError
from sweeps.errors import UserInputError

pytestmark = pytest.mark.unit

CALL = {"id": "call00000", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "default": None}}}


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def line_of(fields: dict[str, Any], train_on: Any = "all") -> dict[str, Any]:
    record = Record(fields, "d.jsonl", 1)
    recipe = choose_recipe([record], None, None, None, None, train_on)
    assert isinstance(recipe, ChatRecipe)
    line: dict[str, Any] = json.loads(recipe.example(record).to_line())
    return line


# ------------------------------------------------------------------------------------------ layouts
def test_the_further_fields_of_the_openai_chat_format_stay() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {**user("1+1?"), "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
        {"role": "tool", "content": "2", "tool_call_id": "call00000"},
        assistant("It is 2", weight=0),
        {"role": "user", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "2?"}]},
        assistant("3", weight=1.0),
    ]
    assert line_of({"messages": messages, "tools": [TOOL]}) == {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "1+1?", "name": "ann"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "2", "tool_call_id": "call00000"},
            {"role": "assistant", "content": "It is 2", "weight": 0},
            {"role": "user", "content": "1+2?"},
            {"role": "assistant", "content": "3", "weight": 1},
        ],
        "tools": [TOOL],
    }


def test_a_plain_conversation_has_the_line_that_it_always_had() -> None:
    record = Record({"messages": [user("é"), assistant("b")]}, "d", 1)
    line = '{"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "b"}]}'
    assert ChatRecipe().example(record).to_line() == line


def test_tools_may_be_text_and_need_no_wrapping() -> None:
    line = line_of({"messages": [user("a"), assistant("b")], "tools": json.dumps([TOOL["function"]])})
    assert line["tools"] == [TOOL]
    assert "tools" not in line_of({"messages": [user("a"), assistant("b")], "tools": "[]"})


def test_sharegpt_becomes_messages() -> None:
    turns = [
        {"from": "human", "value": "1+1?"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "2", "weight": 0},
        {"from": "human", "value": "sure?", "weight": None},
        {"from": "gpt", "value": "yes"},
    ]
    fields = {"id": "x", "system": "Be brief.", "conversations": turns, "tools": json.dumps([TOOL])}
    assert line_of(fields) == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            user("1+1?"),
            assistant("", tool_calls=[CALL]),
            {"role": "tool", "content": "2", "tool_call_id": "call00000"},
            assistant("2", weight=0),
            user("sure?"),
            assistant("yes"),
        ],
        "tools": [TOOL],
    }


def test_several_calls_at_once_get_their_results_in_order() -> None:
    calls = [{"name": "a", "arguments": {}}, {"name": "b", "parameters": {"x": 1}}]
    turns = [
        {"from": "human", "value": "go"},
        {"from": "function_call", "value": json.dumps(calls)},
        {"from": "observation", "value": "1"},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "done"},
    ]
    _, called, first, second, _ = line_of({"conversations": turns})["messages"]
    assert [call["function"] for call in called["tool_calls"]] == [
        {"name": "a", "arguments": "{}"},
        {"name": "b", "arguments": '{"x": 1}'},
    ]
    assert [call["id"] for call in called["tool_calls"]] == [first["tool_call_id"], second["tool_call_id"]]


def test_messages_in_a_column_conversations_are_those_of_the_openai_chat_format() -> None:
    fields = {"conversations": [user("a"), assistant("b")]}
    assert recognise(["conversations"], fields) == ChatLayout("OpenAI chat", "conversations")
    assert line_of(fields) == {"messages": [user("a"), assistant("b")]}


def test_alpaca_becomes_messages() -> None:
    fields = {"instruction": "Add.", "input": "1 2", "output": "3"}
    assert line_of(fields) == {"messages": [user("Add.\n1 2"), assistant("3")]}
    assert line_of({**fields, "input": ""}) == {"messages": [user("Add."), assistant("3")]}
    history = {**fields, "system": "Be brief.", "history": [["hi", "hello"]]}
    assert line_of(history)["messages"] == [
        {"role": "system", "content": "Be brief."},
        user("hi"),
        assistant("hello"),
        user("Add.\n1 2"),
        assistant("3"),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a", "completion": "b", "instruction": "c", "output": "d"},
        {"prompt": "a", "completion": "b", "conversations": []},
        {"instruction": "c", "answer": "d"},
    ],
)
def test_other_columns_are_no_chat_layout(fields: dict[str, Any]) -> None:
    assert recognise(list(fields), fields) is None


def test_a_separator_for_alpaca_names_the_templates() -> None:
    found = choose_recipe([Record({"instruction": "a", "output": "b"}, "d", 1)], None, None, None, "\n")
    assert isinstance(found, Finding)
    assert 'prompt: "{instruction}"' in found.hint


# ------------------------------------------------------------------------------------------- faults
@pytest.mark.parametrize(
    ("messages", "message", "hint"),
    [
        ([user("a"), {"role": "asistant", "content": "b"}], "messages.1 has the role 'asistant'", "'assistant'"),
        ([user("a"), assistant("b", weight=0.5)], "messages.1 has the weight '0.5'", "write 0 to leave"),
        ([user("a"), assistant("b", weight=True)], "messages.1 has the weight 'true'", "write 0 to leave"),
        ([{**user("a"), "weight": 1}, assistant("b")], "messages.0 has the weight 1, but is by 'user'", "remove"),
        ([user("a"), assistant("b", weight=0)], "no answer is trained: its weight is 0", "weight 1"),
        ([user("a")], "there is no message of the assistant", ""),
        ([user("a"), assistant("", tool_calls={})], "the tool_calls of messages.1 are not a list", "function"),
        ([user("a"), assistant("", tool_calls=[{"id": "x"}])], "messages.1.tool_calls.0 names no function", "function"),
        (
            [user("a"), assistant("", tool_calls=[{"function": {"name": "f", "arguments": "x"}}])],
            "the arguments of messages.1.tool_calls.0 are not a JSON object",
            "JSON object",
        ),
        ([{**user("a"), "tool_calls": [CALL]}, assistant("b")], "messages.0 has tool_calls, but is by", "assistant"),
        ([{**user("a"), "tool_call_id": "x"}, assistant("b")], "messages.0 has a wrong tool_call_id", "role tool"),
        (
            [
                user("a"),
                assistant("", tool_calls=[CALL]),
                {"role": "tool", "content": "2", "tool_call_id": "call0000"},
                assistant("b"),
            ],
            "messages.2 answers the unknown call 'call0000'",
            "did you mean 'call00000'?",
        ),
        ([user("a"), assistant(" "), user("c"), assistant("d")], "the answer messages.1 is empty", "weight 0"),
        ([user("a"), assistant("b", name=3)], "the name of messages.1 is not text", ""),
        ([user("a"), {"role": "assistant", "content": [{"type": "image_url"}]}], "content of messages.1", "texts"),
    ],
)
def test_a_fault_of_a_message_is_an_error_with_a_remedy(messages: Any, message: str, hint: str) -> None:
    with pytest.raises(FieldError) as raised:
        ChatRecipe().example(Record({"messages": messages}, "d", 1))
    assert message in raised.value.message
    assert hint in raised.value.hint


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([{"from": "humann", "value": "a"}], "conversations.0 is from 'humann', an unknown role"),
        ([{"from": "human"}], "conversations.0 has no 'value'"),
        ([{"from": "human", "value": "a"}, {"from": "function_call", "value": "add"}], "is not a function call"),
        (["hello"], "conversations.0 is not an object"),
        ([{"from": "human", "value": "a"}], "no message of the assistant"),
    ],
)
def test_a_fault_of_a_sharegpt_conversation_is_an_error(turns: Any, message: str) -> None:
    recipe = ChatRecipe(ChatLayout("ShareGPT", "conversations"))
    with pytest.raises(FieldError, match=message):
        recipe.example(Record({"conversations": turns}, "d", 1))


@pytest.mark.parametrize(
    ("tools", "message"),
    [({}, None), ({"a": 1}, "'tools' is not a list"), ("x", "'tools' is not a list"), ([{}], "tools.0 names no")],
)
def test_tools_are_a_list_of_functions(tools: Any, message: str | None) -> None:
    record = Record({"messages": [user("a"), assistant("b")], "tools": tools}, "d", 1)
    if message is None:
        assert ChatRecipe().example(record).tools is None
        return
    with pytest.raises(FieldError, match=message):
        ChatRecipe().example(record)


# ------------------------------------------------------------------------------------------ prepare
def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def conversations(count: int) -> list[dict[str, Any]]:
    return [
        {"messages": [user(f"question {n}"), assistant(f"answer {n}"), user("more?"), assistant(f"no, {n}")]}
        for n in range(count)
    ]


def prepared(tmp_path: Path, records: list[dict[str, Any]], keep_rows: bool = False, **spec: Any) -> PreparedData:
    source = write(tmp_path / "data.jsonl", records)
    return prepare(DataSpec(source=source, test=0.1, **spec), tmp_path / "workspace", keep_rows=keep_rows)


def test_all_answers_are_trained_and_counted(tmp_path: Path) -> None:
    data = prepared(tmp_path, conversations(20))
    assert data.dataset.train_on == "all"
    assert data.task == "generation"
    assert data.conversations is not None
    assert data.conversations.in_words() == "layout: OpenAI chat, 16 conversations, 32 answers are trained"


def test_the_last_answers_are_trained_if_the_file_says_so(tmp_path: Path) -> None:
    data = prepared(tmp_path, conversations(20), train_on="last")
    assert data.dataset.train_on == "last"
    assert data.conversations is not None
    assert data.conversations.in_words() == "layout: OpenAI chat, 16 conversations, 16 answers are trained of 32"
    assert data.fingerprint != prepared(tmp_path, conversations(20)).fingerprint


def test_single_answers_are_the_same_data_set_whatever_the_file_says(tmp_path: Path) -> None:
    records = [{"messages": [user(f"question {n}"), assistant(f"answer {n}")]} for n in range(20)]
    everything, last = prepared(tmp_path, records), prepared(tmp_path, records, train_on="last")
    assert (everything.dataset, everything.fingerprint) == (last.dataset, last.fingerprint)
    assert everything.dataset.train_on == "last"


def test_the_last_words_of_long_conversations_are_no_labels(tmp_path: Path) -> None:
    records = [
        {
            "messages": [
                user(f"question {n}"),
                assistant(f"answer {n}"),
                user("thanks"),
                assistant("Welcome!" * (1 + n % 2)),
            ]
        }
        for n in range(40)
    ]
    data = prepared(tmp_path, records)
    assert (data.task, data.dataset.labels, data.dataset.train_on) == ("generation", (), "all")
    labelled = prepared(tmp_path, records, task="classification")
    assert (len(labelled.dataset.labels), labelled.dataset.train_on) == (2, "last")


def test_a_conversation_that_ends_with_a_question_is_reported(tmp_path: Path) -> None:
    records = [
        {"conversations": [{"from": "human", "value": f"question {n}"}, {"from": "gpt", "value": f"answer {n}"}]}
        for n in range(20)
    ]
    records[-1]["conversations"].append({"from": "human", "value": "and?"})
    data = prepared(tmp_path, records)
    (finding,) = [finding for finding in data.findings if finding.code == "unanswered"]
    assert finding.message == "1 message after the last answer left out: 1 example (line 20)"
    assert finding.place.endswith("data.jsonl:20")


def test_the_same_last_words_leave_other_answers_to_learn(tmp_path: Path) -> None:
    records = [
        {"messages": [user(f"question {n}"), assistant(f"answer {n}"), user("thanks"), assistant("Welcome!")]}
        for n in range(20)
    ]
    assert prepared(tmp_path, records).dataset.train_on == "all"
    with pytest.raises(UserInputError, match="all 20 completions"):
        prepared(tmp_path, [{"messages": [user(f"question {n}"), assistant("Welcome!")]} for n in range(20)])


def test_faults_are_reported_with_their_lines(tmp_path: Path) -> None:
    records = conversations(20)
    records[3]["messages"][1]["weight"] = 2
    records[7]["messages"][1]["role"] = "bot"
    with pytest.raises(UserInputError) as raised:
        prepared(tmp_path, records)
    problems = [(problem.place.rpartition("/")[2], problem.message) for problem in raised.value.problems]
    assert problems == [
        ("data.jsonl:4", "messages.1 has the weight '2'"),
        ("data.jsonl:8", "messages.1 has the role 'bot'"),
    ]


def test_rows_are_kept_in_validation_and_test_only_if_somebody_needs_them(tmp_path: Path) -> None:
    records = [{"prompt": f"q{n}", "completion": f" answer {n}", "difficulty": n} for n in range(30)]
    plain, kept = prepared(tmp_path, records), prepared(tmp_path, records, keep_rows=True)
    assert plain.digests["train"] == kept.digests["train"]
    assert plain.digests["valid"] != kept.digests["valid"]
    assert kept.test is not None
    for file in (kept.dataset.valid, kept.test):
        for text in Path(file.path).read_text().splitlines():
            line = json.loads(text)
            assert line["row"] in records
            assert line["prompt"].startswith(line["row"]["prompt"])
    for file in (kept.dataset.train, plain.dataset.valid):
        assert all("row" not in json.loads(text) for text in Path(file.path).read_text().splitlines())


def test_a_conversation_in_a_cell_of_a_table_is_read_like_one_in_json(tmp_path):
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    shared = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    for column, written, layout in (("messages", chat, "OpenAI chat"), ("conversations", shared, "ShareGPT")):
        fields = {column: json.dumps(written)}
        found = recognise([column], fields)
        assert found == ChatLayout(layout, column)
        assert list(found.conversation(fields).messages) == chat
    with pytest.raises(FieldError, match="is not a list of messages"):
        ChatLayout("OpenAI chat").conversation({"messages": "[no json"})


WORDS = st.sampled_from(
    ["role", "content", "user", "assistant", "tool", "from", "value", "human", "gpt", "function_call", "weight", "name",
     "tool_calls", "tool_call_id", "function", "arguments", "id", "type", "text", "{}", "[]", '{"name": "f"}']
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.floats() | WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=12,
)
MESSAGE_FIELDS = dict.fromkeys(("weight", "name", "tool_calls", "tool_call_id"), JSON)
ROLE = st.sampled_from(["user", "assistant", "tool", "system"])
MESSAGE = (
    st.fixed_dictionaries({"role": ROLE, "content": st.text(max_size=3) | JSON}, optional=MESSAGE_FIELDS)
    | st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", "function_call"]), "value": JSON})
    | JSON
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={name: st.lists(MESSAGE, max_size=4) | JSON for name in ("messages", "conversations")}
    | dict.fromkeys(("system", "tools", "functions", "instruction", "input", "output", "history"), JSON),
)


@settings(deadline=None, max_examples=200)
@given(fields=FIELDS)
@example(fields={"messages": [{"role": "user", "content": [{"type": []}]}]})
def test_any_record_is_a_conversation_or_a_field_error(fields):
    layout = recognise(list(fields), fields)
    if layout is None:
        return
    try:
        conversation = layout.conversation(fields)
    except FieldError:
        return
    assert conversation.messages[-1]["role"] == "assistant"
    json.dumps([conversation.messages, conversation.tools])
