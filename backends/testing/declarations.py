"""Checks of a declared hyperparameter, and values that contradict a declaration."""

from __future__ import annotations

import math

from backends.contract import Capabilities, Hyperparameter, Scalar

_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


def invalid_values(declared: Hyperparameter) -> list[Scalar]:
    """Return values of another type, out of bounds, and outside the choices of a declaration."""
    values: list[Scalar] = ["not a number"] if declared.kind in {"int", "float"} else [12.5]
    if declared.kind == "int":
        values += [1.5, True]
    if declared.kind == "float":
        values += [math.nan, math.inf]
    if declared.choices is not None and declared.kind == "str":
        values.append("no-such-choice")
    if declared.choices is not None and declared.kind == "int":
        values.append(int(max(declared.choices)) + 1)
    step = 1 if declared.kind == "int" else 1e-3
    if declared.low is not None:
        values.append(type(step)(declared.low) - step)
    if declared.high is not None:
        values.append(type(step)(declared.high) + step)
    return values


def assert_consistent(declared: Hyperparameter, capabilities: Capabilities) -> None:
    """Fail unless type, bounds, choices and default agree, and all other names are declared."""
    name, types = declared.name, _TYPES[declared.kind]
    is_number = declared.kind in {"int", "float"}
    assert declared.description, name
    assert is_number or (declared.low is None and declared.high is None), f"{name} has bounds, but is not a number"
    if declared.low is not None and declared.high is not None:
        assert declared.low <= declared.high, name
    for value in [*(declared.choices or ()), *([] if declared.default is None else [declared.default])]:
        assert isinstance(value, types), f"{name}: {value!r} is not of type {declared.kind}"
        assert isinstance(value, bool) == (declared.kind == "bool"), f"{name}: {value!r} is not of type {declared.kind}"
        if is_number:
            assert declared.low is None or float(value) >= declared.low, f"{name}: {value!r} is too low"
            assert declared.high is None or float(value) <= declared.high, f"{name}: {value!r} is too high"
    if declared.choices is not None:
        assert declared.choices, f"{name} accepts no value"
        assert declared.default is None or declared.default in declared.choices, name
    assert declared.default is not None or declared.default_rule, f"{name} has neither default nor default_rule"
    for other, values in declared.requires.items():
        condition = capabilities.hyperparameter(other)
        assert condition is not None, f"{name} requires {other}, which is not declared"
        assert values, f"{name} can never have an effect"
        assert condition.choices is None or set(values) <= set(condition.choices), (
            f"{name} requires values of {other} that {other} does not accept"
        )
    assert all(capabilities.hyperparameter(other) is not None for other in declared.excludes), name
    assert name not in declared.excludes


def valid_value(capabilities: Capabilities, name: str) -> Scalar:
    """Return a value of the hyperparameter that is acceptable on its own."""
    declared = capabilities.hyperparameter(name)
    assert declared is not None
    if declared.default is not None:
        return declared.default
    if declared.choices:
        return declared.choices[0]
    if declared.kind in {"str", "bool"}:
        return "x" if declared.kind == "str" else True
    bound = next((bound for bound in (declared.low, declared.high) if bound is not None), 1.0)
    return int(bound) if declared.kind == "int" else bound
