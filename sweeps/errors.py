"""Errors that a user can fix.

Any module of `sweeps` raises them; only the command line prints them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from backends.extras import install_command, missing_libraries


@dataclass(frozen=True)
class Problem:
    """One mistake: its `place` (`file:line`, or a name), the `message`, and a `hint`.

    The hint is the remedy. `code` names the kind of a fault of the data.
    """

    place: str
    message: str
    hint: str = ""
    code: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class SweepError(Exception):
    """A failure that the user can act on.

    It has a message, a hint with the remedy, and the exit code of the command.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UserInputError(SweepError):
    """The user's input is wrong.

    `problems` holds every mistake; all were found before anything was spent. `next_command` mends
    some of them, if there is such a command.
    """

    exit_code = 2

    def __init__(self, problems: Iterable[Problem], next_command: str = "") -> None:
        self.problems = tuple(problems)
        self.next_command = next_command
        super().__init__("\n".join(str(problem) for problem in self.problems))


class PartialFailureError(SweepError):
    """Some of several things failed; the others are done. `problems` holds every failure."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class TrackingIncompleteError(SweepError):
    """The sweep is done and recorded, but MLflow does not show all of it."""

    exit_code = 4


class SweepInterruptedError(SweepError):
    """The user stopped the sweep, which can resume.

    The exit code is the one that shells use after Ctrl-C.
    """

    exit_code = 130


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown name.

    It is the most similar known name, else the list of all known names; empty if there is none.
    """
    names = list(known)
    nearest = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean `{nearest[0]}`?" if nearest else f"one of: {', '.join(names)}" if names else ""


def require_extra(extra: str, purpose: str) -> None:
    """Raise SweepError with the install command if a library of `extra` is not installed.

    `purpose` starts the message, as in "The local backend". Imports none of the libraries.
    """
    if missing := missing_libraries(extra):
        raise SweepError(f"{purpose} needs {', '.join(missing)}.", f"Run: {install_command(extra)}")
