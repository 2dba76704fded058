"""The syntax of a hyperparameter in YAML: recommended, a value, a list, a range, and `when:`.

A number of examples may be a share of the training set. Syntax only: this module does not know the
backend, the size of the training set, or Optuna.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

from search_spaces.limits import Scalar, as_number, yaml_text
from search_spaces.problems import SpaceProblem, did_you_mean

_PERCENT = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*%")
_FORMS = "write recommended, a value, a list, or {low: ..., high: ...}"
_KEYS = ("low", "high", "log", "step", "choices", "value", "recommended", "when", "optional")


@dataclass(frozen=True)
class Share:
    """An exact share of the training set: 0.01 % is 1/10000."""

    fraction: Fraction

    @classmethod
    def parse(cls, written: object) -> Share | None:
        """Parse "0.5%" or "0.01 %". Return None for any other value."""
        match = _PERCENT.fullmatch(written.strip()) if isinstance(written, str) else None
        return cls(Fraction(match[1].rstrip(".")) / 100) if match else None

    @classmethod
    def from_fraction(cls, fraction: float) -> Share:
        """Return the share for a fraction by its decimal text: 0.0001 is exactly 1/10000."""
        return cls(Fraction(str(fraction)))

    def examples(self, training_examples: int) -> int:
        """Return the number of examples, rounded half up, and at least 1.

        It never decreases as the training set grows.
        """
        return max(1, int(self.fraction * training_examples + Fraction(1, 2)))

    def __str__(self) -> str:
        return f"{yaml_text(float(self.fraction * 100))} %"


Bound: TypeAlias = int | float | Share


@dataclass(frozen=True)
class Recommended:
    """The range in the recommendation catalogue."""


@dataclass(frozen=True)
class Fixed:
    """A single value, which is not searched."""

    value: Scalar


@dataclass(frozen=True)
class Choices:
    """A list of values to choose from, in the written order."""

    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Range:
    """A range of numbers, including both ends."""

    low: Bound
    high: Bound
    log: bool = False
    step: int | float | None = None


Form: TypeAlias = Recommended | Fixed | Choices | Range


@dataclass(frozen=True)
class Parameter:
    """A hyperparameter as the user wrote it.

    It takes part only in points where each name in `when` has one of the given values. If the
    backend does not know the hyperparameter, an `optional` one is left out, and any other is an
    error. `path` leads to the value or the list, including `value` or `choices` if these keys are
    written.
    """

    name: str
    form: Form
    written: str
    path: tuple[str, ...]
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    optional: bool = False

    def canonical(self) -> dict[str, Any]:
        """Return JSON values that do not depend on how the parameter is written.

        They are equal for 0.02 and "2e-2", and for lists in any order.
        """
        match self.form:
            case Recommended():
                form: Any = "recommended"
            case Fixed(value):
                form = {"value": _canonical(value)}
            case Choices(values):
                form = {"choices": sorted(map(_canonical, values))}
            case Range(low, high, log, step):
                form = {"low": _canonical(low), "high": _canonical(high), "log": log, "step": _canonical(step)}
        when = {name: sorted(map(_canonical, values)) for name, values in self.when.items()}
        return {"form": form, "when": when, **({"optional": True} if self.optional else {})}


def parse_parameter(name: str, written: object, problems: list[SpaceProblem]) -> Parameter | None:
    """Parse one parameter. Append its mistakes to `problems`, and return None if there are any."""
    problems_before = len(problems)
    when: Mapping[str, tuple[Scalar, ...]] = {}
    optional = written.get("optional", False) if isinstance(written, Mapping) else False
    if not isinstance(optional, bool):
        problems.append(
            SpaceProblem((name, "optional"), f"{name}: optional is {yaml_text(optional)}", "write true or false")
        )
    if isinstance(written, Mapping):
        form = _mapping(name, written, problems)
        when = _when(name, written["when"], problems) if "when" in written else {}
    elif isinstance(written, list | tuple):
        form = _choices((name,), written, problems)
    else:
        form = _scalar((name,), written, problems)
    if form is None or len(problems) > problems_before:
        return None
    written_keys = [key for key in ("value", "choices") if isinstance(written, Mapping) and key in written]
    return Parameter(name, form, flow_style(written), (name, *written_keys), when, optional)


def flow_style(value: object) -> str:
    """Return a value on one line, in YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{yaml_text(key)}: {flow_style(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow_style, value)) + "]"
    return "null" if value is None else yaml_text(value)


# -------------------------------------------------------------------------------------------- forms
def _mapping(name: str, written: Mapping[Any, Any], problems: list[SpaceProblem]) -> Form | None:
    problems.extend(
        SpaceProblem(
            (name, key), f"{name}: {yaml_text(key)} is not a key of a parameter", did_you_mean(str(key), _KEYS)
        )
        for key in written
        if key not in _KEYS
    )
    kinds = [kind for kind in ("range", "choices", "value", "recommended") if kind in _kinds(written)]
    if len(kinds) != 1:
        message = f"{name}: {' and '.join(kinds)} exclude each other" if kinds else f"{name}: the values are missing"
        problems.append(SpaceProblem((name,), message, _FORMS))
        return None
    match kinds[0]:
        case "range":
            return _range(name, written, problems)
        case "choices":
            return _choices((name, "choices"), written["choices"], problems)
        case "value":
            return _scalar((name, "value"), written["value"], problems, reserved=False)
    if written["recommended"] is not True:
        problems.append(SpaceProblem((name, "recommended"), f"{name}: recommended can only be true", _FORMS))
    return Recommended()


