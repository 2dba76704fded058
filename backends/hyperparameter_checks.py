"""Checks hyperparameters against the declarations of a backend.

Every backend owes this check to its callers.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

from backends.contract import Capabilities, Failure, FailureKind, Hyperparameter, Scalar


def check_hyperparameters(hyperparameters: Mapping[str, Scalar], capabilities: Capabilities) -> list[Failure]:
    """Return one USER failure for each undeclared name, unaccepted value, and excluded combination.

    Every message names the hyperparameter, and the detail says what the backend accepts. A
    hyperparameter is accepted even if its `requires` is not met, because it then has no effect.
    """
    failures: list[Failure] = []
    for name, value in hyperparameters.items():
        declared = capabilities.hyperparameter(name)
        if declared is None:
            failures.append(_undeclared(name, [known.name for known in capabilities.hyperparameters]))
            continue
        if (problem := _problem_with(declared, value)) is not None:
            failures.append(Failure(FailureKind.USER, f"{name}: {value!r} {problem}", _accepted(declared)))
        # of two names that exclude each other, the alphabetically first one reports it
        failures += [
            Failure(FailureKind.USER, f"{name} and {other} cannot be given together", "Leave one of them out.")
            for other in sorted(_exclusions(declared, capabilities))
            if other in hyperparameters and name < other
        ]
    return failures


def _exclusions(declared: Hyperparameter, capabilities: Capabilities) -> set[str]:
    excluding = (other.name for other in capabilities.hyperparameters if declared.name in other.excludes)
    return {*declared.excludes, *excluding}


def _undeclared(name: str, known_names: list[str]) -> Failure:
    nearest = difflib.get_close_matches(name, known_names, n=1)
    hint = f"Did you mean {nearest[0]}?" if nearest else f"The backend accepts {', '.join(sorted(known_names))}."
    return Failure(FailureKind.USER, f"{name} is not a hyperparameter of this backend", hint)


def _problem_with(declared: Hyperparameter, value: Scalar) -> str | None:
    """Return the problem with a value, in words, or None."""
    match declared.kind:
        case "int":
            has_kind = isinstance(value, int) and not isinstance(value, bool)
        case "float":
            has_kind = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        case "str":
            has_kind = isinstance(value, str)
        case "bool":
            has_kind = isinstance(value, bool)
    if not has_kind:
        return f"is not {_KINDS[declared.kind]}"
    if declared.choices is not None:
        return None if value in declared.choices else "is not one of the choices"
    if isinstance(value, int | float):
        if declared.low is not None and value < declared.low:
            return f"is below {declared.low:g}"
        if declared.high is not None and value > declared.high:
            return f"is above {declared.high:g}"
    return None


_KINDS = {"int": "a whole number", "float": "a finite number", "str": "a text", "bool": "true or false"}


def _accepted(declared: Hyperparameter) -> str:
    if declared.choices is not None:
        return f"Accepted: {', '.join(str(choice) for choice in declared.choices)}."
    bounds = [f"at least {declared.low:g}"] if declared.low is not None else []
    bounds += [f"at most {declared.high:g}"] if declared.high is not None else []
    return f"Accepted: {' and '.join([_KINDS[declared.kind], *bounds])}."
