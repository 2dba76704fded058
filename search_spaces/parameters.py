"""How a hyperparameter is written in YAML: recommended, a value, a list, a range, a share of the training set, `when:`.

Syntax only: nothing here knows the backend, the size of the training set, or Optuna.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

from search_spaces.limits import Scalar, as_number, plain
from search_spaces.problems import SpaceProblem, did_you_mean

_PERCENT = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*%")
_FORMS = "write recommended, a value, a list, or {low: ..., high: ...}"
_KEYS = ("low", "high", "log", "step", "choices", "value", "recommended", "when", "optional")


@dataclass(frozen=True)
class Share:
    """A share of the training set, exact: 0.01 % is 1/10000."""

    fraction: Fraction

    @classmethod
    def parse(cls, written: object) -> Share | None:
        """Read "0.5%" or "0.01 %"; None for everything else."""
        match = _PERCENT.fullmatch(written.strip()) if isinstance(written, str) else None
        return cls(Fraction(match[1].rstrip(".")) / 100) if match else None

    @classmethod
    def of_one(cls, fraction: float) -> Share:
        """Read a fraction as it is written: 0.0001 is exactly 1/10000."""
        return cls(Fraction(str(fraction)))

    def examples(self, training_examples: int) -> int:
        """Return the number of examples, rounded half up, at least 1. Never falls as the training set grows."""
        return max(1, int(self.fraction * training_examples + Fraction(1, 2)))

    def __str__(self) -> str:
        return f"{plain(float(self.fraction * 100))} %"


Bound: TypeAlias = int | float | Share


@dataclass(frozen=True)
class Recommended:
    """The range of the recommendation catalogue."""


@dataclass(frozen=True)
class Fixed:
    """One value, not searched."""

    value: Scalar


@dataclass(frozen=True)
class Choices:
    """A list to choose from, in the written order."""

    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Range:
    """A range of numbers, both ends included."""

    low: Bound
    high: Bound
    log: bool = False
    step: int | float | None = None


Form: TypeAlias = Recommended | Fixed | Choices | Range


@dataclass(frozen=True)
class Parameter:
    """A hyperparameter as it is written. It takes part only where each name in `when` has one of the values.

    An `optional` one is left out where the backend does not know it; any other is an error there. `path` leads to the
    value or the list: below the name where it is spelled out as `value:` or `choices:`.
    """

    name: str
    form: Form
    written: str
    path: tuple[str, ...]
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    optional: bool = False

    def canonical(self) -> dict[str, Any]:
        """Return JSON values that are equal for every way to write the same: 0.02 and "2e-2", lists in any order."""
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
    """Read one parameter. Everything that is wrong is appended to `problems`, and None returned."""
    before = len(problems)
    when: Mapping[str, tuple[Scalar, ...]] = {}
    optional = written.get("optional", False) if isinstance(written, Mapping) else False
    if not isinstance(optional, bool):
        problems.append(
            SpaceProblem((name, "optional"), f"{name}: optional is {plain(optional)}", "write true or false")
        )
    if isinstance(written, Mapping):
        form = _mapping(name, written, problems)
        when = _when(name, written["when"], problems) if "when" in written else {}
    elif isinstance(written, list | tuple):
        form = _choices((name,), written, problems)
    else:
        form = _scalar((name,), written, problems)
    if form is None or len(problems) > before:
        return None
    spelled_out = [key for key in ("value", "choices") if isinstance(written, Mapping) and key in written]
    return Parameter(name, form, flow(written), (name, *spelled_out), when, optional)


def flow(value: object) -> str:
    """Write a value on one line, as in YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{plain(key)}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    return "null" if value is None else plain(value)


# ---------------------------------------------------------------------------------------------------------------- forms
def _mapping(name: str, written: Mapping[Any, Any], problems: list[SpaceProblem]) -> Form | None:
    problems.extend(
        SpaceProblem((name, key), f"{name}: {plain(key)} is not a part of a parameter", did_you_mean(str(key), _KEYS))
        for key in written
        if key not in _KEYS
    )
    kinds = [kind for kind in ("range", "choices", "value", "recommended") if kind in _kinds(written)]
    if len(kinds) != 1:
        message = f"{name}: {' and '.join(kinds)} exclude each other" if kinds else f"{name}: no values are given"
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
        problems.append(SpaceProblem(path, f"{name}: a list of at least one value is needed", "write [a, b, c]"))
        return None
    values: list[Scalar] = []
    for position, each in enumerate(written):
        here = (*path, position)
        if each == "recommended":
            problems.append(SpaceProblem(here, f"{name}: recommended cannot stand in a list", "write it alone"))
        elif (value := _value(here, each, problems)) is not None:
            if _canonical(value) in map(_canonical, values):
                problems.append(SpaceProblem(here, f"{name}: {plain(value)} stands in the list twice", "write it once"))
            values.append(value)
    return Choices(tuple(values))


