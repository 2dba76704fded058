"""SearchSpace: what a user wrote under `space:`, and its resolution against a training set and a backend's limits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from search_spaces import library
from search_spaces.limits import Kind, Limit, Scalar
from search_spaces.parameters import Parameter, parse_parameter
from search_spaces.problems import SpaceError, SpaceProblem, did_you_mean
from search_spaces.resolution import resolve
from search_spaces.resolved import ResolvedParameter, ResolvedSpace

__all__ = [
    "Kind",
    "Limit",
    "ResolvedParameter",
    "ResolvedSpace",
    "Scalar",
    "SearchSpace",
    "SpaceError",
    "SpaceProblem",
]


@dataclass(frozen=True)
class SearchSpace:
    """The hyperparameters as they are written, in the written order; `library` names the space they began with."""

    parameters: tuple[Parameter, ...]
    library: str | None = None
    from_library: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, written: object) -> SearchSpace:
        """Read a mapping of names to hyperparameters; syntax only. Raises SpaceError with everything that is wrong.

        `use: NAME` begins with a space of the library. What stands beside it replaces the library's parameter of the
        same name or is added; `null` leaves a parameter of the library out.
        """
        if not isinstance(written, Mapping):
            hint = "write `n_epochs: recommended`, or `use: NAME` for a space of the library"
            raise SpaceError([SpaceProblem((), "a space is a mapping of hyperparameters", hint)])
        problems: list[SpaceProblem] = []
        used = _used(written["use"], problems) if "use" in written else None
        begun: Mapping[str, Any] = {} if used is None else used.space
        merged = {**begun, **{key: value for key, value in written.items() if key != "use"}}
        parameters = []
        for name, value in merged.items():
            if not isinstance(name, str):
                problems.append(SpaceProblem((name,), f"{name} is no name of a hyperparameter", "write a word"))
            elif value is not None or name not in begun:
                parameter = parse_parameter(name, value, problems)
                parameters.extend([parameter] if parameter else [])
        if problems:
            raise SpaceError(problems)
        return cls(tuple(parameters), used.name if used else None, frozenset(set(begun) - set(written)))

    @property
    def fingerprint(self) -> str:
        """The sha256 (hex) of what is written, whatever the order of keys and lists and the formatting of numbers."""
        content = {each.name: each.canonical() for each in self.parameters}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def resolve(
        self,
        training_examples: int,
        limits: Mapping[str, Limit],
        scope: str,
        bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> ResolvedSpace:
        """Return what can be sampled for a training set of this size on a backend with these limits.

        `scope` is the scope of the recommendation catalogue. `bounds` replaces the ends of searched ranges (steering
        does so); they are counts, never shares, and lists and fixed values have none, because Optuna cannot go on with
        a study whose choices have changed. Ranges are clamped to the limits, and say so in their notes.

        Raises SpaceError with everything that is wrong, the nearest valid name in the hint.
        """
        if training_examples < 1:
            raise ValueError(f"training_examples is {training_examples}")
        try:
            return resolve(self.parameters, training_examples, limits, scope, bounds or {})
        except SpaceError as error:
            raise SpaceError(map(self._placed, error.problems)) from None

    def _placed(self, problem: SpaceProblem) -> SpaceProblem:
        """Point to `use:` for a parameter that the user did not write."""
        if not problem.path or problem.path[0] not in self.from_library:
            return problem
        hint = f"to leave it out of the {self.library} space, write {problem.path[0]}: null"
        return replace(problem, path=("use",), hint=f"{problem.hint}; {hint}" if problem.hint else hint)


def _used(name: object, problems: list[SpaceProblem]) -> library.LibrarySpace | None:
    if isinstance(name, str) and name in library.names():
        return library.load(name)
    problems.append(
        SpaceProblem(("use",), f"the library has no space {name}", did_you_mean(str(name), library.names()))
    )
    return None
