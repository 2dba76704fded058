"""The errors that a user can fix. Raised anywhere in the package, printed only by the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from backends.extras import install_command, missing_libraries


@dataclass(frozen=True)
class Problem:
    """One mistake: where it is (`file:line`, or a name), what is wrong, and what to do about it."""

    place: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class SweepError(Exception):
    """Something failed that the user can act on: a message, a hint with the remedy, and the exit code."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UserInputError(SweepError):
    """What the user wrote is wrong; `problems` holds all of it, found before anything was spent."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(each) for each in self.problems))


class SweepInterruptedError(SweepError):
    """The user stopped the sweep; it can be continued. Exit code as shells use for Ctrl-C."""

    exit_code = 130


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return a hint: the name that was probably meant, else all that there are."""
    names = list(known)
    nearest = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean `{nearest[0]}`?" if nearest else f"one of: {', '.join(names)}" if names else ""


def require_extra(extra: str, purpose: str) -> None:
    """Raise SweepError with the command to type where a library of `extra` is not installed.

    `purpose` starts the message, as in "The local backend". Imports none of the libraries.
    """
    if missing := missing_libraries(extra):
        raise SweepError(f"{purpose} needs {', '.join(missing)}.", f"Run: {install_command(extra)}")
