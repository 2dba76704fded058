"""Metrics of texts equal their reference implementations on random pairs and edge cases."""

from __future__ import annotations

import collections
import re
import string
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import sacrebleu
from metric_pairs import Pairs, Score
from pydantic import ValidationError
from rapidfuzz.distance import Levenshtein
from rouge_score.rouge_scorer import RougeScorer

from backends.contract import BackendError
from backends.metrics import patterns, registry
from backends.metrics.contract import Answers

pytestmark = pytest.mark.unit


# ------------------------------------------------------------------- the evaluation script of SQuAD
MARKS = set(string.punctuation) | {chr(n) for n in range(0x110000) if unicodedata.category(chr(n)).startswith("P")}


def normalize_answer(text: str) -> str:
    """The function of SQuAD's script, with the punctuation of MLQA's."""
    lowered = "".join(character for character in text.lower() if character not in MARKS)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", lowered).split())


def squad_f1(reference: str, prediction: str) -> float:
    gold, predicted = normalize_answer(reference).split(), normalize_answer(prediction).split()
    if not gold or not predicted:
        return int(gold == predicted)
    same = sum((collections.Counter(gold) & collections.Counter(predicted)).values())
    if same == 0:
        return 0
    precision, recall = same / len(predicted), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def best(pairs: Pairs, function: Callable[[str, str], float]) -> list[float]:
    """Return the best value of `function(reference, prediction)` for each pair."""
    return [max(function(reference, prediction) for reference in references) for prediction, references in pairs]


def test_exact_match_strips_and_nothing_else(pairs: Pairs, score: Score) -> None:
    scores = score("exact_match", pairs)
    assert scores.per_example == tuple(best(pairs, lambda right, text: float(right.strip() == text.strip())))
    assert 0 < scores.value < 1
    assert score("exact_match", [(" A b\n", ("A b",)), ("A  b", ("A b",))]).per_example == (1, 0)


def test_exact_match_that_ignores_everything_is_that_of_squad(pairs: Pairs, score: Score) -> None:
    ignore = ["case", "punctuation", "articles", "white_space"]
    scores = score("exact_match", pairs, ignore=ignore)
    expected = best(pairs, lambda right, text: float(normalize_answer(right) == normalize_answer(text)))
    assert scores.per_example == tuple(expected)
    assert scores.value > score("exact_match", pairs).value


@pytest.mark.parametrize(
    ("ignore", "values"),
    [
        ("case", (1, 0, 0, 0)),
        ("punctuation", (0, 1, 0, 0)),
        ("articles", (1, 0, 1, 0)),
        ("white_space", (0, 0, 0, 1)),
    ],
)
def test_each_ignored_difference_stands_alone(score: Score, ignore: str, values: tuple[float, ...]) -> None:
    texts = ["THE Cat, a dog", "The Cat a dog", "Cat, dog", "The  Cat,\na dog"]
    scores = score("exact_match", [(text, ("The Cat, a dog",)) for text in texts], ignore=[ignore])
    assert scores.per_example == values


def test_token_f1_is_that_of_squad(pairs: Pairs, score: Score) -> None:
    assert score("token_f1", pairs).per_example == pytest.approx(best(pairs, squad_f1), abs=1e-12)


def test_contains(pairs: Pairs, score: Score) -> None:
    expected = best(pairs, lambda right, text: float(right.strip() in text.strip()))
    assert score("contains", pairs).per_example == tuple(expected)
    assert score("contains", [("It is PARIS, I think", ("Paris",))]).value == 0
    assert score("contains", [("It is PARIS, I think", ("Paris",))], ignore=["case"]).value == 1


def test_rouge_l_is_that_of_googles_library(pairs: Pairs, score: Score) -> None:
    scorer = RougeScorer(["rougeL"])
    expected = [scorer.score_multi(references, prediction)["rougeL"].fmeasure for prediction, references in pairs]
    assert score("rouge_l", pairs).per_example == pytest.approx(expected, abs=1e-12)


