"""The conditions of hyperparameters: `when:`, and the requirements of the backend."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

from search_spaces.limits import Limit, Scalar, yaml_text
from search_spaces.parameters import Parameter
from search_spaces.problems import InvalidValueError, SpaceProblem, did_you_mean

Condition: TypeAlias = dict[str, tuple[Scalar, ...]]
"""Maps other hyperparameters to values. It holds where each of them has one of its values."""


def dependency_order(
    parameters: Mapping[str, Parameter], parents: Mapping[str, Iterable[str]], problems: list[SpaceProblem]
) -> list[str]:
    """Return the names in written order, except that parents come first. Report each cycle once."""
    order: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            cycle = " -> ".join((*trail[trail.index(name) :], name))
            message = f"{trail[-1]}: the conditions form a cycle: {cycle}"
            problems.append(SpaceProblem((trail[-1], "when", name), message, "remove one of them"))
        elif name not in order:
            for parent in parents[name]:
                if parent in parameters:
                    visit(parent, (*trail, name))
            if name not in order:
                order.append(name)

    for name in parameters:
        visit(name, ())
    return order


class ConditionResolver:
    """Resolves conditions one parameter after the other, in dependency order.

    For each parameter, call `resolve`, and then `set_values` with the values that it can take.
    """

    def __init__(
        self, parameters: Mapping[str, Parameter], limits: Mapping[str, Limit], problems: list[SpaceProblem]
    ) -> None:
        self._parameters = parameters
        self._limits = limits
        self._problems = problems
        self._values: dict[str, Collection[Scalar] | None] = {}
        self._effective: dict[str, dict[str, frozenset[Scalar]]] = {}

    def set_values(self, name: str, values: Collection[Scalar] | None) -> None:
        """Store the values that a parameter can take. None stands for a continuous range."""
        self._values[name] = values

    def resolve(self, parameter: Parameter, notes: list[str]) -> Condition:
        """Return the parameter's condition.

        It omits conditions that always hold, and includes the requirements of the backend.
        """
        condition: Condition = {}
        for other, written in parameter.when.items():
            possible = self._possible_when_values(parameter, other, written, notes)
            if possible and not self._always_holds(other, possible):
                condition[other] = possible
        if all(self._merged(condition).values()):
            self._add_requirements(parameter, condition, notes)
        else:
            chain = " and ".join(f"{other} is {_either(values)}" for other, values in condition.items())
            message = f"{parameter.name}: {chain} never happens, because of the conditions of these parameters"
            self._report((parameter.name, "when"), message, "remove one of the conditions")
        self._effective[parameter.name] = self._merged(condition)
        return condition

    def possible_values(self, name: str) -> dict[str, Collection[Scalar]]:
        """Return the values that other hyperparameters can have if this one is active.

        A hyperparameter whose values are unknown is absent.
        """
        names = {**self._limits, **self._values}
        possible = {other: self._possible(other, self._effective[name]) for other in names}
        return {other: values for other, values in possible.items() if values is not None}

    def can_coexist(self, one: str, other: str) -> bool:
        """Return whether two parameters can be active in the same point."""
        first, second = self._effective.get(one, {}), self._effective.get(other, {})
        return all(first[name] & second[name] for name in first.keys() & second.keys())

    # -------------------------------------------------------------------------------------- `when:`
    def _possible_when_values(
        self, parameter: Parameter, other: str, written: tuple[Scalar, ...], notes: list[str]
    ) -> tuple[Scalar, ...]:
        """Return the values in `when:` that can occur.

        The result is empty if the condition always holds, or if it has a problem.
        """
        path, name = (parameter.name, "when", other), parameter.name
        if other not in self._limits:
            if other not in self._parameters:
                known = did_you_mean(other, {*self._parameters, *self._limits} - {name})
                self._report(path, f"{name}: when names the unknown parameter {other}", known)
            return ()
        accepted = self._accepted(path, other, written)
        if other not in self._parameters:
            self._compare_with_default(path, other, accepted, notes)
            return ()
        if not accepted or other not in self._values:
            return ()
        values = self._values[other]
        if values is None:
            message = f"{name}: when cannot name {other}, which is a range of numbers"
            self._report(path, message, f"write {other} as a list")
            return ()
        possible = tuple(value for value in accepted if value in values)
        if not possible:
            message = f"{name}: {other} is never {_either(accepted)}, so {name} would never be used"
            self._report(path, message, f"{other} is {_either(values)}")
        elif len(possible) < len(accepted):
            impossible = [value for value in accepted if value not in possible]
            notes.append(f"{other} is never {_either(impossible)} here")
        return possible

    def _accepted(self, path: tuple[str, ...], other: str, written: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        """Return the values as the backend takes them; none unless it accepts all of them."""
        accepted: list[Scalar] = []
        for value in written:
            try:
                accepted.append(self._limits[other].validate(value))
            except InvalidValueError as error:
                message = f"{path[0]}: when {other} is {yaml_text(value)}: {error.message}"
                self._report(path, message, error.hint)
        return tuple(dict.fromkeys(accepted)) if len(accepted) == len(written) else ()

    def _compare_with_default(
        self, path: tuple[str, ...], other: str, accepted: tuple[Scalar, ...], notes: list[str]
    ) -> None:
        """Decide a condition on a hyperparameter outside of the space by the backend's default."""
        default = self._limits[other].default
        if default is None:
            self._report(path, f"{path[0]}: when names {other}, which is not in the space", f"add {other} to the space")
        elif default in accepted:
            notes.append(f"{other} is not in the space; the backend's default, {yaml_text(default)}, fits")
        elif accepted:
            message = (
                f"{path[0]}: {other} is not in the space and by default {yaml_text(default)}, "
                f"so {path[0]} would never be used"
            )
            self._report(path, message, f"add `{other}: {yaml_text(accepted[0])}`, or a list, to the space")

    def _always_holds(self, other: str, possible: tuple[Scalar, ...]) -> bool:
        values = self._values[other]
        return values is not None and len(possible) == len(values) and not self._effective[other]

    # ------------------------------------------------------------------ requirements of the backend
    def _add_requirements(self, parameter: Parameter, condition: Condition, notes: list[str]) -> None:
        name = parameter.name
        for other, required in self._limits[name].requires.items():
            if other in self._parameters and other not in self._values:
                continue  # the other parameter has its own problem
            possible = self._possible(other, self._merged(condition))
            if possible is None:
                notes.append(f"has an effect only where {other} is {_either(required)}")
                continue
            useful = tuple(value for value in possible if value in required)
            if not useful:
                message = f"{name} has no effect: {other} is {_either(possible)}"
                self._report((name,), message, f"leave {name} out, or write `{other}: {yaml_text(required[0])}`")
            elif len(useful) < len(possible):
                condition[other] = useful
                notes.append(f"only where {other} is {_either(useful)}: elsewhere it has no effect")

    def _possible(self, other: str, effective: Mapping[str, Collection[Scalar]]) -> Collection[Scalar] | None:
        if other in effective:
            return effective[other]
        if other in self._parameters:
            return self._values.get(other)
        default = self._limits[other].default if other in self._limits else None
        return None if default is None else (default,)

    def _merged(self, condition: Condition) -> dict[str, frozenset[Scalar]]:
        """Return the condition together with the conditions of the parameters that it names.

        An empty set means that the condition can never hold.
        """
        merged: dict[str, frozenset[Scalar]] = {}
        for other, values in condition.items():
            for name, allowed in {**self._effective[other], other: frozenset(values)}.items():
                merged[name] = merged[name] & allowed if name in merged else allowed
        return merged

    def _report(self, path: tuple[str, ...], message: str, hint: str) -> None:
        self._problems.append(SpaceProblem(path, message, hint))


def _either(values: Iterable[Scalar]) -> str:
    if isinstance(values, range):
        return f"{values[0]} .. {values[-1]}"
    return " or ".join(sorted(yaml_text(value) for value in values))
