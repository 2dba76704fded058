"""Where a search space meets the backend's limits and the sweep file's lines."""

from __future__ import annotations

from backends.contract import Capabilities, Hyperparameter
from search_spaces.space import Limit, SpaceError
from sweeps.errors import Problem
from sweeps.spec.yaml_source import Document


def space_limits(capabilities: Capabilities) -> dict[str, Limit]:
    """Translate the hyperparameters of a backend into the limits that clamp a search space.

    The packages `backends` and `search_spaces` meet only here.
    """
    return {hyperparameter.name: _limit(hyperparameter) for hyperparameter in capabilities.hyperparameters}


def _limit(hyperparameter: Hyperparameter) -> Limit:
    return Limit(
        kind=hyperparameter.kind,
        low=hyperparameter.low,
        high=hyperparameter.high,
        choices=hyperparameter.choices,
        default=hyperparameter.default,
        requires=hyperparameter.requires,
        excludes=hyperparameter.excludes,
    )


def space_problems(error: SpaceError, document: Document) -> list[Problem]:
    """Return the problems of a search space with their lines in the sweep file."""
    return [
        Problem(document.place(("space", *problem.path)), problem.message, problem.hint) for problem in error.problems
    ]
