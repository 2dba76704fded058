"""Checks: what each one reports and where; and that clean data has no findings."""

from __future__ import annotations

import pytest

from sweeps.data import checks
from sweeps.data.checks.dropping import faulty_places
from sweeps.data.examples import ChatRecipe, Example, PairRecipe
from sweeps.data.findings import Finding, capped, error
from sweeps.data.templates import Template

pytestmark = pytest.mark.unit

RECIPE = PairRecipe(Template.parse("{q}"), Template.parse("Answer: {a}"), "\n##\n", "\n")


def example(question: str, answer: str, line: int = 1, file: str = "train.jsonl") -> Example:
    return Example(f"{question}\n##\n", f"Answer: {answer}\n", (question,), file, line)


def labelled(*labels: str, file: str = "train.jsonl") -> list[Example]:
    return [example(f"question {number} {file}", label, number, file) for number, label in enumerate(labels, 1)]


def summary(findings) -> list[tuple[str, str, str, int]]:
    return [(finding.severity, finding.code, finding.place, finding.count) for finding in findings]


def test_clean_data_has_no_findings():
    examples = labelled(*"ab" * 60)
    parts = {"train": examples, "valid": labelled("a", "b", file="valid.jsonl")}
    labels = sorted({example.completion for example in examples})
    findings = [
        *checks.check_texts(examples, RECIPE),
        *checks.check_delimiters(examples, RECIPE),
        *checks.check_training(examples, classification=True),
        *checks.check_size(examples),
        *checks.check_labels(parts, labels, False, "\n"),
        *checks.check_overlap(parts, published=False),
    ]
    assert findings == []


def test_empty_prompts_and_completions_are_errors_even_if_the_template_adds_text():
    examples = [example(" \n", "x", 3), example("x", "  ", 4), example("x", "", 5), example("x", "y", 6)]
    assert summary(checks.check_texts(examples, RECIPE)) == [
        ("error", "empty-prompt", "train.jsonl:3", 1),
        ("error", "empty-completion", "train.jsonl:4", 1),
        ("error", "empty-completion", "train.jsonl:5", 1),
    ]


def test_an_empty_answer_in_a_conversation_is_an_error():
    silent = Example("user: hello", " ", ("hello",), "c.jsonl", 8, ({"role": "assistant", "content": " "},))
    assert summary(checks.check_texts([silent], ChatRecipe())) == [("error", "empty-completion", "c.jsonl:8", 1)]


def test_unpaired_surrogates_are_errors():
    assert summary(checks.check_texts([example("ä\ud83d", "x", 7), example("ä", "x", 8)], RECIPE)) == [
        ("error", "surrogate", "train.jsonl:7", 1)
    ]


def test_long_examples_are_counted():
    examples = [example("x" * 10_000, "y", 2), example("x", "y" * 10_000, 5), example("x" * 9_000, "y", 6)]
    assert summary(checks.check_texts(examples, RECIPE)) == [("warning", "long-example", "train.jsonl:2", 2)]


def test_a_stop_sequence_inside_completions_is_an_error_that_proposes_another():
    examples = [example("x", "one", 1), example("x", "two\nlines", 2), example("x", "the\n###\n END", 3)]
    (found,) = checks.check_delimiters(examples, RECIPE)
    assert summary([found]) == [("error", "stop-inside", "train.jsonl:2", 2)]
    assert "(lines 2, 3)" in found.message
    assert found.hint == 'set stop: "***", which no completion has'


def test_a_proposed_stop_is_not_inside_the_separator():
    recipe = PairRecipe(Template.parse("{q}"), Template.parse("{a}"), "\n\n###\n\n", "\n")
    (found,) = checks.check_delimiters([Example("q\n\n###\n\n", "two\nlines\n", ("q",), "d", 1)], recipe)
    assert found.hint == 'set stop: " END", which no completion has'


