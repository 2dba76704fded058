"""Each repair of rows: what it changes, what it leaves alone, and that it does so once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sweeps
from sweeps.data.checks.catalogue import CHECKS
from sweeps.data.examples import ChatRecipe, PairRecipe
from sweeps.data.repairs import REPAIRS, Change, Facts, Repaired
from sweeps.data.repairs.duplicates import drop_duplicates, drop_leaks, drop_near_duplicates
from sweeps.data.repairs.labels import (
    drop_nulls,
    drop_unseen_labels,
    label_key,
    resolve_conflicts,
    right_spellings,
    unify_labels,
)
from sweeps.data.repairs.preparation import ALL_REPAIRS
from sweeps.data.repairs.rows import Parts, Row, Texts
from sweeps.data.repairs.spaces import trimmed
from sweeps.data.repairs.texts import cut_prompts, decoded_again, drop_empty, drop_long, drop_surrogates, strip_spaces
from sweeps.data.templates import Template

pytestmark = pytest.mark.unit

RECIPE = PairRecipe(Template.parse("{text}"), Template.parse("{label}"), "\n\n###\n\n", "\n")
LABELS = Facts(Texts(RECIPE), is_classification=True)
FREE = Facts(Texts(RECIPE), is_classification=False)
LONG_TEXT = "The committee will meet on the first Monday of March in the large hall of the town library"


def rows(*pairs: tuple[str, str], file: str = "d.csv", group: str | None = None) -> list[Row]:
    return [Row((text,), (label,), file, line, group) for line, (text, label) in enumerate(pairs, 2)]


def kept(repaired: Repaired, part: str = "train") -> list[tuple[str, str]]:
    return [(row.inputs[0], row.answers[0]) for row in repaired.parts[part]]


def once(repair: Callable[[Parts, Facts], Repaired], parts: Parts, facts: Facts) -> tuple[Repaired, Sequence[Change]]:
    """Make a repair; a second time it must find nothing."""
    repaired = repair(parts, facts)
    again = repair(repaired.parts, facts)
    assert not again.changes
    assert again.parts == repaired.parts
    return repaired, repaired.changes


# ------------------------------------------------------------------------------------ single texts
@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("  ham ", "ham"),
        ("\ufeffham\u200b\u00a0", "ham"),
        ("a\r\nb\r", "a\nb"),
        ("\n\n    return x\n    end\n\n", "    return x\n    end"),
        (" \n\t", ""),
        ("a  b", "a  b"),
    ],
)
def test_spaces_go_at_the_ends_but_the_indentation_of_code_stays(text, bare):
    assert trimmed(text) == bare


@given(st.text(st.sampled_from(" \n\r\t\ufeff\u200b\u00a0ab"), max_size=12))
def test_trimming_twice_is_trimming_once(text):
    assert trimmed(trimmed(text)) == trimmed(text)


def test_stray_spaces_are_removed_from_every_column():
    repaired, changes = once(strip_spaces, {"train": rows(("a ", " ham"), ("b", "ham"))}, LABELS)
    assert kept(repaired) == [("a", "ham"), ("b", "ham")]
    assert [(change.place, change.before, change.after) for change in changes] == [("d.csv:2", "a ", "a")]


@pytest.mark.parametrize("text", ["café", "Größe – 5 €", "„ja“", "naïve résumé", "👍 ok", "it’s"])
@pytest.mark.parametrize("codec", ["cp1252", "latin-1"])
@pytest.mark.parametrize("times", [1, 2])
def test_mojibake_is_mended_however_often_it_was_decoded_wrongly(text, codec, times):
    damaged = text
    for _ in range(times):
        damaged = "".join(_decode(byte, codec) for byte in damaged.encode())
    assert damaged != text
    assert decoded_again(damaged) == text


def _decode(byte: int, codec: str) -> str:
    try:
        return bytes([byte]).decode(codec)
    except UnicodeDecodeError:
        return chr(byte)


@pytest.mark.parametrize(
    "text", ["café", "ÇA VA", "Ã", "Straße €5", "¿Qué?", "ПРИВЕТ", "日本語", "Ångström Â", "ß€", "Â£5 and café"]
)
def test_right_text_and_doubtful_text_stay(text):
    assert decoded_again(text) == text


@given(st.text(max_size=30))
def test_mending_any_text_twice_is_mending_it_once(text):
    assert decoded_again(decoded_again(text)) == decoded_again(text)


def test_rows_without_prompt_or_answer_are_left_out_with_the_reason():
    repaired, changes = once(drop_empty, {"train": rows((" ", "ham"), ("a", ""), ("b", "ham"))}, LABELS)
    assert kept(repaired) == [("b", "ham")]
    assert [(change.place, change.after, change.reason) for change in changes] == [
        ("d.csv:2", None, "the prompt is empty"),
        ("d.csv:3", None, "the answer is empty"),
    ]


def test_half_characters_and_long_rows_are_left_out():
    parts = {"train": rows(("a\ud800", "ham"), ("b" * 20, "ham"), ("c", "ham"))}
    assert kept(drop_surrogates(parts, LABELS)) == [("b" * 20, "ham"), ("c", "ham")]
    assert kept(drop_long(parts, Facts(Texts(RECIPE), True, max_characters=22))) == [("a\ud800", "ham"), ("c", "ham")]


def test_prompts_are_cut_between_words_and_answers_never():
    facts = Facts(Texts(RECIPE), is_classification=False, max_characters=20)
    parts = {"train": rows(("one two three four five", "abc"), ("short", "a" * 30), ("x" * 40, "abc"), ("ok", "abc"))}
    repaired, changes = once(cut_prompts, parts, facts)
    assert kept(repaired) == [("one two three", "abc"), ("short", "a" * 30), ("x" * 17, "abc"), ("ok", "abc")]
    assert [change.place for change in changes] == ["d.csv:2", "d.csv:4"]


def test_an_earlier_answer_of_a_conversation_is_not_cut():
    roles = ("user", "assistant", "user", "assistant")
    row = Row(("a" * 30, "b" * 90, "c"), ("d",), "d.jsonl", 1, messages=tuple({"role": role} for role in roles))
    facts = Facts(Texts(ChatRecipe()), is_classification=False, max_characters=110)
    cut = cut_prompts({"train": [row]}, facts).parts["train"][0]
    assert (cut.inputs, cut.answers) == (("a" * 16, "b" * 90, "c"), ("d",))


# ------------------------------------------------------------------------------------------ labels
def test_nan_is_no_label_but_a_frequent_none_is_a_class():
    common = rows(*[(f"a {n}", "ham") for n in range(30)], *[(f"b {n}", "none") for n in range(20)])
    parts = {"train": [*common, *rows(("x", "NaN"), ("nan", "ham"), ("y", "null"), ("z", "#N/A"))]}
    repaired, changes = once(drop_nulls, parts, LABELS)
    assert repaired.parts["train"] == common
    assert len(changes) == 4
    free, _ = once(drop_nulls, {"train": rows(("Any left?", "None"), ("And here?", "nan"))}, FREE)
    assert kept(free) == [("Any left?", "None")]


@pytest.mark.parametrize(
    ("rare", "frequent"),
    [
        ("Ham", "ham"), ("DESC.", "DESC"), ("HUMM", "HUM"), ("neutrl", "neutral"), ("netural", "neutral"),
        ("contradicton", "contradiction"), ("not_spam", "not spam"), ("ｈａｍ", "ham"),
    ],
)  # fmt: skip
def test_another_spelling_or_a_typing_error_is_corrected(rare, frequent):
    assert right_spellings({(frequent,): 40, (rare,): 1, ("other",): 40}) == {(rare,): (frequent,)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("typical", "atypical"), ("legal", "illegal"), ("correct", "incorrect"), ("class 1", "class 2"),
        ("HUM", "NUM"), ("C", "C++"), ("pos", "neg"), ("1 star", "2 star"), ("moral", "amoral"),
    ],
)  # fmt: skip
def test_different_labels_stay_different(one, other):
    assert right_spellings({(one,): 1, (other,): 400}) == {}
    assert right_spellings({(one,): 400, (other,): 1}) == {}


def test_a_rare_label_near_two_frequent_ones_stays():
    assert right_spellings({("cast",): 100, ("case",): 100, ("casx",): 1}) == {}


def test_every_row_of_a_spelling_gets_the_most_frequent_one():
    parts = {"train": rows(*[(f"a {n}", "ham") for n in range(5)], ("b", "Ham")), "test": rows(("c", " HAM"))}
    repaired, changes = once(unify_labels, parts, LABELS)
    assert {row.answers for part in repaired.parts.values() for row in part} == {("ham",)}
    assert [(change.before, change.after) for change in changes] == [("Ham", "ham"), (" HAM", "ham")]
    assert not unify_labels(parts, FREE).changes


@given(st.dictionaries(st.tuples(st.text("abcABC ._-1", min_size=1, max_size=5)), st.integers(1, 60), max_size=12))
def test_right_spellings_are_right_themselves(counts):
    right = right_spellings(counts)
    assert not set(right) & set(right.values()) or any(right[label] != label for label in right)
    assert all(label_key(" ".join(label)) for label in right if label_key(" ".join(label)))


def test_the_majority_wins_a_contradiction_and_without_one_no_row_stays():
    parts = {
        "train": rows(("A b", "ham"), ("a  B", "ham"), ("a b", "spam"), ("tie", "ham"), ("tie", "spam"), ("c", "ham"))
    }
    repaired, changes = once(resolve_conflicts, parts, LABELS)
    assert kept(repaired) == [("A b", "ham"), ("a  B", "ham"), ("c", "ham")]
    assert changes[0].reason == "d.csv:2 has the same prompt and the label 'ham'"
    assert changes[1].reason == "d.csv:6 has the same prompt and the label 'spam', and no label has a majority"
    assert not resolve_conflicts(parts, FREE).changes


def test_a_label_that_training_lacks_is_left_out_of_the_other_parts():
    parts = {"train": rows(("a", "ham")), "test": rows(("b", "ham"), ("c", "spam"))}
    repaired, changes = once(drop_unseen_labels, parts, LABELS)
    assert (kept(repaired), kept(repaired, "test")) == ([("a", "ham")], [("b", "ham")])
    assert changes[0].reason == "no training example has the label 'spam'"


# -------------------------------------------------------------------------------------- duplicates
def test_the_first_of_equal_rows_stays():
    repaired, changes = once(drop_duplicates, {"train": rows(("a", "ham"), ("a", "spam"), ("a", "ham"))}, FREE)
    assert kept(repaired) == [("a", "ham"), ("a", "spam")]
    assert [(change.place, change.reason) for change in changes] == [("d.csv:4", "the same as d.csv:2")]


def test_conversations_with_other_tools_or_weights_are_not_the_same():
    facts = Facts(Texts(ChatRecipe()), is_classification=False)
    messages = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    plain = Row(("a",), ("b",), "d.jsonl", 1, messages=messages)
    weighted = plain._replace(messages=(messages[0], {**messages[1], "weight": 1}), line=2)
    tooled = plain._replace(tools=({"type": "function", "function": {"name": "f"}},), line=3)
    repaired, _ = once(drop_duplicates, {"train": [plain, weighted, tooled, plain._replace(line=4)]}, facts)
    assert [row.line for row in repaired.parts["train"]] == [1, 2, 3]


def test_near_duplicates_go_only_if_the_label_is_the_same():
    other = LONG_TEXT.replace("first", "last")
    parts = {
        "train": rows((LONG_TEXT, "ham"), (other, "ham"), (other + "!", "spam"), ("Something else entirely", "ham"))
    }
    repaired, changes = once(drop_near_duplicates, parts, LABELS)
    assert [row.line for row in repaired.parts["train"]] == [2, 4, 5]
    assert changes[0].reason.startswith("nearly the same as d.csv:2")


def test_sums_that_differ_in_a_sign_are_not_nearly_the_same():
    parts = {"train": rows(("12 + 30 =", "42")), "test": rows(("12 - 30 =", "-18"))}
    assert not drop_leaks(parts, FREE).changes


def test_training_rows_leave_for_test_rows_and_the_test_part_stays():
    parts = {
        "train": rows((LONG_TEXT, "ham"), ("in validation", "ham"), ("own", "ham"), ("A test row", "spam")),
        "valid": rows(("in validation", "ham"), ("a  TEST row", "ham")),
        "test": rows((LONG_TEXT.replace("large", "small"), "ham"), ("a test row", "ham")),
    }
    repaired, changes = once(drop_leaks, parts, LABELS)
    assert kept(repaired) == [("own", "ham")]
    assert kept(repaired, "valid") == [("in validation", "ham")]
    assert repaired.parts["test"] == parts["test"]
    assert [change.reason for change in changes] == [
        "d.csv:2 in test is nearly the same",
        "d.csv:2 in valid has the same prompt",
        "d.csv:3 in test has the same prompt",
        "d.csv:3 in test has the same prompt",
    ]


def test_a_group_is_in_one_part():
    parts = {
        "train": rows(("a", "ham"), group="u1") + rows(("b", "ham"), group="u2"),
        "test": rows(("c", "x"), group="u1"),
    }
    repaired, changes = once(drop_leaks, parts, LABELS)
    assert kept(repaired) == [("b", "ham")]
    assert changes[0].reason == "d.csv:2 in test is of the same group 'u1'"


# ------------------------------------------------------------------------------------------- codes
def test_the_guide_lists_every_repair():
    guide = Path(sweeps.__file__).parents[1] / "docs" / "guide" / "prepare.md"
    marks = {"required": "**", "on request": "*", "usual": ""}
    table = [
        f"| {marks[repair.mode]}`{repair.code}`{marks[repair.mode]} | {repair.title[:1].lower()}{repair.title[1:]} | "
        f"{', '.join(f'`{code}`' for code in repair.mends)} |"
        for repair in ALL_REPAIRS
    ]
    assert "\n".join(table) in guide.read_text(encoding="utf-8")


def test_every_finding_that_names_sweep_prepare_has_a_repair_and_every_repair_its_finding():
    mended = {code for repair in ALL_REPAIRS for code in repair.mends}
    split_again = {"class-missing", "length-drift", "label-drift"}
    named = {code for code, check in CHECKS.items() if "`sweep prepare`" in check.repair}
    assert named - split_again <= mended
    assert mended <= set(CHECKS)
    assert len({repair.code for repair in ALL_REPAIRS}) == len(ALL_REPAIRS) == len(REPAIRS) + 4
