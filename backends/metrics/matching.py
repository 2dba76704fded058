"""Metrics that are right or wrong for each example: equal texts, or equal parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from backends.metrics.built_in import BuiltInMetric, MeanMetric, mean
from backends.metrics.contract import Answers, Scores
from backends.metrics.normalization import ComparisonOptions, normalized
from backends.metrics.patterns import REGEX, compiled, matches


class ExactMatch(MeanMetric[ComparisonOptions]):
    """The share of predictions that equal an acceptable text.

    White space around a text never counts. `ignore` states what else does not; with all four it is
    the exact match of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250).
    """

    options_model = ComparisonOptions

    def value(self, prediction: str, reference: str) -> float:
        """Return 1 if the texts are equal."""
        return float(normalized(prediction, self.options.ignore) == normalized(reference, self.options.ignore))


class Contains(MeanMetric[ComparisonOptions]):
    """The share of predictions that contain an acceptable text, anywhere.

    A part of a word counts, too. This is the `in` of lm-evaluation-harness and of OpenAI's Evals
    (`Includes`).
    """

    options_model = ComparisonOptions

    def value(self, prediction: str, reference: str) -> float:
        """Return 1 if the prediction contains the reference."""
        return float(normalized(reference, self.options.ignore) in normalized(prediction, self.options.ignore))

    def problems(self, answers: Answers) -> Sequence[str]:
        """Report empty references, which every text contains."""
        empty = sum(
            any(not normalized(reference, self.options.ignore) for reference in references)
            for references in answers.references
        )
        if not empty:
            return ()
        return [f"{empty} of {len(answers.references)} references are empty, and every text contains them"]


class RegexOptions(ComparisonOptions):
    """Options of `regex`."""

    short_form: ClassVar[str | None] = "pattern"

    pattern: Annotated[
        str,
        Field(
            description="A regular expression that finds the answer in a text. The answer is the group `answer`, "
            "else the first group, else the whole match."
        ),
    ]
    match: Annotated[
        Literal["first", "last"], Field(description="Which match holds the answer, if there are several.")
    ] = "first"

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        compiled(pattern)
        return pattern


class Regex(BuiltInMetric[RegexOptions]):
    """The share of predictions whose extracted answer equals that of an acceptable text.

    A pattern extracts the answer, as in the `regex` filter of lm-evaluation-harness (Gao et al.,
    arXiv:2405.14782). A prediction without a match is wrong. A reference without a match is the
    answer itself. The further number `found` is the share of predictions with a match.
    """

    options_model = RegexOptions
    libraries = REGEX

    def __init__(self, options: RegexOptions) -> None:
        super().__init__(options)
        self._pattern: Any = compiled(options.pattern)

    def score(self, answers: Answers) -> Scores:
        """Score the answers. Raises BackendError (user) for a pattern that takes too long."""
        found = [self._extracted(prediction) for prediction in answers.predictions]
        values = tuple(
            float(answer is not None and any(answer == self._reference(reference) for reference in references))
            for answer, references in zip(found, answers.references, strict=True)
        )
        return Scores(mean(values), values, {"found": mean([float(answer is not None) for answer in found])})

    def _reference(self, text: str) -> str:
        answer = self._extracted(text)
        return normalized(text, self.options.ignore) if answer is None else answer

    def _extracted(self, text: str) -> str | None:
        """Return the answer in a text, or None."""
        found = matches(self._pattern, text)
        chosen = list(islice(found, 1) if self.options.match == "first" else deque(found, maxlen=1))
        if not chosen:
            return None
        group: int | str = "answer" if "answer" in self._pattern.groupindex else min(1, self._pattern.groups)
        answer = chosen[0].group(group)
        return None if answer is None else normalized(answer, self.options.ignore)
