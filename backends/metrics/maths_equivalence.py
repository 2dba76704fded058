"""Compares mathematical expressions by math-verify.

Nobody imports this module. A scorer process runs its source, and so loads math-verify before the
time limit of a call begins.
"""

from __future__ import annotations

from math_verify import parse, verify

STEP_TIMEOUT_S = 2


def compare(prediction: str, references: list[str]) -> list[bool]:
    """Return whether the prediction has an expression, whether it equals one of the references, and
    whether a reference has an expression.

    math-verify gives up after some seconds for each expression, unless C code runs too long.
    """
    predicted = parse(prediction, parsing_timeout=STEP_TIMEOUT_S)
    expected = [found for reference in references if (found := parse(reference, parsing_timeout=STEP_TIMEOUT_S))]
    is_right = any(verify(expression, predicted, timeout_seconds=STEP_TIMEOUT_S) for expression in expected)
    return [bool(predicted), is_right, bool(expected)]
