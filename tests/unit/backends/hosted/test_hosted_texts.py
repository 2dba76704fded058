"""Examples in a host's form, result files in every dialect, and labels out of answers."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.contract import BackendError, FailureKind
from backends.hosted import examples, label_scoring, profile, result_files
from backends.hosted.examples import Form
from backends.hosted.label_scoring import Token
from backends.testing import write_jsonl

pytestmark = pytest.mark.unit

ALIASES = profile.load("openai").metrics.aliases
LINE = {
    "prompt": "A dog.\nAn animal.\n\n###\n\n",
    "completion": " entailment END",
    "segments": ["A dog.", "An animal."],
}


# ------------------------------------------------------------------------------------------------------------ examples
def test_a_prompt_and_its_completion_become_messages() -> None:
    assert examples.as_given(LINE, Form(chat=True, stop=" END")) == {
        "messages": [
            {"role": "user", "content": "A dog.\nAn animal.\n\n###\n\n"},
            {"role": "assistant", "content": "entailment"},
        ]
    }


def test_a_system_message_comes_first() -> None:
    given_ = examples.as_given(LINE, Form(chat=True, system_message="Be brief."))
    assert given_["messages"][0] == {"role": "system", "content": "Be brief."}
    assert len(given_["messages"]) == 3


def test_a_completion_model_gets_the_text_as_it_is() -> None:
    assert examples.as_given(LINE, Form(chat=False, stop=" END")) == {
        "prompt": LINE["prompt"],
        "completion": LINE["completion"],
    }


def test_a_host_for_encoders_gets_the_segments() -> None:
    form = Form(chat=False, fields=("prompt", "completion", "segments"))
    assert examples.as_given(LINE, form) == LINE


def test_messages_stay_messages_and_are_no_prompt() -> None:
    chat = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    assert examples.as_given(chat, Form(chat=True)) == chat
    with pytest.raises(BackendError) as raised:
        examples.as_given(chat, Form(chat=False))
    assert raised.value.failure.kind is FailureKind.USER


def test_what_is_asked_is_what_was_trained_without_the_answer() -> None:
    for form in (Form(chat=True, stop=" END"), Form(chat=True, system_message="s")):
        assert examples.as_question(LINE, form) == examples.as_given(LINE, form)["messages"][:-1]
    chat = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    assert examples.as_question(chat, Form(chat=True)) == chat["messages"][:-1]
    assert examples.as_question({"messages": chat["messages"][:1]}, Form(chat=True)) == chat["messages"][:1]


@given(st.lists(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), min_size=1, unique=True))
def test_every_label_is_recognised_as_the_model_says_it(words: list[str]) -> None:
    labels = [f" {word} END" for word in words]
    for form in (Form(chat=True, stop=" END"), Form(chat=False, stop=" END")):
        spoken = examples.as_spoken(labels, form)
        assert [label_scoring.of_text(spoken, each) for each in spoken] == list(range(len(labels)))


def test_a_file_is_named_by_its_content(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "d.jsonl", [LINE, LINE])
    chat = examples.write(file, Form(chat=True), tmp_path / "out")
    again = examples.write(file, Form(chat=True), tmp_path / "out")
    text = examples.write(file, Form(chat=False), tmp_path / "out")
    marked = examples.write(file, Form(chat=False, byte_order_mark=True), tmp_path / "out")
    assert chat == again
    assert len({chat.sha256, text.sha256, marked.sha256}) == 3
    assert chat.path.stat().st_size == chat.bytes
    assert marked.path.read_bytes() == b"\xef\xbb\xbf" + text.path.read_bytes()
    assert [json.loads(line) for line in chat.path.read_text().splitlines()] == [
        examples.as_given(LINE, Form(chat=True))
    ] * 2
    assert not list((tmp_path / "out").glob("*.part"))


# -------------------------------------------------------------------------------------------------------- result files
PLAIN = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,0.9,0.5,,\n2,0.7,0.6,0.8,0.55\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        base64.b64encode(PLAIN.encode()),
        base64.encodebytes(PLAIN.encode()),
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.replace("\n", "\r\n").encode(),
    ],
    ids=["plain", "base64", "base64 in lines", "byte order mark", "Windows"],
)
def test_a_result_file_in_its_dialects(content: bytes) -> None:
    assert result_files.read(content, ALIASES) == [
        {"step": 1.0, "train_loss": 0.9, "train_mean_token_accuracy": 0.5},
        {
            "step": 2.0,
            "train_loss": 0.7,
            "train_mean_token_accuracy": 0.6,
            "valid_loss": 0.8,
            "valid_mean_token_accuracy": 0.55,
        },
    ]


def test_azure_columns_are_the_same_measurements() -> None:
    names = "step,train_loss,train_mean_token_accuracy,valid_loss,validation_mean_token_accuracy,full_valid_loss"
    assert result_files.read(f"{names}\n3,1,2,3,4,5\n".encode(), ALIASES) == [
        {
            "step": 3.0,
            "train_loss": 1.0,
            "train_mean_token_accuracy": 2.0,
            "valid_loss": 3.0,
            "valid_mean_token_accuracy": 4.0,
            "full_valid_loss": 5.0,
        }
    ]


def test_a_number_that_is_none_counts_and_an_empty_cell_does_not() -> None:
    (row,) = result_files.read(b"step,train_loss,valid_loss\n1,nan,\n", ALIASES)
    assert math.isnan(row["train_loss"])
    assert "valid_loss" not in row


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff\xfe\x00", base64.b64encode(b"\xff"), b"epoch,loss\n1,2\n"])
def test_what_is_no_result_file_has_no_rows(content: bytes) -> None:
    assert result_files.read(content, ALIASES) == []


# -------------------------------------------------------------------------------------------------------------- labels
def token(text: str, probability: float, **others: float) -> Token:
    return Token(
        text, math.log(probability), {name: math.log(each) for name, each in {**others, text: probability}.items()}
    )


def chances(labels: list[str], *tokens: Token) -> list[float]:
    found = label_scoring.of_alternatives(labels, tokens)
    assert found is not None
    return [round(math.exp(each), 6) for each in found]


def test_labels_of_one_token() -> None:
    assert chances(["yes", "no"], token("yes", 0.7, no=0.2, maybe=0.1)) == [0.7, 0.2]


def test_white_space_around_a_label_is_none_of_its() -> None:
    assert chances([" yes", " no"], token(" yes", 0.7, no=0.2)) == [0.7, 0.2]


def test_labels_that_begin_alike_are_followed() -> None:
    first, second = token("ne", 0.8, ent=0.2), token("utral", 0.75, gative=0.25)
    assert chances(["neutral", "negative", "entailment"], first, second) == [0.6, 0.2, 0.2]


def test_an_alternative_that_leads_to_several_counts_for_them_alike() -> None:
    assert chances(["neutral", "negative", "other"], token("other", 0.6, ne=0.4)) == [0.2, 0.2, 0.6]


def test_a_label_that_is_the_beginning_of_another() -> None:
    ended = [token("no", 0.9, nope=0.1), token("\n", 0.8, pe=0.2)]
    assert chances(["no", "nope"], *ended) == [pytest.approx(0.72), pytest.approx(0.1 + 0.18)]


def test_an_unlikely_label_is_at_most_as_likely_as_the_least_alternative() -> None:
    assert chances(["a", "b", "c"], token("a", 0.9, b=0.06, x=0.04)) == [0.9, 0.06, 0.04]


def test_an_answer_that_is_no_label_says_nothing() -> None:
    assert label_scoring.of_alternatives(["yes", "no"], [token("hm", 0.9, well=0.1)]) is None
    assert label_scoring.of_alternatives(["yes", "no"], []) is None


WORDS = st.text("abc", min_size=1, max_size=4)


@given(st.lists(WORDS, min_size=2, max_size=4, unique=True), st.data())
def test_probabilities_never_exceed_one(labels: list[str], data: st.DataObject) -> None:
    spoken = data.draw(st.sampled_from(labels))
    tokens = []
    for letter in spoken:
        others = data.draw(
            st.dictionaries(WORDS.filter(lambda each, own=letter: each != own), st.floats(0.01, 0.1), max_size=4)
        )
        tokens.append(token(letter, 0.5, **others))
    found = label_scoring.of_alternatives(labels, tokens)
    assert found is not None
    assert all(value <= 0 for value in found)
    assert all(math.isfinite(value) for value in found)


def test_a_text_that_was_read_back_scores_what_follows_the_prompt() -> None:
    logprobs = {
        "tokens": ["the", " cat", " s", "at"],
        "token_logprobs": [None, -1.0, -2.0, -3.0],
        "text_offset": [0, 3, 7, 9],
    }
    assert label_scoring.of_echo("the cat", logprobs) == -5.0
    assert label_scoring.of_echo("the ca", logprobs) == -6.0, "a token across the border counts"