def _kinds(written: Mapping[Any, Any]) -> Iterator[str]:
    for key in written:
        if key in ("low", "high", "log", "step"):
            yield "range"
        elif key in ("choices", "value", "recommended"):
            yield key


def _scalar(
    path: tuple[str | int, ...], written: object, problems: list[SpaceProblem], reserved: bool = True
) -> Form | None:
    if written == "recommended" and reserved:
        return Recommended()
    value = _value(path, written, problems)
    return None if value is None else Fixed(value)


def _choices(path: tuple[str | int, ...], written: object, problems: list[SpaceProblem]) -> Choices | None:
    name = path[0]
    if not isinstance(written, list | tuple) or not written:
        problems.append(SpaceProblem(path, f"{name}: the list needs at least one value", "write [a, b, c]"))
        return None
    values: list[Scalar] = []
    for position, item in enumerate(written):
        item_path = (*path, position)
        if item == "recommended":
            problems.append(SpaceProblem(item_path, f"{name}: recommended cannot be in a list", "write it alone"))
        elif (value := _value(item_path, item, problems)) is not None:
            if _canonical(value) in map(_canonical, values):
                message = f"{name}: {yaml_text(value)} is in the list twice"
                problems.append(SpaceProblem(item_path, message, "write it once"))
            values.append(value)
    return Choices(tuple(values))


def _range(name: str, written: Mapping[Any, Any], problems: list[SpaceProblem]) -> Range | None:
    low, high = (_bound(name, key, written, problems) for key in ("low", "high"))
    log, step = written.get("log", False), None
    if not isinstance(log, bool):
        problems.append(SpaceProblem((name, "log"), f"{name}: log is {yaml_text(log)}", "write true or false"))
        log = False
    if "step" in written:
        step = as_number(written["step"])
        if step is None or step <= 0:
            problems.append(SpaceProblem((name, "step"), f"{name}: step is not a number above 0", "leave it out"))
        elif log:
            problems.append(SpaceProblem((name, "step"), f"{name}: step and log exclude each other", "leave one out"))
    if low is None or high is None:
        return None
    if not isinstance(low, Share) and log and low <= 0:
        problems.append(
            SpaceProblem(
                (name, "low"),
                f"{name}: a log scale needs low above 0, not {yaml_text(low)}",
                "raise low, or leave log out",
            )
        )
    if are_reversed(low, high):
        problems.append(
            SpaceProblem((name, "low"), f"{name}: low {yaml_text(low)} is above high {yaml_text(high)}", "swap the two")
        )
    return Range(low, high, log, step)


def are_reversed(low: Bound, high: Bound) -> bool:
    """Return whether low is above high.

    Returns False for a share and a count, which can be compared only for a given training set.
    """
    if isinstance(low, Share) and isinstance(high, Share):
        return low.fraction > high.fraction
    return not isinstance(low, Share) and not isinstance(high, Share) and low > high


def _bound(name: str, key: str, written: Mapping[Any, Any], problems: list[SpaceProblem]) -> Bound | None:
    if key not in written:
        problems.append(SpaceProblem((name,), f"{name}: {key} is missing", "write both low and high"))
        return None
    share = Share.parse(written[key])
    number = share if share is not None else as_number(written[key])
    if number is None or not _fits_training_set(share):
        message = f"{name}: {key} is {flow_style(written[key])}"
        problems.append(SpaceProblem((name, key), message, "write a number, or at most 100 % of the training set"))
        return None
    return number


def _value(path: tuple[str | int, ...], written: object, problems: list[SpaceProblem]) -> Scalar | None:
    name = path[0]
    if isinstance(written, float) and as_number(written) is None:
        problems.append(SpaceProblem(path, f"{name}: {written} is not a finite number", _FORMS))
    elif not _fits_training_set(Share.parse(written)):
        problems.append(SpaceProblem(path, f"{name}: {written} is more than the training set", "write at most 100 %"))
    elif not isinstance(written, bool | int | float | str):
        what = "the value is missing" if written is None else f"{flow_style(written)} is not a single value"
        problems.append(SpaceProblem(path, f"{name}: {what}", _FORMS))
    else:
        return written
    return None


def _fits_training_set(share: Share | None) -> bool:
    return share is None or share.fraction <= 1


def _when(name: str, written: object, problems: list[SpaceProblem]) -> Mapping[str, tuple[Scalar, ...]]:
    hint = "write when: {other: value} or when: {other: [value, value]}"
    if not isinstance(written, Mapping) or not written:
        problems.append(
            SpaceProblem((name, "when"), f"{name}: when needs the name of another parameter and its value", hint)
        )
        return {}
    conditions: dict[str, tuple[Scalar, ...]] = {}
    for other, values in written.items():
        path = (name, "when", other)
        listed = values if isinstance(values, list | tuple) else [values]
        if not isinstance(other, str) or not listed or not all(isinstance(v, bool | int | float | str) for v in listed):
            message = f"{name}: `when: {{{yaml_text(other)}: {flow_style(values)}}}` is not a condition"
            problems.append(SpaceProblem(path, message, hint))
        else:
            conditions[other] = tuple(listed)
    return conditions


def _canonical(value: Bound | Scalar | None) -> str:
    """Return a text that is the same for equal values, however they are written."""
    share = value if isinstance(value, Share) else Share.parse(value)
    if share is not None:
        return f"share {share.fraction}"
    number = as_number(value)
    if number is not None:
        return f"number {int(number) if number == int(number) else number!r}"
    return f"{type(value).__name__} {value}"
