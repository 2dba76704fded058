"""The label that an answer means, and the probabilities of all labels."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.hosted import label_scoring
from backends.hosted.label_scoring import Token

pytestmark = pytest.mark.unit


def token(text: str, probability: float, **others: float) -> Token:
    return Token(
        text, math.log(probability), {name: math.log(item) for name, item in {**others, text: probability}.items()}
    )


def probabilities(labels: list[str], *tokens: Token) -> list[float]:
    logprobs = label_scoring.label_logprobs(labels, tokens)
    assert logprobs is not None
    return [round(math.exp(logprob), 6) for logprob in logprobs]


def test_labels_of_one_token() -> None:
    assert probabilities(["yes", "no"], token("yes", 0.7, no=0.2, maybe=0.1)) == [0.7, 0.2]


def test_white_space_around_a_label_does_not_matter() -> None:
    assert probabilities([" yes", " no"], token(" yes", 0.7, no=0.2)) == [0.7, 0.2]


def test_labels_with_the_same_beginning_are_followed_to_the_token_that_differs() -> None:
    first, second = token("ne", 0.8, ent=0.2), token("utral", 0.75, gative=0.25)
    assert probabilities(["neutral", "negative", "entailment"], first, second) == [0.6, 0.2, 0.2]


def test_an_alternative_that_can_become_several_labels_counts_equally_for_each() -> None:
    assert probabilities(["neutral", "negative", "other"], token("other", 0.6, ne=0.4)) == [0.2, 0.2, 0.6]


def test_a_label_can_be_the_beginning_of_another() -> None:
    ended = [token("no", 0.9, nope=0.1), token("\n", 0.8, pe=0.2)]
    assert probabilities(["no", "nope"], *ended) == [pytest.approx(0.72), pytest.approx(0.1 + 0.18)]


def test_a_label_without_an_alternative_gets_the_least_probability() -> None:
    assert probabilities(["a", "b", "c"], token("a", 0.9, b=0.06, x=0.04)) == [0.9, 0.06, 0.04]


def test_an_answer_that_is_no_label_has_no_probabilities() -> None:
    assert label_scoring.label_logprobs(["yes", "no"], [token("hm", 0.9, well=0.1)]) is None
    assert label_scoring.label_logprobs(["yes", "no"], []) is None


WORDS = st.text("abc", min_size=1, max_size=4)


@given(st.lists(WORDS, min_size=2, max_size=4, unique=True), st.data())
def test_probabilities_never_exceed_one(labels: list[str], data: st.DataObject) -> None:
    spoken = data.draw(st.sampled_from(labels))
    tokens = []
    for letter in spoken:
        others = data.draw(
            st.dictionaries(WORDS.filter(lambda word, own=letter: word != own), st.floats(0.01, 0.1), max_size=4)
        )
        tokens.append(token(letter, 0.5, **others))
    logprobs = label_scoring.label_logprobs(labels, tokens)
    assert logprobs is not None
    assert all(value <= 0 for value in logprobs)
    assert all(math.isfinite(value) for value in logprobs)


def test_an_echoed_text_scores_only_the_continuation() -> None:
    logprobs = {
        "tokens": ["the", " cat", " s", "at"],
        "token_logprobs": [None, -1.0, -2.0, -3.0],
        "text_offset": [0, 3, 7, 9],
    }
    assert label_scoring.continuation_logprob("the cat", logprobs) == -5.0
    assert label_scoring.continuation_logprob("the ca", logprobs) == -6.0, "a token across the end of the prompt counts"
