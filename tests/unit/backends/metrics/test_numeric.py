"""The number of a text, and mathematical expressions as math-verify compares them."""

from __future__ import annotations

import os
import random
import re
from fractions import Fraction
from pathlib import Path

import pytest
from math_verify import parse, verify
from metric_pairs import Pairs, Score

from backends import extras
from backends.contract import BackendError
from backends.metrics import built_in, numeric, registry
from backends.metrics.numbers_in_text import last_number

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 1,234", "1234"),
        ("5 + 5 = 10\n#### 10 apples, not 11", "11"),
        ("The answer is $-5.", "-5"),
        ("-$5", "-5"),
        ("$ 5.50", "5.5"),
        ("so 3/4", "3/4"),
        ("3 / 4", "3/4"),
        ("1 1/2 cups", "3/2"),
        (r"\frac{3}{4}", "3/4"),
        (r"-\dfrac{3}{4}", "-3/4"),
        (r"\boxed{\frac{3}{4}} of 12", "3/4"),
        (r"\boxed{1}, then \boxed{12} of 13", "12"),
        ("1,234,567.89 EUR", "1234567.89"),
        (r"1{,}234", "1234"),
        ("10\u202f000\u00a0km", "10000"),
        ("x=1e-5", "1/100000"),
        ("2 x 10^3", "2000"),
        (r"2\times10^{-3}", "2/1000"),
        ("between 3-4", "4"),
        ("5 - 3", "3"),
        ("5, - 3", "-3"),
        ("12 -3", "-3"),
        ("The answer - 3", "3"),
        ("= -3", "-3"),
        ("(−7)", "-7"),
        ("+5", "5"),
        (".5", "1/2"),
        ("3.", "3"),
        ("50 t of CO2", "50"),
        ("CO2", "2"),
        ("0042", "42"),
        ("٣", "3"),
        ("1/0", None),
        ("9" * 401, None),
        ("1e9999999", None),
        ("no number", None),
        ("", None),
    ],
)
def test_the_number_of_a_text(text: str, number: str | None) -> None:
    found = last_number(text)
    assert (None if found is None else found.value) == (None if number is None else Fraction(number))


def test_decimal_commas() -> None:
    found = last_number("1.234,5", ",")
    assert found is not None
    assert found.value == Fraction("1234.5")


@pytest.mark.parametrize(
    ("prediction", "reference", "is_right"),
    [
        ("12%", "12", True),
        ("12 %", "0.12", True),
        ("0.12", "12%", True),
        ("12%", "12%", True),
        ("12%", "0.12%", False),
        ("0.3333", "1/3", False),
        ("0.1", "1/10", True),
        ("1e3", "1,000", True),
        ("none", "1", False),
    ],
)
def test_equal_numbers(score: Score, prediction: str, reference: str, is_right: bool) -> None:
    assert score("numeric", [(prediction, (reference,))]).value == float(is_right)


def test_tolerances(score: Score) -> None:
    pairs = [("0.333", ("1/3",)), ("101", ("100",)), ("99", ("100",)), ("102", ("100",)), ("none", ("1",))]
    scores = score("numeric", pairs, tolerance=0.01)
    assert (scores.per_example, scores.further) == ((1, 0, 0, 0, 0), {"found": 0.8})
    assert score("numeric", pairs, relative_tolerance=0.01).per_example == (1, 1, 1, 0, 0)
    assert score("numeric", [("2", ("1", "2"))]).value == 1


def test_numeric_is_the_strict_match_of_gsm8k(score: Score) -> None:
    """Compares with the filter of lm-evaluation-harness on 200 random answers of GSM8K's form."""
    random_ = random.Random(20)

    def extracted(text: str) -> str | None:
        match = re.search(r"#### (\-?[0-9\.\,]+)", text)
        return match and re.sub(r"[,$]|\.$", "", match[1])

    pairs = []
    for _ in range(200):
        right = random_.choice([1, -1]) * random_.randrange(20_000)
        guess = right if random_.random() < 0.6 else random_.randrange(20_000)
        mark = "#### " if random_.random() < 0.9 else "Answer "
        pairs.append((f"{random_.randrange(99)} + 1 = {guess:,}\n{mark}{guess:,}", (f"Reasons.\n#### {right}",)))
    with_mark = [pair for pair in pairs if "####" in pair[0]]
    expected = [float(extracted(text) == extracted(references[0])) for text, references in with_mark]
    assert score("numeric", with_mark).per_example == tuple(expected)
    assert 0.4 < score("numeric", pairs).value < 0.8


# ----------------------------------------------------------------------------------- math-verify
EXPRESSIONS = (
    "1/2", "0.5", r"$\frac{1}{2}$", "1,200", "1200", "$x^2-1$", "$(x-1)(x+1)$", r"$\{1, 2\}$", r"$\{2, 1\}$", "50\\%",
    r"$\sqrt{8}$", r"$2\sqrt{2}$", "$x=3$", "3", "$(1,2)$", "$[1,2)$", "no number", "", "Größe 你好", r"\boxed{7}", "7",
)  # fmt: skip


def test_maths_is_that_of_math_verify(score: Score) -> None:
    random_ = random.Random(20)
    pairs: Pairs = [
        (f"So it is {random_.choice(EXPRESSIONS)}.", (random_.choice(EXPRESSIONS),))
        if random_.random() < 0.5
        else (random_.choice(EXPRESSIONS), (random_.choice(EXPRESSIONS), random_.choice(EXPRESSIONS)))
        for _ in range(200)
    ]
    expected = [
        float(any(verify(parse(reference), parse(prediction)) for reference in references))
        for prediction, references in pairs
    ]
    scores = score("numeric", pairs, maths=True)
    assert scores.per_example == tuple(expected)
    assert 0 < scores.value < 1
    assert scores.further == {"found": sum(bool(parse(prediction)) for prediction, _ in pairs) / 200}


def test_an_expression_that_takes_forever_is_wrong_and_the_next_one_is_scored(
    score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numeric, "MATHS_TIMEOUT_S", 6.0)
    pairs = [("$9^{9^{9^{9}}}$", ("$1+9^{9^{9^{9}}}$",)), (r"$\frac12$", ("0.5",))]
    assert score("numeric", pairs, maths=True).per_example == (0, 1)


def test_the_process_of_math_verify_ends_with_the_metric(tmp_path: Path) -> None:
    options = numeric.NumericOptions(maths=True)
    metric = numeric.Numeric.open(options, tmp_path)
    comparison = metric._comparison
    assert isinstance(comparison, numeric._Expressions)
    comparison.can_use(["1"])
    pid = comparison._process.pid
    assert pid is not None
    metric.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_missing_library_is_one_sentence_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = {"math_verify", "sacrebleu"}
    find_spec = built_in.importlib.util.find_spec
    monkeypatch.setattr(built_in.importlib.util, "find_spec", lambda name: None if name in missing else find_spec(name))
    for name, options, command in (
        ("numeric", {"maths": True}, extras.install_command("metrics")),
        ("bleu", {}, "pip install sacrebleu"),
    ):
        metric_class = registry.load(name)
        with pytest.raises(BackendError, match="is not installed") as raised:
            metric_class.open(metric_class.options_model.model_validate(options), tmp_path)
        assert raised.value.failure.detail == f"Run: {command}"
    registry.load("numeric").open(registry.load("numeric").options_model.model_validate({}), tmp_path).close()
