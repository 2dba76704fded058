"""A search space that can be sampled: Optuna distributions, conditions, seed points, and notes on how it came about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import BaseTrial

from search_spaces import domains
from search_spaces.catalogue import Recommendation
from search_spaces.limits import Scalar, plain
from search_spaces.problems import SpaceError, SpaceProblem

Point = dict[str, Scalar]


@dataclass(frozen=True)
class ResolvedParameter:
    """One hyperparameter: searched where there is a `distribution`, else `fixed` to a value.

    `written` is how the user wrote it, `notes` what was done to it. It takes part in a point only where each name in
    `condition` has one of the values. `centre` is its value in the first seed point, `default` in the second.
    `recommendation` is what the catalogue says in the scope, followed or not (`follows_recommendation`).
    """

    name: str
    written: str
    distribution: domains.Domain | None
    fixed: Scalar | None
    centre: Scalar
    default: Scalar
    condition: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    recommendation: Recommendation | None = None
    follows_recommendation: bool = False
    notes: tuple[str, ...] = ()

    @property
    def searched(self) -> bool:
        """True where there is more than one value."""
        return self.distribution is not None

    @property
    def text(self) -> str:
        """What was resolved, in words: "1 .. 80, log", "0.01 | 0.1 | 1", "3"."""
        return plain(self.fixed) if self.distribution is None else domains.text(self.distribution)

    @property
    def condition_text(self) -> str:
        """The condition in words: "method is lora", "method is lora or dora"; empty where there is none."""
        return " and ".join(
            f"{name} is {' or '.join(map(plain, values))}" for name, values in sorted(self.condition.items())
        )

    def active(self, point: Mapping[str, object]) -> bool:
        """Return whether the parameter takes part, given the values of those that stand before it."""
        return all(
            name in point and any(domains.same(point[name], each) for each in values)
            for name, values in self.condition.items()
        )

    def contains(self, value: object) -> bool:
        """Return whether the value is one of this parameter's."""
        if self.distribution is None:
            return domains.same(value, self.fixed)
        return domains.contains(self.distribution, value)

    @property
    def size(self) -> int | None:
        """The number of values; None where they cannot be counted."""
        return 1 if self.distribution is None else domains.size(self.distribution)

    def suggest(self, trial: BaseTrial) -> Scalar:
        """Return the fixed value, or ask the trial for one."""
        if self.distribution is not None:
            return domains.suggest(self.distribution, self.name, trial)
        assert self.fixed is not None
        return self.fixed

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        distribution = None if self.distribution is None else json.loads(distribution_to_json(self.distribution))
        return {
            "name": self.name,
            "written": self.written,
            "text": self.text,
            "distribution": distribution,
            "fixed": self.fixed,
            "condition": {name: list(values) for name, values in sorted(self.condition.items())},
            "recommendation": self.recommendation.to_json() if self.recommendation else None,
            "follows_recommendation": self.follows_recommendation,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class ResolvedSpace:
    """The hyperparameters in dependency order: a condition only ever names parameters that stand before.

    `left_out` are optional ones that the backend does not know.
    """

    parameters: tuple[ResolvedParameter, ...]
    left_out: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[ResolvedParameter]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def parameter(self, name: str) -> ResolvedParameter | None:
        """Return the parameter of the name; None where the space has none."""
        return next((each for each in self.parameters if each.name == name), None)

    @property
    def searched(self) -> tuple[str, ...]:
        """The names of the parameters that have more than one value."""
        return tuple(each.name for each in self.parameters if each.searched)

    @property
    def seed_points(self) -> tuple[Point, ...]:
        """The points to try first: the recommended centre, then the backend's defaults moved into the space; distinct.

        They are complete points, fixed values included; Optuna ignores those when such a point is enqueued.
        """
        centre = self._point({each.name: each.centre for each in self.parameters})
        default = self._point({each.name: each.default for each in self.parameters})
        return (centre,) if centre == default else (centre, default)

    def suggest(self, trial: BaseTrial) -> Point:
        """Return a point: the trial is asked for each searched parameter that is active, in dependency order."""
        point: Point = {}
        for each in self.parameters:
            if each.active(point):
                point[each.name] = each.suggest(trial)
        return point

    def violations(self, point: Mapping[str, object]) -> list[str]:
        """Return why the point is not one of this space; empty where it is."""
        found = [f"{name} is not in this space" for name in point if self.parameter(name) is None]
        for each in self.parameters:
            if not each.active(point):
                if each.name in point:
                    found.append(f"{each.name} has a value, but takes part only where {each.condition_text}")
            elif each.name not in point:
                found.append(f"{each.name} has no value")
            elif not each.contains(point[each.name]):
                found.append(f"{each.name} is {plain(point[each.name])}, not in {each.text}")
        return found

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the searched parameters that are in every point: the static search space of samplers that need one."""
        return {each.name: each.distribution for each in self.parameters if each.distribution and not each.condition}

    def grid(self) -> dict[str, list[Scalar]]:
        """Return all values of each searched parameter. Raises SpaceError where one is continuous or conditional."""
        problems: list[SpaceProblem] = []
        grid: dict[str, list[Scalar]] = {}
        for each in self.parameters:
            if each.condition:
                message = f"{each.name}: a grid has no conditions"
                hint = f"it takes part only where {each.condition_text}; choose another sampler or drop the condition"
                problems.append(SpaceProblem((each.name,), message, hint))
            elif each.distribution is not None:
                values = domains.values(each.distribution)
                if values is None:
                    message = f"{each.name}: a grid needs values that can be counted, not {each.text}"
                    problems.append(SpaceProblem((each.name,), message, "give a step or a list"))
                else:
                    grid[each.name] = values
        if problems:
            raise SpaceError(problems)
        return grid

    def size(self) -> int | None:
        """Return the number of distinct points, conditions respected; None where they cannot be counted."""
        return None if any(each.size is None for each in self.parameters) else self._count(0, {})

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 (hex) of what can be sampled: values and conditions, not how they were written or came about."""
        content = {
            each.name: {key: each.to_json()[key] for key in ("distribution", "fixed", "condition")}
            for each in self.parameters
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: parameters, seed points, size and fingerprint."""
        return {
            "parameters": [each.to_json() for each in self.parameters],
            "left_out": list(self.left_out),
            "seed_points": list(self.seed_points),
            "size": self.size(),
            "fingerprint": self.fingerprint,
        }

    def _point(self, values: Mapping[str, Scalar]) -> Point:
        point: Point = {}
        for each in self.parameters:
            if each.active(point):
                point[each.name] = values[each.name]
        return point

    def _count(self, position: int, point: Mapping[str, object]) -> int:
        """Count the points that begin with `point`, which holds only what the conditions further on ask for."""
        if position == len(self.parameters):
            return 1
        each, following = self.parameters[position], self.parameters[position + 1 :]
        if not each.active(point):
            return self._count(position + 1, point)
        asked = {value for later in following for value in later.condition.get(each.name, ()) if each.contains(value)}
        counted = sum(self._count(position + 1, {**point, each.name: value}) for value in asked)
        others = (each.size or 0) - len(asked)
        return counted + (others * self._count(position + 1, {**point, each.name: _ANOTHER}) if others else 0)


_ANOTHER = object()
"""Stands for all values that no condition asks for."""
