"""What a declaration of hyperparameters must fulfil, and values that contradict it."""

from __future__ import annotations

import math

from backends.contract import Capabilities, Hyperparameter, Scalar

_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


def wrong_values(declared: Hyperparameter) -> list[Scalar]:
    """Return values that contradict a declaration: of another type, out of bounds, not among the choices."""
    wrong: list[Scalar] = ["not a number"] if declared.kind in {"int", "float"} else [12.5]
    if declared.kind == "int":
        wrong += [1.5, True]
    if declared.kind == "float":
        wrong += [math.nan, math.inf]
    if declared.choices is not None and declared.kind == "str":
        wrong.append("no-such-choice")
    if declared.choices is not None and declared.kind == "int":
        wrong.append(int(max(declared.choices)) + 1)
    step = 1 if declared.kind == "int" else 1e-3
    if declared.low is not None:
        wrong.append(type(step)(declared.low) - step)
    if declared.high is not None:
        wrong.append(type(step)(declared.high) + step)
    return wrong


def assert_consistent(declared: Hyperparameter, capabilities: Capabilities) -> None:
    """Fail unless type, bounds, choices and default agree and every name that is referred to is declared."""
    name, types = declared.name, _TYPES[declared.kind]
    numeric = declared.kind in {"int", "float"}
    assert declared.description, name
    assert numeric or (declared.low is None and declared.high is None), f"{name} has bounds, but is no number"
    if declared.low is not None and declared.high is not None:
        assert declared.low <= declared.high, name
    given = [*(declared.choices or ()), *([] if declared.default is None else [declared.default])]
    for value in given:
        assert isinstance(value, types), f"{name}: {value!r} is no {declared.kind}"
        assert isinstance(value, bool) == (declared.kind == "bool"), f"{name}: {value!r} is no {declared.kind}"
        if numeric:
            assert declared.low is None or float(value) >= declared.low, f"{name}: {value!r} is too low"
            assert declared.high is None or float(value) <= declared.high, f"{name}: {value!r} is too high"
    if declared.choices is not None:
        assert declared.choices, f"{name} accepts nothing"
        assert declared.default is None or declared.default in declared.choices, name
    assert declared.default is not None or declared.default_rule, f"{name}: nobody knows its default"
    for other, values in declared.requires.items():
        condition = capabilities.hyperparameter(other)
        assert condition is not None, f"{name} requires {other}, which is not declared"
        assert values, f"{name} can never have an effect"
        assert condition.choices is None or set(values) <= set(condition.choices), f"{name} requires the impossible"
    assert all(capabilities.hyperparameter(other) is not None for other in declared.excludes), name
    assert name not in declared.excludes


def some_value(capabilities: Capabilities, name: str) -> Scalar:
    """Return a value that is acceptable on its own."""
    declared = capabilities.hyperparameter(name)
    assert declared is not None
    if declared.default is not None:
        return declared.default
    if declared.choices:
        return declared.choices[0]
    if declared.kind in {"str", "bool"}:
        return "x" if declared.kind == "str" else True
    bound = next((each for each in (declared.low, declared.high) if each is not None), 1.0)
    return int(bound) if declared.kind == "int" else bound