def test_rouge_l_of_other_scripts(pairs: Pairs, score: Score) -> None:
    class Words:
        def tokenize(self, text: str) -> list[str]:
            return re.findall(r"[一-鿿]|[^\W一-鿿]+", text.lower())

    scorer = RougeScorer(["rougeL"], tokenizer=Words())
    expected = [scorer.score_multi(references, prediction)["rougeL"].fmeasure for prediction, references in pairs]
    assert score("rouge_l", pairs, words="unicode").per_example == pytest.approx(expected, abs=1e-12)
    assert score("rouge_l", [("мир", ("мир",))], words="unicode").value == 1
    assert score("rouge_l", [("我爱你", ("我不爱你",))], words="unicode").value == 2 * 3 / 7
    assert score("rouge_l", [("мир", ("мир",))]).value == 0


def padded(pairs: Pairs) -> list[list[str | None]]:
    most = max(len(references) for _, references in pairs)
    return [[references[n] if n < len(references) else None for _, references in pairs] for n in range(most)]


def test_bleu_of_the_corpus_is_that_of_sacrebleu(pairs: Pairs, score: Score) -> None:
    scores = score("bleu", pairs)
    assert scores.value == sacrebleu.corpus_bleu([text for text, _ in pairs], padded(pairs)).score
    assert 0 < scores.value < 100
    assert scores.per_example is None
    assert "tok:13a|smooth:exp|version:" in scores.note


def test_bleu_of_the_examples_is_that_of_sacrebleu(pairs: Pairs, score: Score) -> None:
    scores = score("bleu", pairs, average="examples", lowercase=True, tokenize="intl")
    expected = [
        sacrebleu.sentence_bleu(text, list(references), lowercase=True, tokenize="intl").score
        for text, references in pairs
    ]
    assert scores.per_example == pytest.approx(expected)
    assert "case:lc|eff:yes|tok:intl" in scores.note


def test_chrf_is_that_of_sacrebleu(pairs: Pairs, score: Score) -> None:
    scores = score("chrf", pairs)
    assert scores.per_example == pytest.approx(
        [sacrebleu.sentence_chrf(text, list(references)).score for text, references in pairs]
    )
    corpus = score("chrf", pairs, average="corpus", word_order=2)
    assert corpus.value == sacrebleu.corpus_chrf([text for text, _ in pairs], padded(pairs), word_order=2).score
    assert "nc:6|nw:2" in corpus.note


def test_edit_similarity_is_that_of_rapidfuzz(pairs: Pairs, score: Score) -> None:
    expected = best(pairs, lambda right, text: Levenshtein.normalized_similarity(right.strip(), text.strip()))
    assert score("edit_similarity", pairs).per_example == tuple(expected)
    assert score("edit_similarity", [("kitten", ("sitting",))]).value == pytest.approx(1 - 3 / 7)


def test_length_ratio(pairs: Pairs, score: Score) -> None:
    def closeness(right: str, text: str) -> float:
        lengths = sorted((len(right), len(text)))
        return lengths[0] / lengths[1] if lengths[1] else 1.0

    assert score("length_ratio", pairs).per_example == tuple(best(pairs, closeness))
    scores = score("length_ratio", [("four", ("ab",)), ("a", ("ab", "abc")), ("", ("",))])
    assert scores.per_example == (0.5, 0.5, 1)
    assert scores.further == {"raw": 5 / 4}
    assert score("length_ratio", [("one two three four", ("one two",))], unit="words").further == {"raw": 2}
    assert score("length_ratio", [("text", ("",))]).further == {}


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m unable to answer.", True),
        ("As an AI language model, I have no opinion.", True),
        ("I cannot assist with it.", True),
        ("I must politely decline.", True),
        ("It would be unethical to do so.", True),
        ("It is appropriate to wear a coat.", False),
        ("Paris.", False),
        ("She said that she cannot swim.", False),
        ("The model is an AI.", False),
        ("", False),
        ("x" * 300 + " I'm sorry", False),
    ],
)
def test_refusals(score: Score, text: str, refuses: bool) -> None:
    assert score("refusal_rate", [(text, ("any",))]).value == float(refuses)


