"""Base classes for observers: a session tells them what happens to its trials and to its space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.contract import Event
from backends.waiting import Waiting
from sweeps.study.steering import Change
from sweeps.trials.trial import Trial

if TYPE_CHECKING:
    from sweeps.execution.session import Session


class Observer:
    """Receives news of the trials. A subclass overrides only the methods that it needs.

    Every method does nothing here. The session calls the methods in the order of the events, on one
    thread. They must return quickly and not raise.
    """

    def trial_started(self, trial: Trial) -> None:
        """A trial starts, or resumes after an interruption."""

    def events_received(self, trial: Trial, first: int, events: Sequence[Event]) -> None:
        """The backend reported the trial's events numbered `first`, `first + 1`, ..."""

    def trial_waiting(self, trial: Trial, waiting: Waiting) -> None:
        """A trial pauses.

        The session reports each reason once, and again if the expected end of the pause changes.
        """

    def trial_ended(self, trial: Trial) -> None:
        """A trial ended; it has its verdict."""

    def space_steered(self, change: Change, *, applied: bool) -> None:
        """The verdicts call for a change of the space.

        The sweep made the change if `applied`; otherwise it only advises it.
        """


class ProgressObserver(Observer):
    """An observer that also learns when the trials begin and end."""

    def sweep_started(self, session: Session) -> None:
        """Trials will follow."""

    def sweep_ended(self) -> None:
        """No further trial will follow."""
