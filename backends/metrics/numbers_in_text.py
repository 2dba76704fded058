r"""Numbers as people and models write them.

The number of a text is the last one after `####`, the mark of GSM8K (Cobbe et al. 2021,
arXiv:2110.14168); else the last one in the last `\boxed{}`; else the last one of the text. A number
inside a word, as in `H2O`, counts only if there is no other.

It may have a sign, thousands separators, decimals, an exponent (`1e-5`, `2 x 10^3`) or a percent
sign, and it may be a fraction (`3/4`, `1 1/2`, `\frac{3}{4}`). Currencies, units and the full stop
of a sentence are no part of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any

_MAX_DIGITS = 400
"""A number with more digits, or a larger exponent, is none: a repetition of a model."""

_MARK = "####"
_THIN_SPACES = "\u00a0\u2009\u202f"
"""Spaces that separate thousands; a common space may also separate two numbers."""

_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_PERCENT = Fraction(1, 100)


@dataclass(frozen=True)
class NumberInText:
    """An exact number; a percentage is the number before its sign."""

    value: Fraction
    is_percentage: bool = False

    def equals(self, right: NumberInText, tolerance: float, relative_tolerance: float) -> bool:
        """Return whether this is the right number.

        A percentage equals both its number and its hundredth, such as 12% both 12 and 0.12; two
        percentages compare as numbers. The larger of both tolerances counts.
        """
        pairs = [(self.value, right.value)]
        if self.is_percentage != right.is_percentage:
            pairs.append((self.fraction, right.fraction))
        allowed = Fraction(tolerance)
        return any(
            abs(value - expected) <= max(allowed, Fraction(relative_tolerance) * abs(expected))
            for value, expected in pairs
        )

    @property
    def fraction(self) -> Fraction:
        """The number with its percent sign applied."""
        return self.value * _PERCENT if self.is_percentage else self.value


def last_number(text: str, decimal_mark: str = ".") -> NumberInText | None:
    """Return the number of a text, or None."""
    if _MARK in text:
        text = text.rpartition(_MARK)[2]
    elif boxed := _BOXED.findall(text):
        text = boxed[-1]
    text = _LATEX_FRACTION.sub(r"\1/\2", text.replace("\\%", "%").replace("−", "-").replace("{,}", ","))
    matches = list(_pattern(decimal_mark).finditer(text))
    alone = [match for match in matches if not text[max(match.start() - 1, 0) : match.start()].isalpha()]
    numbers = (_number(match, decimal_mark) for match in (*reversed(alone), *reversed(matches)))
    return next((number for number in numbers if number is not None), None)


@cache
def _pattern(decimal_mark: str) -> re.Pattern[str]:
    decimal, thousands = re.escape(decimal_mark), re.escape("," if decimal_mark == "." else ".")
    whole = rf"\d{{1,3}}(?:{thousands}\d{{3}})+(?!\d)|\d{{1,3}}(?:[{_THIN_SPACES}]\d{{3}})+(?!\d)|\d+"
    return re.compile(
        rf"""
        (?P<sign>(?<![\w)\]%.,])[-+]\s?)?
        (?:[$€£¥]\s?(?P<inner_sign>-)?)?
        (?:
            (?:(?P<wholes>\d+)\s+)?(?P<numerator>\d+)\s?/\s?(?P<denominator>\d+)(?![\d/]|{decimal}\d)
          | (?P<number>(?:{whole})(?:{decimal}\d+)?|{decimal}\d+)
            (?:[eE](?P<exponent>[-+]?\d+)|\s?(?:[x×*]|\\times|\\cdot)\s?10\s?\^\s?\{{?(?P<power>[-+]?\d+)\}}?)?
        )
        (?P<percent>\s?%)?
        """,
        re.VERBOSE,
    )


def _number(match: re.Match[str], decimal_mark: str) -> NumberInText | None:
    """Return the number of a match, or None if it is too long or divides by zero."""
    parts: dict[str, Any] = match.groupdict()
    if max(len(part or "") for part in parts.values()) > _MAX_DIGITS:
        return None
    if parts["number"] is None:
        if int(parts["denominator"]) == 0:
            return None
        value = int(parts["wholes"] or 0) + Fraction(int(parts["numerator"]), int(parts["denominator"]))
    else:
        exponent = int(parts["exponent"] or parts["power"] or 0)
        if abs(exponent) > _MAX_DIGITS:
            return None
        thousands = "," if decimal_mark == "." else "."
        digits = re.sub(rf"[{_THIN_SPACES}{thousands}]", "", parts["number"]).replace(decimal_mark, ".")
        value = Fraction(Decimal(digits)) * Fraction(10) ** exponent
    sign, before = parts["sign"] or "", match.string[max(match.start() - 9, 0) : match.start()]
    is_dash = sign[1:].isspace() and before.rstrip(" \t")[-1:].isalnum()  # "5 - 3" has no negative number
    is_negative = (sign.startswith("-") and not is_dash) or parts["inner_sign"] is not None
    return NumberInText(-value if is_negative else value, parts["percent"] is not None)
