"""How replies become values: grades on a scale, or comparisons in both orders."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backends.judge.options import HumanLabel, JudgeOptions
from backends.judge.questions import Case, Question, comparing, grading

LOSS, TIE, WIN = -1, 0, 1
_PREFERRED = {"answer": WIN, "other": LOSS, "tie": TIE}


@dataclass(frozen=True)
class Judgement:
    """The value of an answer, from 0 to 1, and the rating behind it.

    The rating is the grade, or WIN, TIE or LOSS. `unread` is the reply that held no rating; the
    answer then has the lowest grade, or is a tie. `consistent`: both orders gave the same rating.
    """

    value: float
    rating: int
    unread: str | None = None
    consistent: bool = True


class JudgingMode(ABC):
    """How the judge decides about an answer."""

    def __init__(self, options: JudgeOptions) -> None:
        self.options = options

    @abstractmethod
    def questions(self, case: Case) -> list[Question]:
        """Return the questions that decide about the answer."""

    @abstractmethod
    def judgement(self, case: Case, replies: Sequence[str]) -> Judgement:
        """Return the decision, from the replies to the questions."""

    @abstractmethod
    def further(self, judgements: Sequence[Judgement]) -> Mapping[str, float]:
        """Return more numbers of a measurement."""

    @abstractmethod
    def rating_of(self, label: HumanLabel) -> int:
        """Return the rating of a person."""


class Grading(JudgingMode):
    """A grade on a scale."""

    def questions(self, case: Case) -> list[Question]:
        """Return one question."""
        return [grading(case, self.options.rubric, self.options.grades)]

    def judgement(self, case: Case, replies: Sequence[str]) -> Judgement:
        """Return the grade, on the scale from 0 to 1."""
        (question,), (reply,) = self.questions(case), replies
        low, high = self.options.grades
        grade = question.verdict(reply)
        if grade is None:
            return Judgement(0.0, low, reply)
        return Judgement((grade - low) / (high - low), grade)

    def further(self, judgements: Sequence[Judgement]) -> Mapping[str, float]:
        """Return the mean grade on the scale of the judge."""
        return {"grade": math.fsum(judgement.rating for judgement in judgements) / len(judgements)}

    def rating_of(self, label: HumanLabel) -> int:
        """Return the grade."""
        assert label.grade is not None
        return label.grade


class Comparing(JudgingMode):
    """A comparison with another text, in both orders, because judges prefer a position.

    An answer wins only if it is preferred in both orders, and loses only if the other is. All else
    is a tie (L. Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", section
    3.4, arXiv:2306.05685). Equal texts are a tie without a question.
    """

    def questions(self, case: Case) -> list[Question]:
        """Return the question in both orders; none for equal texts."""
        if case.answer == case.other:
            return []
        return [comparing(case, self.options.rubric, swapped=swapped) for swapped in (False, True)]

    def judgement(self, case: Case, replies: Sequence[str]) -> Judgement:
        """Return 1 for a win, 0.5 for a tie and 0 for a loss."""
        verdicts = [question.verdict(reply) for question, reply in zip(self.questions(case), replies, strict=True)]
        if not verdicts:
            return Judgement(0.5, TIE)
        unread = next((reply for verdict, reply in zip(verdicts, replies, strict=True) if verdict is None), None)
        if unread is not None:
            return Judgement(0.5, TIE, unread, consistent=False)
        first, second = (verdict or 0 for verdict in verdicts)
        rating = first if first == -second else TIE
        return Judgement((rating + 1) / 2, rating, consistent=first == -second)

    def further(self, judgements: Sequence[Judgement]) -> Mapping[str, float]:
        """Return the shares of wins, of losses, and of equal ratings in both orders."""
        count = len(judgements)
        return {
            "wins": sum(judgement.rating == WIN for judgement in judgements) / count,
            "losses": sum(judgement.rating == LOSS for judgement in judgements) / count,
            "consistent": sum(judgement.consistent for judgement in judgements) / count,
        }

    def rating_of(self, label: HumanLabel) -> int:
        """Return WIN, TIE or LOSS."""
        assert label.preferred is not None
        return _PREFERRED[label.preferred]


def mode_of(options: JudgeOptions) -> JudgingMode:
    """Return what the options ask the judge to decide."""
    return Grading(options) if options.pairwise is None else Comparing(options)
