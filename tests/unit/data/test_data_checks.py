"""Checks: what each of them says, with which line, and that clean data are left in peace."""

from __future__ import annotations

import pytest

from sweeps.data import checks
from sweeps.data.examples import Chat, Example, Pairs
from sweeps.data.findings import Finding, capped, error
from sweeps.data.templates import Template

pytestmark = pytest.mark.unit

HOW = Pairs(Template.parse("{q}"), Template.parse("Answer: {a}"), "\n##\n", "\n")


def example(question: str, answer: str, line: int = 1, file: str = "train.jsonl") -> Example:
    return Example(f"{question}\n##\n", f"Answer: {answer}\n", (question,), file, line)


def labelled(*labels: str, file: str = "train.jsonl") -> list[Example]:
    return [example(f"question {number} {file}", label, number, file) for number, label in enumerate(labels, 1)]


def said(findings) -> list[tuple[str, str, str, int]]:
    return [(each.severity, each.code, each.place, each.count) for each in findings]


def test_clean_data_are_left_in_peace():
    examples = labelled(*"ab" * 60)
    parts = {"train": examples, "valid": labelled("a", "b", file="valid.jsonl")}
    labels = sorted({each.completion for each in examples})
    found = [
        *checks.check_texts(examples, HOW),
        *checks.check_delimiters(examples, HOW),
        *checks.check_training(examples, classification=True),
        *checks.check_size(examples),
        *checks.check_labels(parts, labels, False, "\n"),
        *checks.check_overlap(parts, published=False),
    ]
    assert found == []


def test_empty_prompts_and_completions_are_errors_whatever_the_template_adds():
    examples = [example(" \n", "x", 3), example("x", "  ", 4), example("x", "", 5), example("x", "y", 6)]
    assert said(checks.check_texts(examples, HOW)) == [
        ("error", "empty-prompt", "train.jsonl:3", 1),
        ("error", "empty-completion", "train.jsonl:4", 1),
        ("error", "empty-completion", "train.jsonl:5", 1),
    ]


def test_an_empty_answer_in_a_conversation_is_an_error():
    silent = Example("user: hello", " ", ("hello",), "c.jsonl", 8, ({"role": "assistant", "content": " "},))
    assert said(checks.check_texts([silent], Chat())) == [("error", "empty-completion", "c.jsonl:8", 1)]


def test_half_characters_cannot_be_written():
    assert said(checks.check_texts([example("ä\ud83d", "x", 7), example("ä", "x", 8)], HOW)) == [
        ("error", "surrogate", "train.jsonl:7", 1)
    ]


def test_long_examples_are_counted():
    examples = [example("x" * 10_000, "y", 2), example("x", "y" * 10_000, 5), example("x" * 9_000, "y", 6)]
    assert said(checks.check_texts(examples, HOW)) == [("warning", "long-example", "train.jsonl:2", 2)]


def test_a_stop_sequence_inside_completions_is_an_error_with_one_to_take_instead():
    examples = [example("x", "one", 1), example("x", "two\nlines", 2), example("x", "the\n###\n END", 3)]
    (found,) = checks.check_delimiters(examples, HOW)
    assert said([found]) == [("error", "stop-inside", "train.jsonl:2", 2)]
    assert "(lines 2, 3)" in found.message
    assert found.hint == 'set stop: "***", which no completion holds'


def test_a_proposed_stop_is_not_inside_the_separator():
    how = Pairs(Template.parse("{q}"), Template.parse("{a}"), "\n\n###\n\n", "\n")
    (found,) = checks.check_delimiters([Example("q\n\n###\n\n", "two\nlines\n", ("q",), "d", 1)], how)
    assert found.hint == 'set stop: " END", which no completion holds'


def test_a_visible_stop_sequence_inside_prompts_is_a_warning_and_a_line_break_is_not():
    how = Pairs(Template.parse("{q}"), Template.parse("{a}"), "\n##\n", " END")
    examples = [
        Example("THE END\n##\n", "x END", ("THE END",), "d", 4),
        Example("a\nb\n##\n", "x END", ("a\nb",), "d", 5),
    ]
    assert said(checks.check_delimiters(examples, how)) == [("warning", "stop-in-prompt", "d:4", 1)]
    assert list(checks.check_delimiters([example("two\nlines", "x")], HOW)) == []


def test_the_separator_inside_a_text_is_a_warning():
    examples = [example("a\n##\nb", "x", 2), example("a", "x", 3)]
    assert said(checks.check_delimiters(examples, HOW)) == [("warning", "separator-inside", "train.jsonl:2", 1)]


def test_repetitions_and_contradictions_name_both_lines():
    examples = [
        example("q", "a", 1),
        example("q", "a", 2),
        example("q", "b", 3),
        example("q", "b", 4),
        example("r", "a", 5),
    ]
    repeated, contradicted = checks.check_training(examples, classification=True)
    assert said([repeated]) == [("warning", "duplicate", "train.jsonl:2", 2)]
    assert "(lines 2, 4); the first is the same as train.jsonl:1" in repeated.message
    assert said([contradicted]) == [("warning", "conflicting-labels", "train.jsonl:3", 1)]
    assert "the first contradicts train.jsonl:1" in contradicted.message


