"""When a hyperparameter takes part: `when:` as written, what the backend requires, and the order that follows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

from search_spaces.limits import Limit, Scalar, plain
from search_spaces.parameters import Parameter
from search_spaces.problems import MisfitError, SpaceProblem, did_you_mean

Condition: TypeAlias = dict[str, tuple[Scalar, ...]]


def dependency_order(
    parameters: Mapping[str, Parameter], parents: Mapping[str, Iterable[str]], problems: list[SpaceProblem]
) -> list[str]:
    """Return the names in the written order, except that parents come first. A circle is reported once."""
    order: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            circle = " -> ".join((*trail[trail.index(name) :], name))
            problems.append(
                SpaceProblem((trail[-1], "when", name), f"{trail[-1]}: when goes in a circle: {circle}", "drop one")
            )
        elif name not in order:
            for parent in parents[name]:
                if parent in parameters:
                    visit(parent, (*trail, name))
            if name not in order:
                order.append(name)

    for name in parameters:
        visit(name, ())
    return order


class Conditions:
    """The conditions found so far, in dependency order: call `find` for a parameter, then `settle` with its values."""

    def __init__(
        self, parameters: Mapping[str, Parameter], limits: Mapping[str, Limit], problems: list[SpaceProblem]
    ) -> None:
        self._parameters = parameters
        self._limits = limits
        self._problems = problems
        self._values: dict[str, Collection[Scalar] | None] = {}
        self._effective: dict[str, dict[str, frozenset[Scalar]]] = {}

    def settle(self, name: str, values: Collection[Scalar] | None) -> None:
        """Remember which values a parameter can take; None: so many that no condition can name one."""
        self._values[name] = values

    def find(self, parameter: Parameter, notes: list[str]) -> Condition:
        """Return the parameter's condition: what always holds is left out, what the backend requires is added."""
        condition: Condition = {}
        for other, written in parameter.when.items():
            wanted = self._wanted(parameter, other, written, notes)
            if wanted and not self._always(other, wanted):
                condition[other] = wanted
        if all(self._merged(condition).values()):
            self._add_required(parameter, condition, notes)
        else:
            chain = " and ".join(f"{other} is {_either(values)}" for other, values in condition.items())
            message = f"{parameter.name}: {chain} never happens, by the conditions of what it names"
            self._report((parameter.name, "when"), message, "drop one of the conditions")
        self._effective[parameter.name] = self._merged(condition)
        return condition

    def possible(self, name: str) -> dict[str, Collection[Scalar]]:
        """Return what the other hyperparameters can be where this one is active; those nobody knows are absent."""
        found = {other: self._possible(other, self._effective[name]) for other in {**self._limits, **self._values}}
        return {other: values for other, values in found.items() if values is not None}

    def ever_together(self, one: str, other: str) -> bool:
        """Return whether two parameters can be active in the same point."""
        first, second = self._effective.get(one, {}), self._effective.get(other, {})
        return all(first[name] & second[name] for name in first.keys() & second.keys())

    # ---------------------------------------------------------------------------------------------------------- `when:`
    def _wanted(
        self, parameter: Parameter, other: str, written: tuple[Scalar, ...], notes: list[str]
    ) -> tuple[Scalar, ...]:
        """Return the values of `when:` that can occur; empty where the condition holds anyway or cannot be judged."""
        path, name = (parameter.name, "when", other), parameter.name
        if other not in self._limits:
            if other not in self._parameters:
                known = did_you_mean(other, {*self._parameters, *self._limits} - {name})
                self._report(path, f"{name}: when names {other}, which nobody knows", known)
            return ()
        wanted = self._admitted(path, other, written)
        if other not in self._parameters:
            self._judge_default(path, other, wanted, notes)
            return ()
        if not wanted or other not in self._values:
            return ()
        values = self._values[other]
        if values is None:
            self._report(path, f"{name}: when cannot name {other}, which is a range of numbers", "write it as a list")
            return ()
        met = tuple(value for value in wanted if value in values)
        if not met:
            found = f"{other} is never {_either(wanted)}, so it would never be used"
            self._report(path, f"{name}: {found}", f"{other} is {_either(values)}")
        elif len(met) < len(wanted):
            notes.append(f"{other} is never {_either(value for value in wanted if value not in met)} here")
        return met

    def _admitted(self, path: tuple[str, ...], other: str, written: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        admitted: list[Scalar] = []
        for value in written:
            try:
                admitted.append(self._limits[other].admit(value))
            except MisfitError as misfit:
                self._report(path, f"{path[0]}: when {other} is {plain(value)}: {misfit.message}", misfit.hint)
        return tuple(dict.fromkeys(admitted)) if len(admitted) == len(written) else ()

    def _judge_default(self, path: tuple[str, ...], other: str, wanted: tuple[Scalar, ...], notes: list[str]) -> None:
        """A condition on what is not in the space holds or not by the backend's default."""
        default = self._limits[other].default
        if default is None:
            self._report(path, f"{path[0]}: when names {other}, which is not in the space", f"add {other} to the space")
        elif default in wanted:
            notes.append(f"{other} is not in the space; the backend's default, {plain(default)}, fits")
        elif wanted:
            message = (
                f"{path[0]}: {other} is not in the space, and by default {plain(default)}, so it would never be used"
            )
            self._report(path, message, f"add `{other}: {plain(wanted[0])}`, or a list, to the space")

    def _always(self, other: str, wanted: tuple[Scalar, ...]) -> bool:
        values = self._values[other]
        return values is not None and len(wanted) == len(values) and not self._effective[other]

    # ----------------------------------------------------------------------------------------------- the backend's word
    def _add_required(self, parameter: Parameter, condition: Condition, notes: list[str]) -> None:
        name = parameter.name
        for other, required in self._limits[name].requires.items():
            if other in self._parameters and other not in self._values:
                continue  # it has a problem of its own
            possible = self._possible(other, self._merged(condition))
            if possible is None:
                notes.append(f"has an effect only where {other} is {_either(required)}")
                continue
            useful = tuple(value for value in possible if value in required)
            if not useful:
                remedy = f"leave {name} out, or write `{other}: {plain(required[0])}`"
                self._report((name,), f"{name} has no effect: {other} is {_either(possible)}", remedy)
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
        """Return the condition together with those of the parameters it names: an empty set can never be met."""
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
    return " or ".join(sorted(plain(value) for value in values))
