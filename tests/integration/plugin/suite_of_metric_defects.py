"""Metrics that each break one promise. The docstring names the contract test that must fail."""

import random
import sys
from dataclasses import replace
from pathlib import Path

from pydantic import ConfigDict

from backends.contract import BackendError, Failure, FailureKind
from backends.metrics.contract import MetricDeclaration, Scores
from backends.metrics.matching import ExactMatch
from backends.testing import MetricContract


class ChangedScores(ExactMatch):
    """Passes its scores through `change`."""

    def score(self, answers):
        return self.change(super().score(answers), answers)

    def change(self, scores, answers):
        return scores


class TestIgnoresUnknownOptions(MetricContract):
    """test_options_forbid_unknown_keys"""

    class Broken(ExactMatch):
        class options_model(ExactMatch.options_model):  # noqa: N801
            model_config = ConfigDict(extra="ignore")

    metric_type = Broken


class TestLoadsALibraryToDescribe(MetricContract):
    """test_describe_is_cheap"""

    class Broken(ExactMatch):
        @classmethod
        def describe(cls, options):
            sys.modules["torch"] = sys
            return super().describe(options)

    metric_type = Broken


class TestNamesAFileForever(MetricContract):
    """test_prepared_options_survive_json"""

    class Broken(ExactMatch):
        class options_model(ExactMatch.options_model):  # noqa: N801
            file: str = "words.txt"

        @classmethod
        def prepare(cls, options, folder):
            return options.model_copy(update={"file": str(folder / options.file)})

        @classmethod
        def open(cls, options, workspace):
            Path(options.file).read_text()
            return super().open(options, workspace)

    metric_type = Broken

    def write_files(self, folder):
        (folder / "words.txt").write_text("a word")


class TestDeclaresAnEmptyRange(MetricContract):
    """test_the_declaration_is_consistent"""

    class Broken(ExactMatch):
        declaration = MetricDeclaration("maximize", low=1.0, high=0.0)

    metric_type = Broken


class TestClosesOnce(MetricContract):
    """test_an_open_metric_is_a_metric"""

    class Broken(ExactMatch):
        closed = 0

        def close(self):
            self.closed += 1
            assert self.closed != 2

    metric_type = Broken


class TestFindsFault(MetricContract):
    """test_the_references_have_no_problems"""

    class Broken(ExactMatch):
        def problems(self, answers):
            return ["no"]

    metric_type = Broken


class TestDeclaresTheOtherDirection(MetricContract):
    """test_right_answers_are_better_than_wrong_ones"""

    class Broken(ExactMatch):
        declaration = MetricDeclaration("minimize")

    metric_type = Broken


class TestLeavesItsRange(MetricContract):
    """test_scores_are_consistent"""

    class Broken(ChangedScores):
        def change(self, scores, answers):
            return Scores(100 * scores.value, tuple(100 * value for value in scores.per_example))

    metric_type = Broken


class TestReturnsNaN(MetricContract):
    """test_scores_are_consistent"""

    class Broken(ChangedScores):
        def change(self, scores, answers):
            return Scores(float("nan")) if "" in answers.predictions else scores

    metric_type = Broken


class TestReturnsAnotherMean(MetricContract):
    """test_scores_are_consistent"""

    class Broken(ChangedScores):
        def change(self, scores, answers):
            return replace(scores, value=max(scores.per_example))

    metric_type = Broken


class TestForgetsAnExample(MetricContract):
    """test_scores_are_consistent"""

    class Broken(ChangedScores):
        def change(self, scores, answers):
            return replace(scores, per_example=scores.per_example[1:])

    metric_type = Broken


class TestCostsMoneySecretly(MetricContract):
    """test_scores_are_consistent"""

    class Broken(ChangedScores):
        def change(self, scores, answers):
            return replace(scores, usd=0.01)

    metric_type = Broken


class TestNeedsTwoAnswers(MetricContract):
    """test_one_answer_can_be_scored"""

    class Broken(ExactMatch):
        def score(self, answers):
            assert len(answers.predictions) > 1
            return super().score(answers)

    metric_type = Broken


class TestDrawsLots(MetricContract):
    """test_scores_are_repeatable"""

    class Broken(ChangedScores):
        def change(self, scores, answers):
            values = tuple(random.random() for _ in scores.per_example)
            return Scores(sum(values) / len(values), values)

    metric_type = Broken


class TestRemembersTheFirstAnswer(MetricContract):
    """test_the_order_of_the_answers_does_not_matter"""

    class Broken(ChangedScores):
        def change(self, scores, answers):
            return Scores(scores.per_example[0], scores.per_example[:1] * len(scores.per_example))

    metric_type = Broken


class TestTakesTheWorstText(MetricContract):
    """test_another_acceptable_text_does_no_harm"""

    class Broken(ExactMatch):
        def score(self, answers):
            return super().score(replace(answers, references=tuple(texts[:1] for texts in answers.references)))

    metric_type = Broken


class TestRefusesAReferenceWithoutWarning(MetricContract):
    """test_odd_references_are_problems_or_scored"""

    class Broken(ExactMatch):
        def score(self, answers):
            if any("" in texts for texts in answers.references):
                raise BackendError(Failure(FailureKind.USER, "a reference is empty"))
            return super().score(answers)

    metric_type = Broken


class TestRaisesAnyException(MetricContract):
    """test_odd_references_are_problems_or_scored"""

    class Broken(ExactMatch):
        def score(self, answers):
            for texts in answers.references:
                int((texts[0].startswith("9") and texts[0]) or "1")
            return super().score(answers)

        def problems(self, answers):
            return []

    metric_type = Broken
