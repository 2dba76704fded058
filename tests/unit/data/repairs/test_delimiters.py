"""Delimiters: what files carry is taken off, and what is written occurs nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.data.examples import PairRecipe
from sweeps.data.repairs import delimiters
from sweeps.data.repairs.rows import Row, Texts
from sweeps.data.templates import Template

pytestmark = pytest.mark.unit

RECIPE = PairRecipe(Template.parse("{prompt}"), Template.parse("{completion}"), "\n\n###\n\n", "\n")
TEXTS = Texts(RECIPE)


def carried(*pairs: tuple[str, str]) -> dict[str, list[Row]]:
    rows = [Row((prompt,), (completion,), "d.jsonl", line) for line, (prompt, completion) in enumerate(pairs, 1)]
    return {"train": list(delimiters.without_delimiters({"train": rows}, RECIPE)["train"])}


def written(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
    parts = carried(*pairs)
    ends = delimiters.choose(parts, TEXTS, None, None)
    return [(ends.prompt(TEXTS.prompt(row)), ends.completion(TEXTS.answer(row))) for row in parts["train"]]


@pytest.mark.parametrize(
    "prompt",
    [
        "a",
        "a\n\n###\n\n",
        "a\n\n###\n\n\n\n###\n\n",
        "a\n\n###",
        "a \n##\n",
        "a\n\n===\n\n",
        "a\n--->\n",
        "a\n###\n\n###\n",
    ],
)
def test_whatever_separators_a_prompt_carries_it_gets_one(prompt):
    assert written((prompt, "x"))[0][0] in ("a\n\n###\n\n", "a\n\n===\n\n", "a\n##\n", "a\n###\n", "a\n\n--->\n\n")
    assert written((prompt, "x"), ("b\n\n###\n\n", "y"), ("c\n\n###\n\n", "y"))[0][0] == "a\n\n###\n\n"


@pytest.mark.parametrize("prompt", ["# Title\n\ntext", "x -> y", "a --- b", "1 ->"])
def test_text_that_only_resembles_a_separator_stays(prompt):
    assert written((prompt, "x"), ("b", "y"), ("c", "y"))[0][0] == f"{prompt}\n\n###\n\n"


def test_arrows_are_separators_if_most_prompts_end_with_one():
    assert [prompt for prompt, _ in written(("a ->", "x"), ("b ->", "y"), ("c", "y"))] == ["a ->", "b ->", "c ->"]


@pytest.mark.parametrize(
    ("completion", "stop"), [(" x END", " END"), ("x\n", "\n"), ("x\n###\n", "\n###\n"), (" x", "\n")]
)
def test_a_completion_gets_one_space_and_the_stop_sequence_of_the_file(completion, stop):
    assert [text for _, text in written(("a", completion), ("b", completion))] == [f" x{stop}"] * 2


def test_a_stop_sequence_that_few_completions_end_with_is_text():
    assert written(("a", "THE END"), ("b", "y"), ("c", "z"))[0][1] == " THE END\n"


def test_delimiters_that_occur_in_a_text_are_not_chosen():
    pairs = [("a\n\n###\n\nb", "one\ntwo END"), ("c", "d")]
    parts = carried(*pairs)
    ends = delimiters.choose(parts, TEXTS, None, None)
    texts = [text for pair in pairs for text in pair]
    assert not any(ends.separator in text or ends.stop in text for text in texts)


def test_delimiters_are_found_even_if_all_known_ones_are_taken():
    taken = "".join((*delimiters.SEPARATORS, *delimiters.STOPS, "\n"))
    ends = delimiters.choose(carried((f"x{taken}x", f"y{taken}y")), TEXTS, None, None)
    assert ends.separator not in taken
    assert ends.stop not in taken


def test_what_was_asked_for_is_taken():
    ends = delimiters.choose(carried(("a", "x")), TEXTS, "=>", "<end>")
    assert (ends.separator, ends.stop) == ("=>", "<end>")


def test_only_a_file_with_delimiters_has_some_to_repair():
    plain = carried(("a", "x"), ("b", "y"))
    ends = delimiters.choose(plain, TEXTS, None, None)
    assert not delimiters.separator_changes(plain, TEXTS, ends)
    assert not delimiters.stop_changes(plain, TEXTS, ends)
    assert not delimiters.lead_changes(plain, TEXTS, ends)
    mixed = carried(("a\n\n###\n\n", " x END"), ("b\n\n###\n\n", " y END"), ("c", "z"))
    ends = delimiters.choose(mixed, TEXTS, None, None)
    assert [(change.before, change.after) for change in delimiters.separator_changes(mixed, TEXTS, ends)] == [
        ("c", "c\n\n###\n\n")
    ]
    assert [change.after for change in delimiters.stop_changes(mixed, TEXTS, ends)] == ["z END"]
    assert [change.after for change in delimiters.lead_changes(mixed, TEXTS, ends)] == [" z"]


pieces = st.text(st.sampled_from(["a", " ", "\n", "#", "-", ">", "=", "E", "N", "D", "*"]), max_size=14)


@given(st.lists(st.tuples(pieces, pieces), min_size=1, max_size=8))
def test_what_was_written_is_read_again_as_the_same_texts(pairs):
    parts = carried(*pairs)
    ends = delimiters.choose(parts, TEXTS, None, None)
    recipe = PairRecipe(RECIPE.prompt, RECIPE.completion, ends.separator, ends.stop)
    texts = [(TEXTS.prompt(row), TEXTS.answer(row)) for row in parts["train"]]
    lines = [(ends.prompt(prompt), ends.completion(answer)) for prompt, answer in texts]
    rows = [Row((prompt,), (completion,), "d.jsonl", line) for line, (prompt, completion) in enumerate(lines, 1)]
    again = delimiters.without_delimiters({"train": rows}, recipe)
    assert [(Texts(recipe).prompt(row), Texts(recipe).answer(row)) for row in again["train"]] == texts
