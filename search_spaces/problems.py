"""The mistakes in a search space, each with its place and the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class SpaceProblem:
    """One mistake. `path` leads to it from the root of the space: names and list positions."""

    path: tuple[str | int, ...]
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class SpaceError(ValueError):
    """A search space is invalid. `problems` holds all of its mistakes."""

    def __init__(self, problems: Iterable[SpaceProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[SpaceError], tuple[tuple[SpaceProblem, ...]]]:
        """Pickle by the problems, so that the error crosses process boundaries."""
        return type(self), (self.problems,)


class InvalidValueError(ValueError):
    """A single value is invalid. The caller adds its place."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def did_you_mean(written: str, known: Iterable[str]) -> str:
    """Return "did you mean X?" with the nearest known name, otherwise the list of known names.

    The result is empty if there are no known names.
    """
    names = sorted(set(known))
    nearest = difflib.get_close_matches(written, names, n=1)
    if nearest:
        return f"did you mean {nearest[0]}?"
    return f"known: {', '.join(names)}" if names else ""
