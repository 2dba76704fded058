"""A plug-in whose code is wrong in one of many ways: the option `fault` names the way."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from coin_backend import CoinBackend, CoinOptions
from pydantic import BaseModel

from backends.contract import Capabilities, Event, Failure, Handle, Measured, TrainingRequest


class FaultyOptions(CoinOptions):
    fault: str = ""
    method: str = "events"
    after_epoch: int = 1


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class UnpicklableError(Exception):
    def __init__(self, text: str, more: object) -> None:
        super().__init__(text)
        self.more = lambda: more


def recurse() -> None:
    recurse()


def fail(error: BaseException) -> None:
    raise error


FAULTS: dict[str, Callable[[], Any]] = {
    "ValueError": lambda: fail(ValueError("the column\nhas no name")),
    "KeyError": lambda: {}["epoch"],
    "SystemExit": lambda: sys.exit(3),
    "KeyboardInterrupt": lambda: fail(KeyboardInterrupt("by the code")),
    "MemoryError": lambda: fail(MemoryError()),
    "RecursionError": recurse,
    "UnreadableError": lambda: fail(UnreadableError()),
    "UnpicklableError": lambda: fail(UnpicklableError("a lock", object())),
    "ExceptionGroup": lambda: fail(ExceptionGroup("two", [ValueError("a"), KeyError("b")])),
    "secret": lambda: fail(ValueError(f"the service refused the key {os.environ['COIN_API_KEY']}")),
    "nothing": lambda: None,
    "text": lambda: ["epoch 1"],
    "no number": lambda: [Measured(1, 1.0, {"valid_loss": object()}, "evaluation")],  # type: ignore[dict-item]
    "os._exit": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT) or [None for _ in range(10**6)],  # type: ignore[func-returns-value]
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


class FaultyBackend(CoinBackend):
    options_model: ClassVar[type[BaseModel]] = FaultyOptions

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Any) -> FaultyBackend:
        backend = cls(options, workspace)
        backend._options = options
        if options.method == "open" and os.environ.get("RAY_RAYLET_PID"):  # in a worker only
            FAULTS[options.fault]()
        return backend

    @classmethod
    def describe(cls, options: BaseModel) -> Capabilities:
        if isinstance(options, FaultyOptions) and options.method == "describe":
            FAULTS[options.fault]()
        return super().describe(options)

    def check(self, request: TrainingRequest) -> Sequence[Failure]:
        if self._faults_in("check"):
            FAULTS[self._options.fault]()
        return super().check(request)

    def _faults_in(self, method: str) -> bool:
        return getattr(self, "_options", None) is not None and self._options.method == method

    def submit(self, request: TrainingRequest) -> Handle:
        if self._options.method == "submit":
            FAULTS[self._options.fault]()
        return super().submit(request)

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        if self._options.method == "events" and after > 2 * self._options.after_epoch:
            return FAULTS[self._options.fault]()
        return super().events(handle, after)

    def stop(self, handle: Handle) -> None:
        if self._options.method == "stop":
            FAULTS[self._options.fault]()
        super().stop(handle)

    def discard(self, handle: Handle) -> None:
        if self._options.method == "discard":
            FAULTS[self._options.fault]()
        super().discard(handle)

    def close(self) -> None:
        if self._options.method == "close":
            FAULTS[self._options.fault]()
