"""What a backend accepts for one hyperparameter, and how a written value becomes one of its kind."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from search_spaces.problems import MisfitError, did_you_mean

Scalar: TypeAlias = bool | int | float | str
"""The type of one hyperparameter's value."""

Kind: TypeAlias = Literal["int", "float", "str", "bool"]

_KIND_NAMES: Mapping[Kind, str] = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
}
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST = 2**53
"""Beyond it a whole number is no longer exact as a float, which is how Optuna keeps every number."""


@dataclass(frozen=True)
class Limit:
    """What a backend accepts: inclusive bounds of a number (None: unbounded) or the accepted values.

    `default` is used where a space is silent; None means that the backend chooses. `requires` names the values of other
    hyperparameters under which this one has an effect, `excludes` those that cannot be given together with it.
    """

    kind: Kind
    low: float | None = None
    high: float | None = None
    choices: tuple[Scalar, ...] | None = None
    default: Scalar | None = None
    requires: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    excludes: tuple[str, ...] = ()

    @property
    def numeric(self) -> bool:
        """True for whole numbers and numbers, which alone have ranges."""
        return self.kind in ("int", "float")

    @property
    def text(self) -> str:
        """What is accepted, in words: "1 .. 1024", "lora or full", "any number"."""
        if self.choices is not None:
            return " or ".join(plain(each) for each in self.choices)
        if self.low is None and self.high is None:
            return "any text" if self.kind == "str" else _KIND_NAMES[self.kind].replace("a ", "any ", 1)
        if self.low is None or self.high is None:
            return f"at least {plain(self.low)}" if self.low is not None else f"at most {plain(self.high or 0)}"
        return f"{plain(self.low)} .. {plain(self.high)}"

    def read(self, value: Scalar) -> Scalar:
        """Return the value as this kind: 3.0 and "3e0" are whole numbers, "1e-4" is a number. Raises MisfitError."""
        match self.kind:
            case "str" if isinstance(value, str):
                return value
            case "bool" if isinstance(value, bool):
                return value
            case "int" | "float":
                number = as_number(value)
                if number is not None and self.kind == "float":
                    return float(number)
                if number is not None and number == int(number):
                    return int(number)
        raise MisfitError(f"{plain(value)} is not {_KIND_NAMES[self.kind]}", self._way_out(value))

    def admit(self, value: Scalar) -> Scalar:
        """Return the value as this kind where the backend accepts it. Raises MisfitError otherwise."""
        read = self.read(value)
        if self.choices is not None and read not in self.choices:
            nearest = did_you_mean(str(read), [str(each) for each in self.choices]) if self.kind == "str" else ""
            raise MisfitError(f"{plain(read)} is not accepted by the backend", nearest or f"accepted: {self.text}")
        if not self.within(read):
            raise MisfitError(f"{plain(read)} is outside of what the backend accepts", f"accepted: {self.text}")
        return read

    def within(self, value: Scalar) -> bool:
        """Return whether a value of this kind respects the bounds; text and truth values have none."""
        if isinstance(value, str | bool):
            return True
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def _way_out(self, value: Scalar) -> str:
        if self.kind == "bool":
            return "write true or false"
        if self.kind == "str":
            return f'text that looks like something else needs quotes: "{plain(value)}"'
        if isinstance(value, str) and value.strip().endswith("%"):
            return "a percentage of the training set is a count; this is none"
        return f"accepted: {self.text}"


def as_number(value: object) -> int | float | None:
    """Return a finite number, read from text such as "1e-4" where need be; None for everything else, truth values too.

    Whole numbers beyond 2**53 in size are refused as well.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        number = float(value)
        value = int(number) if value.strip().lstrip("+-").isdigit() and math.isfinite(number) else number
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -_LARGEST <= value <= _LARGEST else None


def plain(value: object) -> str:
    """Write a value as YAML would: true, 3, 0.0001, adamw; a number without a fraction has no point."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