def _range(name: str, written: Mapping[Any, Any], problems: list[SpaceProblem]) -> Range | None:
    low, high = (_bound(name, key, written, problems) for key in ("low", "high"))
    log, step = written.get("log", False), None
    if not isinstance(log, bool):
        problems.append(SpaceProblem((name, "log"), f"{name}: log is {plain(log)}", "write true or false"))
        log = False
    if "step" in written:
        step = as_number(written["step"])
        if step is None or step <= 0:
            problems.append(SpaceProblem((name, "step"), f"{name}: step is no number above 0", "leave it out"))
        elif log:
            problems.append(SpaceProblem((name, "step"), f"{name}: step and log exclude each other", "leave one out"))
    if low is None or high is None:
        return None
    if not isinstance(low, Share) and log and low <= 0:
        problems.append(
            SpaceProblem((name, "low"), f"{name}: a log scale needs low above 0, not {plain(low)}", "or leave log out")
        )
    if reversed_bounds(low, high):
        problems.append(
            SpaceProblem((name, "low"), f"{name}: low {plain(low)} is above high {plain(high)}", "swap the two")
        )
    return Range(low, high, log, step)


def reversed_bounds(low: Bound, high: Bound) -> bool:
    """Return whether low is above high; False for a share beside a count, which only a training set decides."""
    if isinstance(low, Share) and isinstance(high, Share):
        return low.fraction > high.fraction
    return not isinstance(low, Share) and not isinstance(high, Share) and low > high


def _bound(name: str, key: str, written: Mapping[Any, Any], problems: list[SpaceProblem]) -> Bound | None:
    if key not in written:
        problems.append(SpaceProblem((name,), f"{name}: {key} is missing", "a range needs low and high"))
        return None
    share = Share.parse(written[key])
    number = share if share is not None else as_number(written[key])
    if number is None or not _fits_training_set(share):
        problem = f"{name}: {key} is {flow(written[key])}"
        problems.append(SpaceProblem((name, key), problem, "a number, or up to 100 % of the training set, is needed"))
        return None
    return number


def _value(path: tuple[str | int, ...], written: object, problems: list[SpaceProblem]) -> Scalar | None:
    name = path[0]
    if isinstance(written, float) and as_number(written) is None:
        problems.append(SpaceProblem(path, f"{name}: {written} is not a finite number", _FORMS))
    elif not _fits_training_set(Share.parse(written)):
        problems.append(SpaceProblem(path, f"{name}: {written} is more than the training set", "at most 100 %"))
    elif not isinstance(written, bool | int | float | str):
        what = "no value is given" if written is None else f"{flow(written)} is not a single value"
        problems.append(SpaceProblem(path, f"{name}: {what}", _FORMS))
    else:
        return written
    return None


def _fits_training_set(share: Share | None) -> bool:
    return share is None or share.fraction <= 1


def _when(name: str, written: object, problems: list[SpaceProblem]) -> Mapping[str, tuple[Scalar, ...]]:
    hint = "write when: {other: value} or when: {other: [value, value]}"
    if not isinstance(written, Mapping) or not written:
        problems.append(SpaceProblem((name, "when"), f"{name}: when needs another parameter and its value", hint))
        return {}
    conditions: dict[str, tuple[Scalar, ...]] = {}
    for other, values in written.items():
        path = (name, "when", other)
        listed = values if isinstance(values, list | tuple) else [values]
        if not isinstance(other, str) or not listed or not all(isinstance(v, bool | int | float | str) for v in listed):
            problems.append(SpaceProblem(path, f"{name}: when {plain(other)} is {flow(values)} is no condition", hint))
        else:
            conditions[other] = tuple(listed)
    return conditions


def _canonical(value: Bound | Scalar | None) -> str:
    """Return text that is equal for equal values, whatever way they are written in, and different otherwise."""
    share = value if isinstance(value, Share) else Share.parse(value)
    if share is not None:
        return f"share {share.fraction}"
    number = as_number(value)
    if number is not None:
        return f"number {int(number) if number == int(number) else number!r}"
    return f"{type(value).__name__} {value}"
