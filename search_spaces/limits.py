"""The values that a backend accepts for a hyperparameter, and the conversion of written values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from search_spaces.problems import InvalidValueError, did_you_mean

Scalar: TypeAlias = bool | int | float | str
"""The type of the value of one hyperparameter."""

Kind: TypeAlias = Literal["int", "float", "str", "bool"]

_KIND_NAMES: Mapping[Kind, str] = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
}
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST = 2**53
"""Larger whole numbers are not exact as floats, and Optuna stores every number as a float."""


@dataclass(frozen=True)
class Limit:
    """What a backend accepts: inclusive bounds of a number (None: unbounded), or a list of values.

    `default` is the value if a space does not mention the hyperparameter; None means that the
    backend chooses. `requires` maps other hyperparameters to the values under which this one has an
    effect. `excludes` names those that cannot be given together with it.
    """

    kind: Kind
    low: float | None = None
    high: float | None = None
    choices: tuple[Scalar, ...] | None = None
    default: Scalar | None = None
    requires: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    excludes: tuple[str, ...] = ()

    @property
    def is_numeric(self) -> bool:
        """True for whole numbers and numbers; only these have ranges."""
        return self.kind in ("int", "float")

    @property
    def text(self) -> str:
        """The accepted values in words: "1 .. 1024", "lora or full", "any number"."""
        if self.choices is not None:
            return " or ".join(yaml_text(choice) for choice in self.choices)
        if self.low is None and self.high is None:
            return "any text" if self.kind == "str" else _KIND_NAMES[self.kind].replace("a ", "any ", 1)
        if self.low is None or self.high is None:
            return f"at least {yaml_text(self.low)}" if self.low is not None else f"at most {yaml_text(self.high or 0)}"
        return f"{yaml_text(self.low)} .. {yaml_text(self.high)}"

    def convert(self, value: Scalar) -> Scalar:
        """Return the value as this kind.

        3.0 and "3e0" are whole numbers, and "1e-4" is a number. Raises InvalidValueError for a
        value of another kind.
        """
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
        raise InvalidValueError(f"{yaml_text(value)} is not {_KIND_NAMES[self.kind]}", self._hint(value))

    def validate(self, value: Scalar) -> Scalar:
        """Return the value as this kind.

        Raises InvalidValueError if the backend does not accept it.
        """
        converted = self.convert(value)
        if self.choices is not None and converted not in self.choices:
            nearest = ""
            if self.kind == "str":
                nearest = did_you_mean(str(converted), [str(choice) for choice in self.choices])
            message = f"{yaml_text(converted)} is not accepted by the backend"
            raise InvalidValueError(message, nearest or f"accepted: {self.text}")
        if not self._is_within_bounds(converted):
            message = f"{yaml_text(converted)} is outside of the range that the backend accepts"
            raise InvalidValueError(message, f"accepted: {self.text}")
        return converted

    def _is_within_bounds(self, value: Scalar) -> bool:
        if isinstance(value, str | bool):
            return True
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def _hint(self, value: Scalar) -> str:
        if self.kind == "bool":
            return "write true or false"
        if self.kind == "str":
            return f'put quotes around text that looks like another type: "{yaml_text(value)}"'
        if isinstance(value, str) and value.strip().endswith("%"):
            return "write a number; only a count of examples can be a percentage of the training set"
        return f"accepted: {self.text}"


def as_number(value: object) -> int | float | None:
    """Return a finite number, also from text such as "1e-4", or None for any other value.

    Booleans are not numbers. Numbers beyond 2**53 in size are refused as well.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        number = float(value)
        value = int(number) if value.strip().lstrip("+-").isdigit() and math.isfinite(number) else number
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if -_LARGEST <= value <= _LARGEST else None


def yaml_text(value: object) -> str:
    """Return a value as YAML writes it: true, 3, 0.0001, adamw. A whole number has no point."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
