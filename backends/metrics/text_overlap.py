"""Metrics of the overlap of two texts: words, character sequences, edits, lengths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from backends.metrics.built_in import BuiltInMetric, MeanMetric, MetricOptions, mean
from backends.metrics.contract import Answers, Scores
from backends.metrics.normalization import SQUAD, ComparisonOptions, normalized

RAPIDFUZZ = {"rapidfuzz": "pip install rapidfuzz"}

_ENGLISH_WORD = re.compile(r"[a-z0-9]+")
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


def f1(common: float, predicted: float, expected: float) -> float:
    """Return the harmonic mean of precision and recall: 2 common / (predicted + expected).

    0 if both are empty.
    """
    return 2 * common / (predicted + expected) if predicted + expected else 0.0


class TokenF1(MeanMetric[MetricOptions]):
    """The mean F1 of the words of prediction and reference, as bags: the F1 of SQuAD.

    Words are what white space separates, without case, punctuation and English articles. If either
    text has no word, the value is 1 if both have none. Source: the evaluation script of SQuAD 2.0
    (Rajpurkar et al. 2018, arXiv:1806.03822), with the Unicode punctuation of MLQA.
    """

    options_model = MetricOptions

    def value(self, prediction: str, reference: str) -> float:
        """Return the F1 of the words."""
        predicted, expected = normalized(prediction, SQUAD).split(), normalized(reference, SQUAD).split()
        if not predicted or not expected:
            return float(predicted == expected)
        common = (Counter(predicted) & Counter(expected)).total()
        return f1(common, len(predicted), len(expected))


class RougeLOptions(MetricOptions):
    """Options of `rouge_l`."""

    words: Annotated[
        Literal["english", "unicode"],
        Field(
            description="What a word is: runs of a-z and 0-9, as in every published ROUGE (`english`), or of the "
            "letters and digits of any script (`unicode`; each Chinese or Japanese character is one)."
        ),
    ] = "english"


class RougeL(MeanMetric[RougeLOptions]):
    """The mean ROUGE-L F1, of the longest common subsequence of words (Lin 2004, W04-1013).

    Equal to `rougeL` of Google's rouge-score without stemming. That library is not used, because it
    has had no release since 2022, brings NLTK, and needs memory and time for each pair of words;
    rapidfuzz computes the same subsequence in a hundredth of the time. The tests compare both.
    """

    options_model = RougeLOptions
    libraries = RAPIDFUZZ

    def value(self, prediction: str, reference: str) -> float:
        """Return the F1 of the longest common subsequence."""
        from rapidfuzz.distance import LCSseq

        predicted, expected = self._words(prediction), self._words(reference)
        return f1(LCSseq.similarity(predicted, expected), len(predicted), len(expected))

    def problems(self, answers: Answers) -> Sequence[str]:
        """Report references without a word, for which every prediction scores 0."""
        wordless = sum(not any(self._words(reference) for reference in references) for references in answers.references)
        if not wordless:
            return ()
        advice = "; for texts that are not English, set `words: unicode`" if self.options.words == "english" else ""
        return [f"{wordless} of {len(answers.references)} references have no word{advice}"]

    def _words(self, text: str) -> list[str]:
        pattern = _ENGLISH_WORD if self.options.words == "english" else _WORD
        return pattern.findall(text.lower())


class EditSimilarity(MeanMetric[ComparisonOptions]):
    """The mean of 1 - (edits between the texts) / (length of the longer text).

    An edit inserts, deletes or replaces one character (Levenshtein 1966). Two empty texts have the
    value 1. Computed by rapidfuzz (`Levenshtein.normalized_similarity`).
    """

    options_model = ComparisonOptions
    libraries = RAPIDFUZZ

    def value(self, prediction: str, reference: str) -> float:
        """Return the similarity of the texts."""
        from rapidfuzz.distance import Levenshtein

        ignore = self.options.ignore
        return Levenshtein.normalized_similarity(normalized(prediction, ignore), normalized(reference, ignore))


class LengthRatioOptions(MetricOptions):
    """Options of `length_ratio`."""

    unit: Annotated[
        Literal["characters", "words"], Field(description="What to count. White space separates words.")
    ] = "characters"


class LengthRatio(BuiltInMetric[LengthRatioOptions]):
    """How near the length of a prediction is to that of its reference: the shorter / the longer.

    The value is 1 for equal lengths, and smaller both for texts that are too long and too short,
    so that it can be maximized. The further number `raw` is the length of all predictions / the
    length of all nearest references: above 1 means that the model writes too much. It is absent if
    all references are empty.
    """

    options_model = LengthRatioOptions

    def score(self, answers: Answers) -> Scores:
        """Score the answers."""
        pairs = [
            max(((self._length(prediction), self._length(reference)) for reference in references), key=_closeness)
            for prediction, references in zip(answers.predictions, answers.references, strict=True)
        ]
        values = tuple(_closeness(pair) for pair in pairs)
        predicted, expected = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
        return Scores(mean(values), values, {"raw": predicted / expected} if expected else {})

    def _length(self, text: str) -> int:
        return len(text) if self.options.unit == "characters" else len(text.split())


def _closeness(lengths: tuple[int, int]) -> float:
    return min(lengths) / max(lengths) if max(lengths) else 1.0