def test_a_visible_stop_sequence_inside_prompts_is_a_warning_but_a_line_break_is_not():
    recipe = PairRecipe(Template.parse("{q}"), Template.parse("{a}"), "\n##\n", " END")
    examples = [
        Example("THE END\n##\n", "x END", ("THE END",), "d", 4),
        Example("a\nb\n##\n", "x END", ("a\nb",), "d", 5),
    ]
    assert summary(checks.check_delimiters(examples, recipe)) == [("warning", "stop-in-prompt", "d:4", 1)]
    assert list(checks.check_delimiters([example("two\nlines", "x")], RECIPE)) == []


def test_the_separator_inside_a_text_is_a_warning():
    examples = [example("a\n##\nb", "x", 2), example("a", "x", 3)]
    assert summary(checks.check_delimiters(examples, RECIPE)) == [("warning", "separator-inside", "train.jsonl:2", 1)]


def test_findings_on_repetitions_and_contradictions_name_both_lines():
    examples = [
        example("q", "a", 1),
        example("q", "a", 2),
        example("q", "b", 3),
        example("q", "b", 4),
        example("r", "a", 5),
    ]
    repeated, contradicted = checks.check_training(examples, classification=True)
    assert summary([repeated]) == [("warning", "duplicate", "train.jsonl:2", 2)]
    assert "(lines 2, 4); the first is the same as train.jsonl:1" in repeated.message
    assert summary([contradicted]) == [("warning", "conflicting-labels", "train.jsonl:3", 1)]
    assert "the first contradicts train.jsonl:1" in contradicted.message


def test_several_answers_to_one_prompt_are_not_a_contradiction_in_text_generation():
    examples = [example("q", "a", 1), example("q", "b", 2), example("r", "c", 3)]
    assert list(checks.check_training(examples, classification=False)) == []


def test_a_single_completion_or_a_single_prompt_is_an_error():
    assert summary(checks.check_training(labelled("a", "a", "a"), classification=True)) == [
        ("error", "one-class", "train.jsonl", 1)
    ]
    same = [example("q", answer, line) for line, answer in enumerate("abc", 1)]
    assert summary(checks.check_training(same, classification=False)) == [("error", "one-prompt", "train.jsonl", 1)]


@pytest.mark.parametrize(("often", "expected"), [(80, []), (81, ["imbalance"])])
def test_imbalance_is_reported_above_four_to_one(often, expected):
    findings = checks.check_training(labelled(*"a" * often, *"b" * 20), classification=True)
    assert [finding.code for finding in findings] == expected


def test_few_examples_are_reported_and_the_minimum_of_hosted_services():
    assert list(checks.check_size(labelled(*"ab" * 50))) == []
    (few,) = checks.check_size(labelled(*"ab" * 49, "a"))
    assert "hosted" not in few.hint
    (very_few,) = checks.check_size(labelled(*"ab" * 4, "a"))
    assert "hosted services refuse fewer than 10" in very_few.hint


def test_a_label_that_is_not_allowed_is_reported_with_its_line_and_the_nearest_allowed_one():
    parts = {"train": labelled("yes", "no"), "valid": labelled("yes", "yess", file="valid.csv")}
    (found,) = checks.check_labels(parts, ("Answer: yes\n", "Answer: no\n"), True, "\n")
    assert summary([found]) == [("error", "unknown-label", "valid.csv:2", 1)]
    assert found.hint == "did you mean 'Answer: yes'?"


def test_labels_without_training_examples_are_errors():
    parts = {"train": labelled("yes", "no"), "test": labelled("perhaps", file="test.csv")}
    found = checks.check_labels(parts, ("Answer: no\n", "Answer: yes\n"), False, "\n")
    assert summary(found) == [("error", "label-unseen", "test.csv:1", 1)]


def test_labels_that_differ_only_in_case_or_spaces_are_reported():
    examples = labelled("Yes", "no", "yes", "Yes", " yes")
    labels = sorted({example.completion for example in examples})
    (found,) = checks.check_labels({"train": examples}, labels, False, "\n")
    assert summary([found]) == [("warning", "label-spelling", "train.jsonl:5", 2)]
    assert sorted(found.places) == ["train.jsonl:3", "train.jsonl:5"]
    assert found.message.startswith("'Answer:  yes' and 'Answer: Yes' and 'Answer: yes' differ")


