"""What is wrong with a search space: every mistake at once, each with its place and the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class SpaceProblem:
    """One mistake. `path` leads to it from the root of the space's mapping: names and list positions."""

    path: tuple[str | int, ...]
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class SpaceError(ValueError):
    """A search space cannot be used; `problems` holds everything that is wrong with it."""

    def __init__(self, problems: Iterable[SpaceProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(each) for each in self.problems))

    def __reduce__(self) -> tuple[type[SpaceError], tuple[tuple[SpaceProblem, ...]]]:
        """Pickle by the problems, so that the error crosses process boundaries."""
        return type(self), (self.problems,)


class MisfitError(ValueError):
    """A single value that does not fit, before it is known where it stands."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return "did you mean X?" for the nearest of the known names, else the list of them; empty where there is none."""
    names = sorted(set(known))
    near = difflib.get_close_matches(wrong, names, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"known: {', '.join(names)}" if names else ""
