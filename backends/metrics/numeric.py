"""A number in a text, compared with the right one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, Field, model_validator

from backends.extras import install_command
from backends.metrics.built_in import BuiltInMetric, MetricOptions, mean, require
from backends.metrics.contract import Answers, Scores
from backends.metrics.failures import user_error
from backends.metrics.numbers_in_text import NumberInText, last_number
from backends.metrics.scorer_client import Code, ScorerError, ScorerProcess

MATHS_TIMEOUT_S = 8.0
"""An expression that math-verify cannot compare in this time is wrong."""


class NumericOptions(MetricOptions):
    """Options of `numeric`."""

    tolerance: Annotated[float, Field(ge=0, description="The largest difference that counts as equal.")] = 0.0
    relative_tolerance: Annotated[
        float, Field(ge=0, le=1, description="The same, as a share of the right number; the larger of both counts.")
    ] = 0.0
    decimal_mark: Annotated[
        Literal[".", ","], Field(description="What separates decimals; the other one separates thousands.")
    ] = "."
    maths: Annotated[
        bool,
        Field(
            description="Compare as mathematical expressions, by math-verify: also LaTeX, sets, equations and "
            "intervals. Excludes the other options."
        ),
    ] = False

    @model_validator(mode="after")
    def _maths_stands_alone(self) -> NumericOptions:
        if self.maths and (self.tolerance or self.relative_tolerance or self.decimal_mark != "."):
            raise ValueError("`maths` excludes the other options")
        return self


class Numeric(BuiltInMetric[NumericOptions]):
    r"""The share of predictions whose last number equals that of an acceptable text.

    `numbers_in_text` says which number that is: after `####` or in `\boxed{}`, if there is one,
    with thousands separators, fractions, exponents and percentages. The rules follow the
    `strict-match` and `flexible-extract` filters of lm-evaluation-harness for GSM8K (Gao et al.,
    arXiv:2405.14782). Numbers are compared exactly, or with the tolerance.

    With `maths`, math-verify (Hugging Face) finds and compares expressions. It works in a process
    of its own, because some expressions would take it forever; such a prediction is wrong.

    The further number `found` is the share of predictions with a number.
    """

    options_model = NumericOptions

    def __init__(self, options: NumericOptions) -> None:
        super().__init__(options)
        self._comparison: _Comparison = _Expressions() if options.maths else _Numbers(options)

    @classmethod
    def open(cls, options: BaseModel, workspace: Path) -> Numeric:
        """Return the metric. Raises BackendError (user) if math-verify is needed and missing."""
        assert isinstance(options, NumericOptions)
        if options.maths:
            require({"math_verify": install_command("metrics")})
        return cls(options)

    def problems(self, answers: Answers) -> Sequence[str]:
        """Report references without a number."""
        without = [
            number
            for number, references in enumerate(answers.references, start=1)
            if not self._comparison.can_use(references)
        ]
        return [f"the reference of example {number} has no number" for number in without]

    def score(self, answers: Answers) -> Scores:
        """Score the answers."""
        compared = [
            self._comparison.compare(prediction, references)
            for prediction, references in zip(answers.predictions, answers.references, strict=True)
        ]
        values = tuple(float(is_right) for _, is_right in compared)
        return Scores(mean(values), values, {"found": mean([float(is_found) for is_found, _ in compared])})

    def close(self) -> None:
        """End the process of math-verify."""
        self._comparison.close()


class _Comparison(Protocol):
    def can_use(self, references: Sequence[str]) -> bool:
        """Return whether a reference has a number."""

    def compare(self, prediction: str, references: Sequence[str]) -> tuple[bool, bool]:
        """Return whether the prediction has a number, and whether it is right."""

    def close(self) -> None:
        """End processes."""


class _Numbers:
    """Compares the last numbers of the texts."""

    def __init__(self, options: NumericOptions) -> None:
        self._options = options

    def can_use(self, references: Sequence[str]) -> bool:
        return any(self._number(reference) is not None for reference in references)

    def compare(self, prediction: str, references: Sequence[str]) -> tuple[bool, bool]:
        predicted = self._number(prediction)
        if predicted is None:
            return False, False
        expected = [number for reference in references if (number := self._number(reference)) is not None]
        tolerance, relative = self._options.tolerance, self._options.relative_tolerance
        return True, any(predicted.equals(number, tolerance, relative) for number in expected)

    def close(self) -> None:
        pass

    def _number(self, text: str) -> NumberInText | None:
        return last_number(text, self._options.decimal_mark)


class _Expressions:
    """Compares expressions by math-verify."""

    def __init__(self) -> None:
        path = Path(__file__).with_name("maths_equivalence.py")
        sources = {path.name: path.read_text(encoding="utf-8")}
        self._process = ScorerProcess(Code("", path.name, "compare", sources, parameters=2), MATHS_TIMEOUT_S)

    def can_use(self, references: Sequence[str]) -> bool:
        return self._compare("", references)[2]

    def compare(self, prediction: str, references: Sequence[str]) -> tuple[bool, bool]:
        is_found, is_right, _ = self._compare(prediction, references)
        return is_found, is_right

    def close(self) -> None:
        self._process.close()

    def _compare(self, prediction: str, references: Sequence[str]) -> tuple[bool, bool, bool]:
        try:
            self._process.start()
        except ScorerError as error:
            raise user_error(f"math-verify does not start: {error.message}", error.detail) from None
        try:
            result = self._process.call(prediction, list(references))
        except ScorerError:  # an expression on which math-verify hangs or dies
            return False, False, False
        assert isinstance(result, list)
        is_found, is_right, can_use = (bool(value) for value in result)
        return is_found, is_right, can_use