def test_refusals_in_another_language(score: Score) -> None:
    pairs = [("Das kann ich leider nicht.", ("",)), ("I'm sorry", ("",))]
    assert score("refusal_rate", pairs, patterns=["kann ich leider nicht"]).per_example == (1, 0)


# ---------------------------------------------------------------------------------------- patterns
def test_regex_extracts_before_it_compares(score: Score) -> None:
    pairs = [
        ("Answer: B because. Answer: C", ("B",)),
        ("Answer: b", ("B",)),
        ("It is B", ("B",)),
        ("Answer: D", ("So: Answer: D",)),
        ("Answer: E", ("F", "E")),
    ]
    scores = score("regex", pairs, pattern=r"Answer: (\w)")
    assert scores.per_example == (1, 0, 0, 1, 1)
    assert scores.further == {"found": 0.8}
    assert score("regex", pairs, pattern=r"Answer: (\w)", match="last", ignore=["case"]).per_example == (0, 1, 0, 1, 1)


@pytest.mark.parametrize(
    ("pattern", "answer"),
    [(r"\d+", "12"), (r"is (\d)(\d)", "1"), (r"is (\d)(?P<answer>\d)", "2"), (r"(no)|is \d+", None)],
)
def test_the_answer_is_the_named_group_or_the_first_or_the_whole_match(
    score: Score, pattern: str, answer: str | None
) -> None:
    scores = score("regex", [("it is 12", (answer or "12",))], pattern=pattern)
    assert scores.value == float(answer is not None)


def test_a_pattern_without_end_is_an_error(score: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MATCH_TIMEOUT_S", 0.2)
    with pytest.raises(BackendError, match=r"\(a\|aa\)\+\$' needs more than 0\.2 s"):
        score("regex", [("a" * 100 + "b", ("a",))], pattern=r"^(a|aa)+$")
    with pytest.raises(BackendError, match=r"\(a\|aa\)\+\$' needs more than 0\.2 s"):
        score("refusal_rate", [("a" * 100 + "b", ("a",))], patterns=[r"^(a|aa)+$"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("regex", {}, "pattern"),
        ("regex", {"pattern": "("}, "no regular expression"),
        ("refusal_rate", {"patterns": ["["]}, "no regular expression"),
        ("refusal_rate", {"patterns": []}, "at least 1"),
        ("exact_match", {"ignore": ["accents"]}, "white_space"),
        ("bleu", {"tokenize": "mecab"}, "13a"),
        ("python", {"function": "scoring.py"}, "must name a file and a function"),
        ("numeric", {"tolerance": -1}, "greater than or equal to 0"),
        ("numeric", {"maths": True, "tolerance": 1}, "excludes"),
        ("json_schema", {}, "give one of"),
        ("json_schema", {"file": "a", "column": "b"}, "give one of"),
    ],
)
def test_bad_options(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        registry.load(name).options_model.model_validate(options)


@pytest.mark.parametrize(
    ("name", "value", "option"),
    [("regex", "a+", "pattern"), ("python", "scoring.py:score", "function"), ("json_schema", "s.json", "file")],
)
def test_a_single_value_is_the_main_option(name: str, value: str, option: str) -> None:
    options = registry.load(name).options_model.model_validate(value)
    assert options == registry.load(name).options_model.model_validate({option: value})


@pytest.mark.parametrize(
    ("name", "reference", "problem"),
    [
        ("contains", "", "every text contains"),
        ("rouge_l", "мир", "1 of 2 references have no word; for texts that are not English, set `words: unicode`"),
        ("bleu", "", "1 of 2 references are empty"),
        ("numeric", "none", "the reference of example 1 has no number"),
        ("json_fields", "{", "the reference of example 1 is not JSON"),
    ],
)
def test_references_that_cannot_be_scored(tmp_path: Path, name: str, reference: str, problem: str) -> None:
    metric_class = registry.load(name)
    metric = metric_class.open(metric_class.options_model.model_validate({}), tmp_path)
    [found] = metric.problems(Answers(("", ""), ((reference,), ('{"good": 1}',)), ({}, {})))
    assert problem in found