def test_an_allowed_label_without_examples_is_reported():
    found = checks.check_labels(
        {"train": labelled("a", "b")}, ("Answer: a\n", "Answer: b\n", "Answer: c\n"), True, "\n"
    )
    assert [finding.code for finding in found] == ["label-unused"]


def test_an_example_in_two_files_is_an_error_with_both_lines():
    parts = {
        "train": [example("q", "a", 3), example("r", "a", 4)],
        "valid": [example("q", "a", 7, "valid.jsonl"), example("q", "a", 8, "valid.jsonl")],
        "test": [example("r", "b", 9, "test.jsonl"), example("q", "a", 10, "test.jsonl")],
    }
    found = list(checks.check_overlap(parts, published=False))
    assert summary(found) == [
        ("error", "overlap", "valid.jsonl:7", 1),
        ("error", "overlap", "valid.jsonl:8", 1),
        ("error", "overlap", "test.jsonl:10", 1),
        ("warning", "prompt-overlap", "test.jsonl:9", 1),
        ("error", "overlap", "test.jsonl:10", 1),
    ]
    assert "train.jsonl:3" in found[0].message
    assert "valid.jsonl:7" in found[4].message


def test_a_repetition_in_a_published_split_is_a_warning():
    parts = {"train": [example("q", "a", 3)], "valid": [example("q", "a", 7, "v"), example("q", "a", 8, "v")]}
    assert summary(checks.check_overlap(parts, published=True)) == [("warning", "overlap", "v:7", 2)]


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


def test_at_most_ten_findings_of_a_kind_are_listed_and_the_rest_is_counted():
    many = [error("json", f"d.jsonl:{line}", "broken") for line in range(1, 48)]
    other = [Finding("warning", "json", "reported", "d.jsonl:1"), error("field", "d.jsonl:2", "missing")]
    kept = capped([*many, *other])
    assert [finding.place for finding in kept[:10]] == [f"d.jsonl:{line}" for line in range(1, 11)]
    assert (kept[10].message, kept[10].place, kept[10].count) == ("and 37 more of the same kind (json)", "d.jsonl", 37)
    assert list(kept[11:]) == other


def test_texts_that_bring_a_separator_or_a_stop_sequence_of_their_own_are_reported():
    examples = [example(f"question {line} ->", f"{line} END", line) for line in range(1, 5)]
    separator, stop = checks.check_delimiters(examples, RECIPE)
    assert summary([separator, stop]) == [
        ("warning", "doubled-separator", "train.jsonl:1", 4),
        ("warning", "doubled-stop", "train.jsonl:1", 4),
    ]
    assert separator.hint.startswith('write separator: " ->"')
    assert stop.hint.startswith('write stop: " END"')
    assert list(checks.check_delimiters(examples[:1], RECIPE)) == []


def test_of_many_examples_in_two_parts_ten_have_an_error_of_their_own_and_all_are_counted_and_droppable():
    train = [example(f"q {line}", "a", line) for line in range(1, 41)]
    valid = [example(f"q {line}", "a", line, "valid.jsonl") for line in range(6, 31)]
    found = list(checks.check_overlap({"train": train, "valid": valid}, published=False))
    assert [finding.place for finding in found[:10]] == [f"valid.jsonl:{line}" for line in range(6, 16)]
    assert sum(finding.count for finding in found) == 25
    assert capped(found)[-1].count == 15
    places = faulty_places([checks.check_overlap({"train": train, "valid": valid}, False)], ["overlap", "duplicate"])
    assert places == {"overlap": {f"valid.jsonl:{line}" for line in range(6, 31)}, "duplicate": set()}


def test_findings_on_many_examples_list_ten_places():
    found = list(checks.check_training([example("q", "a", line) for line in range(1, 41)], classification=False))
    (repeated,) = [finding for finding in found if finding.code == "duplicate"]
    assert (repeated.count, repeated.places) == (39, tuple(f"train.jsonl:{line}" for line in range(2, 12)))
    assert "39 examples (lines 2, 3, 4, 5, 6, ...)" in repeated.message
