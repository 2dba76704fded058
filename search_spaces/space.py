"""SearchSpace: the hyperparameters under `space:` as the user wrote them, and their resolution."""

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
    """The hyperparameters as written, in written order.

    `library` is the name of the library space that they extend, and `from_library` are the names of
    the parameters that come from it.
    """

    parameters: tuple[Parameter, ...]
    library: str | None = None
    from_library: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, written: object) -> SearchSpace:
        """Parse a mapping of names to hyperparameters. Raises SpaceError with all mistakes.

        This checks only the syntax. `use: NAME` starts with a library space. Other keys replace the
        library's parameter of the same name, or add one; `null` removes a parameter of the library.
        """
        if not isinstance(written, Mapping):
            hint = "write `n_epochs: recommended`, or `use: NAME` for a library space"
            raise SpaceError([SpaceProblem((), "a space must be a mapping of hyperparameters", hint)])
        problems: list[SpaceProblem] = []
        library_space = _library_space(written["use"], problems) if "use" in written else None
        inherited: Mapping[str, Any] = {} if library_space is None else library_space.space
        merged = {**inherited, **{key: value for key, value in written.items() if key != "use"}}
        parameters = []
        for name, value in merged.items():
            if not isinstance(name, str):
                problems.append(
                    SpaceProblem((name,), f"{name} is not the name of a hyperparameter", "write a text as the name")
                )
            elif value is not None or name not in inherited:
                parameter = parse_parameter(name, value, problems)
                parameters.extend([parameter] if parameter else [])
        if problems:
            raise SpaceError(problems)
        library_name = library_space.name if library_space else None
        return cls(tuple(parameters), library_name, frozenset(set(inherited) - set(written)))

    @property
    def fingerprint(self) -> str:
        """The SHA-256 digest (hex) of the parameters.

        It does not depend on the order of keys and lists, or on the notation of numbers.
        """
        content = {parameter.name: parameter.canonical() for parameter in self.parameters}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def resolve(
        self,
        training_examples: int,
        limits: Mapping[str, Limit],
        scope: str,
        bounds: Mapping[str, tuple[float, float]] | None = None,
    ) -> ResolvedSpace:
        """Return the space for a training set of this size on a backend with these limits.

        `scope` is the scope of the recommendation catalogue. `bounds` replace the ends of searched
        ranges; steering uses them. They are numbers and never shares of the training set. Lists and
        fixed values cannot have bounds, because Optuna cannot continue a study whose choices have
        changed. Ranges are clamped to the limits, with a note.

        Raises SpaceError with all problems, with the nearest valid name in the hint.
        """
        if training_examples < 1:
            raise ValueError(f"training_examples is {training_examples}")
        try:
            return resolve(self.parameters, training_examples, limits, scope, bounds or {})
        except SpaceError as error:
            raise SpaceError(map(self._with_user_place, error.problems)) from None

    def _with_user_place(self, problem: SpaceProblem) -> SpaceProblem:
        """Return the problem with the place of `use:`, if the library wrote the parameter."""
        if not problem.path or problem.path[0] not in self.from_library:
            return problem
        hint = f"write {problem.path[0]}: null to remove it from the {self.library} space"
        return replace(problem, path=("use",), hint=f"{problem.hint}; {hint}" if problem.hint else hint)


def _library_space(name: object, problems: list[SpaceProblem]) -> library.LibrarySpace | None:
    if isinstance(name, str) and name in library.names():
        return library.load(name)
    problems.append(
        SpaceProblem(("use",), f"the library has no space {name}", did_you_mean(str(name), library.names()))
    )
    return None
