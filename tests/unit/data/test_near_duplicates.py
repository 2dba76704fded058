"""Near duplicates: what counts as one, across parts, and the same result from disk."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from data_views import clean_view, example, rows, sentences, view

from sweeps.data.checks.near import JoinedParts, check_near_duplicates
from sweeps.data.example_store import ExampleStore
from sweeps.data.examples import Example
from sweeps.data.near_duplicates import MAX_CHARACTERS, near_duplicates, normalized

pytestmark = pytest.mark.unit

TEXT = "The gardener repaired a wooden bridge behind the library before the heavy rain."


def is_pair(first: Example, second: Example, labelled: bool = True) -> bool:
    return bool(near_duplicates([first, second], labelled).pairs)


@pytest.mark.parametrize(
    "edited",
    [
        TEXT.upper(),
        TEXT.rstrip(".") + " !!",
        TEXT.replace(" ", "  "),
        TEXT.replace("wooden", "woden"),
        TEXT.replace("heavy", "strong"),
        "Hello, " + TEXT,
        TEXT.replace("library", "ｌｉｂｒａｒｙ"),
    ],
)
def test_small_edits_leave_a_near_duplicate(edited: str) -> None:
    assert is_pair(example(TEXT, "a", 2), example(edited, "a", 3))


def test_another_label_or_another_text_is_none() -> None:
    assert not is_pair(example(TEXT, "a"), example(TEXT + " Again.", "b"))
    assert not is_pair(example(TEXT, "a"), example("The pilot sold the broken clock near the harbour at noon.", "a"))


def test_short_texts_must_be_equal_but_for_case_and_punctuation() -> None:
    assert is_pair(example("Yes, please", "a"), example("yes please!", "a"))
    assert not is_pair(example("Yes, please", "a"), example("Yes, peas", "a"))


def test_every_field_of_a_prompt_must_be_similar() -> None:
    def pair(premise: str, hypothesis: str) -> Example:
        return Example(f"{premise}\n{hypothesis}", " a", (premise, hypothesis), "d", 1)

    assert not is_pair(pair(TEXT, "A man works."), pair(TEXT, "A woman sleeps."))
    assert is_pair(pair(TEXT, "A man works."), pair(TEXT + " So.", "a man works"))


def test_free_texts_with_other_numbers_or_other_answers_are_other_questions() -> None:
    question = "A farmer has {} sheep and buys five more at the market in town. How many sheep are there now?"
    first = example(question.format(12), "17")
    assert not is_pair(first, example(question.format(13), "18"), labelled=False)
    assert not is_pair(first, example(question.format(12) + " Say it.", "Write a poem"), labelled=False)
    assert is_pair(first, example(question.format(12) + " Say it.", "17"), labelled=False)
    assert is_pair(first, example(question.format(12).upper(), "It is seventeen"), labelled=False)


def test_an_instruction_in_every_prompt_does_not_make_them_similar() -> None:
    instruction = "Decide which topic the following message of a customer is about, and answer with one word: "
    distinct = [example(instruction + text[-34:], "a", line) for line, text in enumerate(sentences(60), 1)]
    assert near_duplicates(distinct, True).pairs == ()


def test_clusters_connect_what_pairs_connect() -> None:
    texts = [TEXT, "something quite different that nobody else has written", TEXT.upper(), TEXT + " Yes."]
    found = near_duplicates([example(text, "a", line) for line, text in enumerate(texts)], True)
    assert found.clusters() == [[0, 2, 3]]


def test_a_set_on_disk_has_the_same_pairs(tmp_path: Path) -> None:
    texts = sentences(300)
    items = rows([(text, "a") for text in [*texts, *(text.replace(" the ", " a ").upper() for text in texts[:50])]])
    store = ExampleStore(tmp_path, limit=1000)
    for item in items:
        store.append(item)
    expected = near_duplicates(items, True)
    assert len({pair.later for pair in expected.pairs}) >= 48
    assert near_duplicates(store, True) == expected


def test_the_empty_set_and_texts_without_letters_have_no_pairs() -> None:
    assert near_duplicates([], True).pairs == ()
    assert near_duplicates([example("", "a"), example("!!", "a")], True).pairs == ()
    assert normalized("!?") == "!?"


def test_near_duplicates_in_train_and_between_parts_name_both_places() -> None:
    texts = sentences(120)
    train = rows([(text, "a") for text in [*texts[:100], texts[5].upper()]])
    valid = rows([(text, "a") for text in [*texts[100:], texts[7].upper(), texts[8]]], "valid.csv")
    in_train, overlap = check_near_duplicates(view(train, valid))
    assert (in_train.code, in_train.count, in_train.place) == ("near-duplicate", 1, "train.csv:102")
    assert "the first is like line 7" in in_train.message
    # The identical text on line 23 is the business of the structural check.
    assert (overlap.code, overlap.count, overlap.places) == ("near-overlap", 1, ("valid.csv:22",))
    assert "like train.csv:9" in overlap.message


def test_a_copy_of_a_copy_in_one_part_is_still_a_leak() -> None:
    texts = sentences(60)
    valid = rows([(texts[3].replace("ed ", "d "), "a"), (texts[3].replace("ed ", "d ").upper(), "a")], "valid.csv")
    found = {finding.code: finding for finding in check_near_duplicates(view(rows([(t, "a") for t in texts]), valid))}
    assert found["near-overlap"].count == 2


def test_a_few_near_duplicates_of_a_published_split_are_not_reported() -> None:
    texts = sentences(150)
    train = rows([(text, "a") for text in texts[:100]])
    valid = rows([(text, "a") for text in [*texts[100:], texts[7].upper()]], "valid.csv")
    assert [finding.code for finding in check_near_duplicates(view(train, valid))] == ["near-overlap"]
    assert list(check_near_duplicates(view(train, valid, published=True))) == []


def test_clean_sets_have_none() -> None:
    for labels in (True, False):
        assert list(check_near_duplicates(clean_view(labels))) == []


def test_joined_parts_know_where_an_example_comes_from() -> None:
    parts = {"train": rows([("a", "x"), ("b", "x")]), "valid": [], "test": rows([("c", "x")], "test.csv")}
    joined = JoinedParts(parts)
    assert [joined.part_of(index) for index in range(len(joined))] == ["train", "train", "test"]
    assert [item.place for item in joined] == [joined[index].place for index in range(3)]


def test_long_documents_are_compared_by_their_beginning_in_little_time() -> None:
    beginning = " ".join(sentences(150))
    assert len(beginning) > MAX_CHARACTERS
    documents = [example(beginning + end * 300_000, "a", line) for line, end in enumerate(("x", "y"), 1)]
    started = time.process_time()
    assert [pair.similarity for pair in near_duplicates(documents, True).pairs] == [pytest.approx(0.999)]
    assert time.process_time() - started < 2
