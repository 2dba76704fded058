"""A backend behind a guard: each exception of its code becomes a BackendError that says where.

A backend raises BackendError for each failure that it knows. Everything else is a mistake in its
code, and a plug-in can raise anything. The guard translates it once, for every caller.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel

from backends import credentials, foreign_errors
from backends.cleanup import SupportsCleanup
from backends.contract import Backend, BackendError, Event, Failure, FailureKind, Handle, Placement
from backends.example_report import SupportsExampleReport
from backends.memory_forecast.forecast import SupportsMemoryForecast
from backends.model_export import SupportsExport
from backends.model_packages import SupportsPackaging
from backends.pausing import SupportsPausing
from backends.relocation import SupportsRelocation
from backends.rendering import SupportsRendering
from backends.waiting import SupportsWaiting

_LOG = logging.getLogger("backends")
_LOG.addHandler(logging.NullHandler())  # without a log file, the traceback does not go to the screen

_EVENT_TYPES: tuple[type, ...] = get_args(get_args(Event)[0])

_OPTIONAL = (
    SupportsCleanup,
    SupportsExampleReport,
    SupportsExport,
    SupportsMemoryForecast,
    SupportsPackaging,
    SupportsPausing,
    SupportsRelocation,
    SupportsRendering,
    SupportsWaiting,
)

_METHODS = tuple(
    name
    for protocol in (Backend, *_OPTIONAL)
    for name, member in vars(protocol).items()
    if not name.startswith("_") and callable(member)
)


def open_guarded(backend_class: type[Backend], options: BaseModel, workspace: Path, placement: Placement) -> Backend:
    """Open a backend of this class, as `Backend.open` does, and return it behind a guard.

    The result is a `Backend`, and supports the optional protocols that the opened one supports.
    Raises BackendError, and no other exception.
    """
    with translated_errors(backend_class, "open"):
        opened = backend_class.open(options, workspace, placement)
    return cast(Backend, _GuardedBackend(opened))


@contextlib.contextmanager
def translated_errors(plugin_class: type, action: str, noun: str = "backend") -> Iterator[None]:
    """Translate every exception of a plug-in into BackendError, except those that a signal raised.

    The log receives the traceback. `noun` is the word for the plug-in.
    """
    try:
        yield
    except BackendError as error:
        failure = error.failure
        masked = replace(
            failure, message=credentials.masked(failure.message), detail=credentials.masked(failure.detail)
        )
        if masked != failure:
            raise BackendError(masked) from None
        raise
    except BaseException as error:  # a plug-in can raise anything, and its users must learn what
        if foreign_errors.is_signal(error):
            raise
        failure = failure_of(error, plugin_class, action, noun)
        _LOG.error("%s\n%s", failure.message, foreign_errors.full_text(error))
        raise BackendError(failure) from error


def failure_of(error: BaseException, plugin_class: type, action: str, noun: str = "backend") -> Failure:
    """Return the failure that an exception means, which `action` of a plug-in raised."""
    text = foreign_errors.in_one_line(error, plugin_class)
    if isinstance(error, MemoryError):
        message = f"`{action}` of the {noun} ran out of memory: {text}"
        return Failure(
            FailureKind.OUT_OF_MEMORY, message, "Use a smaller model or batch, or a machine with more memory."
        )
    remedy = f"The traceback is in the log of the sweep; the author of the {noun} can mend it."
    return Failure(FailureKind.BUG, f"`{action}` of the {noun} raised {text}", remedy)


class _GuardedBackend:
    """Passes everything on to a backend.

    Its methods translate errors, and check what `submit` and `events` return.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        for name in _METHODS:
            if name != "close" and callable(method := getattr(backend, name, None)):
                setattr(self, name, self._guarded(name, method))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def _guarded(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        check = _CHECKS.get(name)

        def call(*arguments: Any, **options: Any) -> Any:
            with translated_errors(type(self._backend), name):
                answer = method(*arguments, **options)
                if check is not None:
                    check(answer)
                return answer

        return call

    def close(self) -> None:
        """Close the backend. An error is only logged, because everything is recorded by then."""
        try:
            with translated_errors(type(self._backend), "close"):
                self._backend.close()
        except BackendError as error:
            _LOG.warning("the backend was not closed: %s", error)


def _check_handle(answer: object) -> None:
    if not isinstance(answer, Handle):
        raise TypeError(f"it returned {type(answer).__name__} and no Handle")


def _check_events(answer: object) -> None:
    if not isinstance(answer, Sequence):
        raise TypeError(f"it returned {type(answer).__name__} and no sequence of events")
    for event in answer:
        if not isinstance(event, _EVENT_TYPES):
            raise TypeError(f"it returned {type(event).__name__} among the events")


_CHECKS: dict[str, Callable[[object], None]] = {"submit": _check_handle, "events": _check_events}
