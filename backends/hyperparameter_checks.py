"""Whether hyperparameters agree with what a backend declares: the check that every backend owes its callers."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

from backends.contract import Capabilities, Failure, FailureKind, Hyperparameter, Scalar


def contradictions(hyperparameters: Mapping[str, Scalar], capabilities: Capabilities) -> list[Failure]:
    """Return one USER failure for each name that is not declared and each value that is not accepted.

    Every message names the hyperparameter, the detail says what is accepted. A hyperparameter whose `requires` is not
    met is accepted, as it has no effect.
    """
    found: list[Failure] = []
    for name, value in hyperparameters.items():
        declared = capabilities.hyperparameter(name)
        if declared is None:
            found.append(_unknown(name, [each.name for each in capabilities.hyperparameters]))
            continue
        if (wrong := _wrong(declared, value)) is not None:
            found.append(Failure(FailureKind.USER, f"{name}: {value!r} {wrong}", _accepted(declared)))
        # of two names that exclude each other, the first one in the alphabet reports it
        found += [
            Failure(FailureKind.USER, f"{name} and {other} cannot be given together", "Leave one of them out.")
            for other in sorted(_exclusions(declared, capabilities))
            if other in hyperparameters and name < other
        ]
    return found


def _exclusions(declared: Hyperparameter, capabilities: Capabilities) -> set[str]:
    reverse = (each.name for each in capabilities.hyperparameters if declared.name in each.excludes)
    return {*declared.excludes, *reverse}


def _unknown(name: str, known: list[str]) -> Failure:
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {nearest[0]}?" if nearest else f"It accepts {', '.join(sorted(known))}."
    return Failure(FailureKind.USER, f"{name} is not a hyperparameter of this backend", hint)


def _wrong(declared: Hyperparameter, value: Scalar) -> str | None:
    """Return what is wrong with a value, or None."""
    match declared.kind:
        case "int":
            fits = isinstance(value, int) and not isinstance(value, bool)
        case "float":
            fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        case "str":
            fits = isinstance(value, str)
        case "bool":
            fits = isinstance(value, bool)
    if not fits:
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
        return f"Accepted: {', '.join(str(each) for each in declared.choices)}."
    bounds = [f"at least {declared.low:g}"] if declared.low is not None else []
    bounds += [f"at most {declared.high:g}"] if declared.high is not None else []
    return f"Accepted: {' and '.join([_KINDS[declared.kind], *bounds])}."
