"""Recipes: how a record becomes an example, the same in every part; and conversations."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.data.examples import DEFAULT_SEPARATOR, ChatRecipe, Example, PairRecipe, build_examples, choose_recipe
from sweeps.data.findings import Finding
from sweeps.data.readers.record import Record
from sweeps.data.templates import FieldError

pytestmark = pytest.mark.unit

NLI = {"premise": "A dog runs.", "hypothesis": "It moves.", "label": "entailment"}


def pairs(records: list[dict], prompt=None, completion=None, separator=None, stop=None) -> PairRecipe:
    chosen = choose_recipe([Record(record, "d", 1) for record in records], prompt, completion, separator, stop)
    assert isinstance(chosen, PairRecipe)
    return chosen


def test_the_sentence_pair_of_the_guide_becomes_prompt_and_completion():
    recipe = pairs([NLI], "{premise}\n{hypothesis}\n\n###\n\n", " {label}")
    assert recipe.example(Record(NLI, "d.jsonl", 3)) == Example(
        "A dog runs.\nIt moves.\n\n###\n\n", " entailment\n", ("A dog runs.", "It moves."), "d.jsonl", 3
    )


@pytest.mark.parametrize(
    ("template", "separator"),
    [
        ("{premise}\n\n###\n\n", "\n\n###\n\n"),
        ("{premise}\nAnswer:", "\nAnswer:"),
        ("{premise} ->", " ->"),
        ("{premise}", "\n\n###\n\n"),
        ("{premise} ", "\n\n###\n\n"),
        ("{premise} is it", "\n\n###\n\n"),
    ],
)
def test_the_tail_of_the_template_is_the_separator_if_it_has_punctuation_or_a_newline(template, separator):
    assert pairs([NLI], template, "{label}").separator == separator


def test_a_written_separator_ends_every_prompt_exactly_once():
    for template in ("{premise}", "{premise}\n##\n"):
        recipe = pairs([NLI], template, "{label}", "\n##\n", " END")
        assert recipe.example(Record(NLI, "d", 1))[:2] == ("A dog runs.\n##\n", "entailment END")


def test_records_prepared_elsewhere_keep_their_separator_and_stop_sequence():
    records = [{"prompt": f"burger {number} ->", "completion": f" edible {number} END"} for number in range(3)]
    recipe = pairs(records)
    assert (recipe.separator, recipe.stop) == (" ->", " END")
    example = recipe.example(Record(records[0], "d", 1))
    assert example[:3] == ("burger 0 ->", " edible 0 END", ("burger 0",))
    later = recipe.example(Record({"prompt": "pan", "completion": " inedible"}, "d", 200))
    assert later[:3] == ("pan ->", " inedible END", ("pan",))


def test_plain_records_get_the_default_separator_and_stop_sequence():
    recipe = pairs([{"prompt": "2+2?", "completion": " 4"}, {"prompt": "1 ->", "completion": " 1"}])
    assert (recipe.separator, recipe.stop) == ("\n\n###\n\n", "\n")


def test_one_template_may_be_left_out_if_its_column_exists():
    recipe = pairs([{"text": "t", "completion": "c"}], prompt="{text}")
    assert recipe.example(Record({"text": "t", "completion": "c"}, "d", 1)).completion == "c\n"


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        (["question", "answer"], 'write for example prompt: "{question}" and completion: " {answer}"'),
        (["Prompt", "Completion"], "did you mean 'Prompt'?"),
        (["text"], "write prompt: and completion: as templates over the columns"),
    ],
)
def test_other_columns_without_a_template_are_an_error_that_proposes_one(columns, hint):
    found = choose_recipe([Record(dict.fromkeys(columns, "x"), "d.csv", 2)], None, None, None, None)
    assert isinstance(found, Finding)
    assert (found.code, found.place, found.hint) == ("no-template", "d.csv:2", hint)


@given(values=st.lists(st.text(max_size=12), min_size=2, max_size=2), stop=st.sampled_from(["\n", " END", "", "."]))
def test_every_example_ends_in_separator_and_stop_and_preserves_its_values(values, stop):
    record = Record({"a": values[0], "b": values[1]}, "d", 1)
    recipe = pairs([dict(record.fields)], "{a}", " {b}", "\n##\n", stop)
    example = recipe.example(record)
    assert example.prompt.endswith("\n##\n")
    assert example.completion.endswith(stop)
    assert example.prompt.removesuffix("\n##\n") == values[0].removesuffix("\n##\n") == example.segments[0]
    assert example.completion.removesuffix(stop) == f" {values[1]}".removesuffix(stop)
    assert json.loads(example.to_line()) == {
        "prompt": example.prompt,
        "completion": example.completion,
        "segments": list(example.segments),
    }


def test_a_field_that_some_records_lack_is_reported_with_each_line():
    recipe = pairs([NLI], "{premise}", "{label}")
    records = [
        Record(NLI, "d", 1),
        Record({"premis": "x", "label": "y"}, "d", 2),
        Record(NLI | {"label": None}, "d", 3),
    ]
    found = list(build_examples(records, recipe))
    assert isinstance(found[0], Example)
    assert [(item.code, item.place, item.hint) for item in found if isinstance(item, Finding)] == [
        ("field", "d:3", ""),
        ("missing-field", "d:2", "did you mean 'premis'?"),
    ]


def test_a_field_that_no_record_has_is_one_error():
    recipe = pairs([NLI], "{premis}", "{label}")
    (found,) = build_examples([Record(NLI, "d", line) for line in range(1, 500)], recipe)
    assert isinstance(found, Finding)
    assert (found.code, found.place, found.count) == ("missing-field", "data.prompt", 499)
    assert found.hint == "did you mean 'premise'?"


# ------------------------------------------------------------------------------------ conversations
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
]


def test_the_last_message_of_a_conversation_is_the_completion():
    record = Record({"messages": TALK}, "d", 1)
    recipe = choose_recipe([record], None, None, None, None)
    assert isinstance(recipe, ChatRecipe)
    example = recipe.example(record)
    assert (example.prompt, example.completion) == ("system: Be short.\nuser: 2+2?", "4")
    assert json.loads(example.to_line()) == {"messages": TALK}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (None, "'messages' is not a list"),
        ([], "'messages' is not a list"),
        (["hello"], "messages.0 is not an object"),
        ([{"role": "user"}], "messages.0 has no 'content'"),
        ([{"content": "x"}], "messages.0 has no 'role'"),
        ([{"role": "bot", "content": "x"}], "messages.0 has the role 'bot'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "the content of messages.0 is not text"),
        ([*TALK, {"role": "user", "content": "3+3?"}], "the last message is by 'user'"),
        ([{"role": "assistant", "content": "x", "reasoning": "y"}], "has 'reasoning', which is not supported"),
    ],
)
def test_a_malformed_conversation_is_an_error(messages, message):
    with pytest.raises(FieldError, match=message):
        ChatRecipe().example(Record({"messages": messages}, "d", 1))


def test_a_separator_for_conversations_is_refused_and_not_ignored():
    found = choose_recipe([Record({"messages": TALK}, "d", 1)], None, None, None, "\n")
    assert isinstance(found, Finding)
    assert found.code == "chat"


def test_templates_take_precedence_over_messages():
    record = Record({"messages": TALK, "q": "2+2?", "a": "4"}, "d", 1)
    assert isinstance(choose_recipe([record], "{q}", "{a}", None, None), PairRecipe)


def test_one_row_without_its_ending_does_not_change_the_delimiters_of_all_others():
    rows = [{"prompt": f"question {n} ->", "completion": f" answer {n} END"} for n in range(30)]
    rows[3] = {"prompt": "question 3", "completion": " answer 3"}
    rows[7]["completion"] = " "
    recipe = choose_recipe([Record(row, "d", n) for n, row in enumerate(rows, 1)], None, None, None, None)
    assert (recipe.separator, recipe.stop) == (" ->", " END")
    assert recipe.example(Record(rows[3], "d", 4))[:2] == ("question 3 ->", " answer 3 END")
    mixed = [Record({"prompt": f"q {n}{' ->' if n % 2 else ''}", "completion": "a"}, "d", n) for n in range(30)]
    assert choose_recipe(mixed, None, None, None, None).separator == DEFAULT_SEPARATOR