def test_several_answers_to_one_prompt_are_no_contradiction_where_text_is_generated():
    examples = [example("q", "a", 1), example("q", "b", 2), example("r", "c", 3)]
    assert list(checks.check_training(examples, classification=False)) == []


def test_one_class_or_one_prompt_teach_nothing():
    assert said(checks.check_training(labelled("a", "a", "a"), classification=True)) == [
        ("error", "one-class", "train.jsonl", 1)
    ]
    same = [example("q", answer, line) for line, answer in enumerate("abc", 1)]
    assert said(checks.check_training(same, classification=False)) == [("error", "one-prompt", "train.jsonl", 1)]


@pytest.mark.parametrize(("often", "expected"), [(80, []), (81, ["imbalance"])])
def test_imbalance_is_said_above_four_to_one(often, expected):
    found = list(checks.check_training(labelled(*"a" * often, *"b" * 20), classification=True))
    assert [each.code for each in found] == expected


def test_few_examples_are_said_and_fewer_than_hosted_services_take():
    assert list(checks.check_size(labelled(*"ab" * 50))) == []
    (few,) = checks.check_size(labelled(*"ab" * 49, "a"))
    assert "hosted" not in few.hint
    (very_few,) = checks.check_size(labelled(*"ab" * 4, "a"))
    assert "hosted services refuse fewer than 10" in very_few.hint


def test_labels_that_are_not_allowed_have_a_line_and_the_nearest_that_is():
    parts = {"train": labelled("yes", "no"), "valid": labelled("yes", "yess", file="valid.csv")}
    (found,) = checks.check_labels(parts, ("Answer: yes\n", "Answer: no\n"), True, "\n")
    assert said([found]) == [("error", "unknown-label", "valid.csv:2", 1)]
    assert found.hint == "did you mean 'Answer: yes'?"


def test_labels_that_training_never_shows_are_errors():
    parts = {"train": labelled("yes", "no"), "test": labelled("perhaps", file="test.csv")}
    found = checks.check_labels(parts, ("Answer: no\n", "Answer: yes\n"), False, "\n")
    assert said(found) == [("error", "label-unseen", "test.csv:1", 1)]


def test_labels_that_differ_in_case_or_spaces_only():
    examples = labelled("Yes", "no", "yes", "Yes", " yes")
    labels = sorted({each.completion for each in examples})
    (found,) = checks.check_labels({"train": examples}, labels, False, "\n")
    assert said([found]) == [("warning", "label-spelling", "train.jsonl:5", 1)]
    assert found.message.startswith("'Answer:  yes' and 'Answer: Yes' and 'Answer: yes' differ")


def test_an_allowed_label_that_nobody_has():
    found = checks.check_labels(
        {"train": labelled("a", "b")}, ("Answer: a\n", "Answer: b\n", "Answer: c\n"), True, "\n"
    )
    assert [each.code for each in found] == ["label-unused"]


def test_an_example_in_two_files_is_an_error_with_both_lines():
    parts = {
        "train": [example("q", "a", 3), example("r", "a", 4)],
        "valid": [example("q", "a", 7, "valid.jsonl"), example("q", "a", 8, "valid.jsonl")],
        "test": [example("r", "b", 9, "test.jsonl"), example("q", "a", 10, "test.jsonl")],
    }
    found = list(checks.check_overlap(parts, published=False))
    assert said(found) == [
        ("error", "overlap", "valid.jsonl:7", 1),
        ("error", "overlap", "valid.jsonl:8", 1),
        ("error", "overlap", "test.jsonl:10", 1),
        ("warning", "prompt-overlap", "test.jsonl:9", 1),
        ("error", "overlap", "test.jsonl:10", 1),
    ]
    assert "train.jsonl:3" in found[0].message
    assert "valid.jsonl:7" in found[4].message


def test_what_a_published_division_repeats_is_a_warning():
    parts = {"train": [example("q", "a", 3)], "valid": [example("q", "a", 7, "v"), example("q", "a", 8, "v")]}
    assert said(checks.check_overlap(parts, published=True)) == [("warning", "overlap", "v:7", 2)]


@pytest.mark.parametrize(
    ("completions", "expected"),
    [
        (["a", "b"] * 3, True),
        (["a", "b"] * 2 + ["a"], False),
        ([str(number) for number in range(50)] * 3, True),
        ([str(number) for number in range(51)] * 3, False),
        (["x" * 51, "b"] * 9, False),
        (["two\nlines", "b"] * 9, False),
    ],
)
def test_the_rule_of_task_auto(completions, expected):
    assert checks.is_classification(completions) is expected


def test_at_most_ten_of_a_kind_are_shown_and_the_rest_is_counted():
    many = [error("json", f"d.jsonl:{line}", "broken") for line in range(1, 48)]
    other = [Finding("warning", "json", "said", "d.jsonl:1"), error("field", "d.jsonl:2", "lacks")]
    kept = capped([*many, *other])
    assert [each.place for each in kept[:10]] == [f"d.jsonl:{line}" for line in range(1, 11)]
    assert (kept[10].message, kept[10].place, kept[10].count) == ("and 37 more of the same kind (json)", "d.jsonl", 37)
    assert list(kept[11:]) == other
