"""A resolved search space, which can be sampled: distributions, conditions, seed points, notes."""

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
from search_spaces.limits import Scalar, yaml_text
from search_spaces.problems import SpaceError, SpaceProblem

Point = dict[str, Scalar]


@dataclass(frozen=True)
class ResolvedParameter:
    """One hyperparameter: searched if it has a `distribution`, otherwise `fixed` to a value.

    `written` is the user's text, and `notes` explain every change to it. The hyperparameter takes
    part only in points where each name in `condition` has one of the given values. `centre` is its
    value in the first seed point, and `default` in the second. `recommendation` is the entry of the
    catalogue, and `follows_recommendation` says whether the space uses it.
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
    def is_searched(self) -> bool:
        """True for a hyperparameter with more than one value."""
        return self.distribution is not None

    @property
    def text(self) -> str:
        """The values in words: "1 .. 80, log", "0.01 | 0.1 | 1", "3"."""
        return yaml_text(self.fixed) if self.distribution is None else domains.text(self.distribution)

    @property
    def condition_text(self) -> str:
        """The condition in words, such as "method is lora or dora"; empty without a condition."""
        return " and ".join(
            f"{name} is {' or '.join(map(yaml_text, values))}" for name, values in sorted(self.condition.items())
        )

    def is_active(self, point: Mapping[str, object]) -> bool:
        """Return whether the parameter takes part, given the values of the earlier parameters."""
        return all(
            name in point and any(domains.same_value(point[name], value) for value in values)
            for name, values in self.condition.items()
        )

    def contains(self, value: object) -> bool:
        """Return whether the parameter can have the value."""
        if self.distribution is None:
            return domains.same_value(value, self.fixed)
        return domains.contains(self.distribution, value)

    @property
    def size(self) -> int | None:
        """The number of values, or None for a continuous range."""
        return 1 if self.distribution is None else domains.size(self.distribution)

    def suggest(self, trial: BaseTrial) -> Scalar:
        """Return the fixed value, or ask the trial for one."""
        if self.distribution is not None:
            return domains.suggest(self.distribution, self.name, trial)
        assert self.fixed is not None
        return self.fixed

    def to_json(self) -> dict[str, Any]:
        """Return yaml_text JSON values."""
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
    """The hyperparameters in dependency order: a condition names only earlier parameters.

    `left_out` are the names of optional hyperparameters that the backend does not know.
    """

    parameters: tuple[ResolvedParameter, ...]
    left_out: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[ResolvedParameter]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def parameter(self, name: str) -> ResolvedParameter | None:
        """Return the parameter with this name, or None."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)

    @property
    def searched(self) -> tuple[str, ...]:
        """The names of the parameters with more than one value."""
        return tuple(parameter.name for parameter in self.parameters if parameter.is_searched)

    @property
    def seed_points(self) -> tuple[Point, ...]:
        """The points to try first: the recommended centre, then the backend's defaults.

        The defaults are moved into the space. The points are distinct and complete, including fixed
        values, which Optuna ignores when such a point is enqueued.
        """
        centre = self._point({parameter.name: parameter.centre for parameter in self.parameters})
        default = self._point({parameter.name: parameter.default for parameter in self.parameters})
        return (centre,) if centre == default else (centre, default)

    def suggest(self, trial: BaseTrial) -> Point:
        """Return a point. Asks the trial for each active parameter, in dependency order."""
        point: Point = {}
        for parameter in self.parameters:
            if parameter.is_active(point):
                point[parameter.name] = parameter.suggest(trial)
        return point

    def violations(self, point: Mapping[str, object]) -> list[str]:
        """Return the reasons why the point is not in this space; empty for a point inside."""
        reasons = [f"{name} is not in this space" for name in point if self.parameter(name) is None]
        for parameter in self.parameters:
            name = parameter.name
            if not parameter.is_active(point):
                if name in point:
                    reasons.append(f"{name} has a value, but takes part only where {parameter.condition_text}")
            elif name not in point:
                reasons.append(f"{name} has no value")
            elif not parameter.contains(point[name]):
                reasons.append(f"{name} is {yaml_text(point[name])}, not in {parameter.text}")
        return reasons

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the distributions of the searched parameters that are in every point.

        Samplers that need a static search space use these.
        """
        return {
            parameter.name: parameter.distribution
            for parameter in self.parameters
            if parameter.distribution and not parameter.condition
        }

    def grid(self) -> dict[str, list[Scalar]]:
        """Return all values of each searched parameter.

        Raises SpaceError for every parameter that is continuous or has a condition.
        """
        problems: list[SpaceProblem] = []
        grid: dict[str, list[Scalar]] = {}
        for parameter in self.parameters:
            name = parameter.name
            if parameter.condition:
                message = (
                    f"{name}: a grid cannot have conditions, but this applies only where {parameter.condition_text}"
                )
                problems.append(SpaceProblem((name,), message, "choose another sampler, or remove the condition"))
            elif parameter.distribution is not None:
                values = domains.values(parameter.distribution)
                if values is None:
                    message = f"{name}: a grid needs a finite number of values, not {parameter.text}"
                    problems.append(SpaceProblem((name,), message, "write a step or a list"))
                else:
                    grid[name] = values
        if problems:
            raise SpaceError(problems)
        return grid

    def size(self) -> int | None:
        """Return the number of distinct points, or None for a continuous space."""
        return None if any(parameter.size is None for parameter in self.parameters) else self._count(0, {})

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 digest (hex) of all values and conditions, however they are written."""
        content = {
            parameter.name: {key: parameter.to_json()[key] for key in ("distribution", "fixed", "condition")}
            for parameter in self.parameters
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return yaml_text JSON values: parameters, seed points, size and fingerprint."""
        return {
            "parameters": [parameter.to_json() for parameter in self.parameters],
            "left_out": list(self.left_out),
            "seed_points": list(self.seed_points),
            "size": self.size(),
            "fingerprint": self.fingerprint,
        }

    def _point(self, values: Mapping[str, Scalar]) -> Point:
        point: Point = {}
        for parameter in self.parameters:
            if parameter.is_active(point):
                point[parameter.name] = values[parameter.name]
        return point

    def _count(self, position: int, point: Mapping[str, object]) -> int:
        """Count the points that begin with `point`, the values of the parameters before `position`.

        Values that no later condition names are equivalent, so that they are counted together.
        """
        if position == len(self.parameters):
            return 1
        parameter, later_parameters = self.parameters[position], self.parameters[position + 1 :]
        if not parameter.is_active(point):
            return self._count(position + 1, point)
        named_values = {
            value
            for later in later_parameters
            for value in later.condition.get(parameter.name, ())
            if parameter.contains(value)
        }
        count = sum(self._count(position + 1, {**point, parameter.name: value}) for value in named_values)
        if others := (parameter.size or 0) - len(named_values):
            count += others * self._count(position + 1, {**point, parameter.name: _ANY_OTHER})
        return count


_ANY_OTHER = object()
"""Stands for all values that no condition names."""
