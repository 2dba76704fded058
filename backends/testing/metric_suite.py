"""The promises of a task metric, as tests."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ValidationError

from backends import codec
from backends.contract import BackendError
from backends.metrics.contract import Answers, Metric, MetricDeclaration, Scores
from backends.testing.description import side_effects_of_describing

REFERENCES = (
    '{"fruit": "red apple", "place": "the old garden", "count": 7}',
    '{"fruit": "green pear", "place": "a dark cellar", "count": 12}',
    '{"fruit": "yellow plum", "place": "the kitchen table", "count": 340}',
)
"""Texts that are JSON and have words and numbers, so that most metrics can score them."""

REFUSAL = "I'm sorry, but I cannot help with that."

ODD_TEXTS = (
    "",
    " ",
    "\n\n\t",
    "0",
    "-",
    "\x00\x1b[31m",
    "naïve façade, Größe 10 µm — 你好, мир! 👩‍👩‍👧 ﷽",
    "```json\n{}\n```",
    "[" * 5_000,
    "9" * 5_000,
    "1e999999999",
    "word " * 4_000,
    "x" * 20_000,
)
"""What a model may write: nothing, every script, and a repetition without end."""


class MetricContract:
    """The promises of a metric. Subclasses override the hooks and have no `__init__`."""

    metric_type: ClassVar[type[Metric]]
    """The class under test."""
    deterministic: ClassVar[bool] = True
    """Whether the same answers have the same scores, as every metric promises. False only for one
    that asks a service."""
    tolerance: ClassVar[float] = 1e-9
    """The rounding error of a sum, relative to the value."""

    # ---------------------------------------------------------------------------------------- hooks
    def options(self) -> Mapping[str, Any]:
        """Return the options as JSON values, as YAML has them."""
        return {}

    def write_files(self, folder: Path) -> None:
        """Write the files that the options name; their names count from `folder`."""

    def right_answers(self) -> Answers:
        """Return at least two answers that are as good as possible."""
        rows = tuple({"number": n} for n in range(len(REFERENCES)))
        return Answers(REFERENCES, tuple((reference,) for reference in REFERENCES), rows)

    def wrong_answers(self) -> Answers:
        """Return the same references and rows with predictions that are as bad as possible."""
        right = self.right_answers()
        return replace(right, predictions=(REFUSAL,) * len(right.predictions))

    # ------------------------------------------------------------------------------------- fixtures
    @pytest.fixture
    def prepared_options(self, tmp_path: Path) -> BaseModel:
        """The options after `prepare`; the files that they named are gone."""
        folder = tmp_path / "sweep"
        folder.mkdir()
        self.write_files(folder)
        written = self.metric_type.options_model.model_validate(self.options())
        options = self.metric_type.prepare(written, folder)
        shutil.rmtree(folder)
        return options

    @pytest.fixture
    def metric(self, prepared_options: BaseModel, tmp_path: Path) -> Iterator[Metric]:
        """The open metric with an empty workspace."""
        metric = self.metric_type.open(prepared_options, tmp_path / "workspace")
        yield metric
        metric.close()

    @pytest.fixture
    def declaration(self, prepared_options: BaseModel) -> MetricDeclaration:
        """What the metric declares."""
        return self.metric_type.describe(prepared_options)

    # -------------------------------------------------------------------------------------- options
    def test_options_forbid_unknown_keys(self) -> None:
        """A misspelt option is an error and is never ignored."""
        with pytest.raises(ValidationError, match="no_such_option"):
            self.metric_type.options_model.model_validate({**self.options(), "no_such_option": 1})

    def test_describe_is_cheap(self, tmp_path: Path) -> None:
        """Importing and describing loads no heavy library, connects to and writes nothing."""
        found = side_effects_of_describing(self.metric_type, self.options(), tmp_path)
        assert found == [], "describing a metric must have no side effect and load no heavy library"

    def test_prepared_options_survive_json(self, prepared_options: BaseModel, tmp_path: Path) -> None:
        """A worker reads the options from JSON, without the user's files, and scores the same."""
        text = json.dumps(codec.to_json(prepared_options))
        read = self.metric_type.options_model.model_validate(json.loads(text))
        assert read == prepared_options
        assert self.metric_type.describe(read) == self.metric_type.describe(prepared_options)
        assert self.metric_type.prepare(read, tmp_path / "elsewhere") == prepared_options, "prepare is idempotent"
        self._scores(read, tmp_path)

    def test_the_declaration_is_consistent(self, declaration: MetricDeclaration) -> None:
        """The direction is known, and the range is not empty."""
        assert declaration.direction in ("maximize", "minimize")
        assert declaration.low is None or math.isfinite(declaration.low)
        assert declaration.high is None or math.isfinite(declaration.high)
        if declaration.low is not None and declaration.high is not None:
            assert declaration.low < declaration.high

    def test_an_open_metric_is_a_metric(self, metric: Metric) -> None:
        """`open` returns the protocol, and closing twice does no harm."""
        assert isinstance(metric, Metric)
        metric.close()
        metric.close()

    # --------------------------------------------------------------------------------------- scores
    def test_the_references_have_no_problems(self, metric: Metric) -> None:
        """`problems` accepts the references of right answers, whatever the predictions are."""
        assert list(metric.problems(self.right_answers())) == []
        assert list(metric.problems(self.wrong_answers())) == []

    def test_right_answers_are_better_than_wrong_ones(self, metric: Metric, declaration: MetricDeclaration) -> None:
        """The direction says which end is better."""
        right, wrong = metric.score(self.right_answers()), metric.score(self.wrong_answers())
        sign = 1 if declaration.direction == "maximize" else -1
        assert sign * right.value > sign * wrong.value

    def test_scores_are_consistent(self, metric: Metric, declaration: MetricDeclaration) -> None:
        """Values are finite and in the range, one for each example, and their mean is the value."""
        for answers in (self.right_answers(), self.wrong_answers(), *self._odd_answers()):
            self._check(metric.score(answers), answers, declaration)

    def test_one_answer_can_be_scored(self, metric: Metric, declaration: MetricDeclaration) -> None:
        """One answer is enough."""
        for answers in (self.right_answers(), self.wrong_answers()):
            first = _selected(answers, slice(1))
            self._check(metric.score(first), first, declaration)

    def test_scores_are_repeatable(self, metric: Metric, prepared_options: BaseModel, tmp_path: Path) -> None:
        """The same answers have the same scores, also in another instance."""
        if not self.deterministic:
            return
        scores = [_without_cost(metric.score(answers)) for answers in (self.wrong_answers(), self.right_answers())]
        again = [_without_cost(metric.score(answers)) for answers in (self.wrong_answers(), self.right_answers())]
        assert again == scores
        assert _without_cost(self._scores(prepared_options, tmp_path)) == scores[1]

    def test_the_order_of_the_answers_does_not_matter(self, metric: Metric) -> None:
        """Each answer keeps its value at another place."""
        right, wrong = self.right_answers(), self.wrong_answers()
        mixed = replace(right, predictions=(right.predictions[0], *wrong.predictions[1:]))
        reverse = _selected(mixed, slice(None, None, -1))
        forward_scores, reverse_scores = metric.score(mixed), metric.score(reverse)
        assert reverse_scores.value == pytest.approx(forward_scores.value, rel=1e-9, abs=1e-12)
        if forward_scores.per_example is not None and self.deterministic:
            assert reverse_scores.per_example is not None
            assert reverse_scores.per_example[::-1] == pytest.approx(forward_scores.per_example)

    def test_another_acceptable_text_does_no_harm(self, metric: Metric, declaration: MetricDeclaration) -> None:
        """The best of several acceptable texts counts."""
        right = self.right_answers()
        others = right.references[1:] + right.references[:1]
        pairs = zip(right.references, others, strict=True)
        several = replace(right, references=tuple((*other, *references) for references, other in pairs))
        if metric.problems(several):
            return  # the metric takes one text
        sign = 1 if declaration.direction == "maximize" else -1
        before, after = metric.score(right), metric.score(several)
        assert sign * after.value >= sign * before.value - self.tolerance * max(1.0, abs(before.value))

    def test_odd_references_are_problems_or_scored(self, metric: Metric, declaration: MetricDeclaration) -> None:
        """`score` raises BackendError and nothing else, and `problems` reports why before."""
        right = self.right_answers()
        for text in ODD_TEXTS:
            odd = replace(right, references=((text,), *right.references[1:]))
            problems = list(metric.problems(odd))
            assert all(isinstance(problem, str) and problem for problem in problems)
            try:
                self._check(metric.score(odd), odd, declaration)
            except BackendError as error:
                if not problems or not error.failure.message:
                    pytest.fail(f"`score` refuses {text[:20]!r}, and `problems` did not report it: {error.failure}")

    # -------------------------------------------------------------------------------------- helpers
    def _scores(self, options: BaseModel, folder: Path) -> Scores:
        metric = self.metric_type.open(options, folder / "another workspace")
        try:
            return metric.score(self.right_answers())
        finally:
            metric.close()

    def _odd_answers(self) -> Sequence[Answers]:
        right = self.right_answers()
        return [replace(right, predictions=(text, *right.predictions[1:])) for text in ODD_TEXTS]

    def _check(self, scores: Scores, answers: Answers, declaration: MetricDeclaration) -> None:
        values = [scores.value, *(scores.per_example or ())]
        assert all(isinstance(value, float) and math.isfinite(value) for value in values)
        assert all(math.isfinite(value) for value in scores.further.values())
        assert all(key and isinstance(key, str) for key in scores.further)
        low, high = declaration.low, declaration.high
        assert low is None or min(values) >= low - self.tolerance * abs(low)
        assert high is None or max(values) <= high + self.tolerance * abs(high)
        if scores.per_example is not None:
            assert len(scores.per_example) == len(answers.predictions)
            if declaration.is_mean:
                mean = math.fsum(scores.per_example) / len(scores.per_example)
                assert scores.value == pytest.approx(mean, rel=self.tolerance, abs=self.tolerance)
        assert scores.tokens >= 0
        assert scores.usd is None or scores.usd >= 0
        assert not declaration.is_free or scores.usd == 0


def _selected(answers: Answers, positions: slice) -> Answers:
    """Return some of the answers, with their prompts."""
    return Answers(
        answers.predictions[positions],
        answers.references[positions],
        answers.rows[positions],
        answers.prompts[positions],
    )


def _without_cost(scores: Scores) -> Scores:
    """Return the scores alone: an answer that is measured again may cost less."""
    return replace(scores, usd=0.0, tokens=0)
