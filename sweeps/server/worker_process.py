"""The process beside the server in which an in-process backend trains or answers: `sweeps.server.worker_process`.

The first line of stdin says which backend to open, each further one is an order or a command; answers are lines of
stdout. All of them are JSON. When stdin ends, so does the worker, and leaves its run where it is: a server that dies
leaves no trainer behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from backends import codec, registry
from backends.contract import Backend, BackendError, Placement, PredictOptions, TrainingRequest
from sweeps.server.run_loop import Control, follow

Order = Mapping[str, Any]


def main() -> None:
    """Carry out orders until stdin ends."""
    answers = _own_stdout()
    place = json.loads(sys.stdin.readline())
    type_ = registry.load(place["backend"])
    options = type_.options_model.model_validate(place["options"])
    backend = type_.open(options, Path(place["workspace"]), codec.from_json(Placement, place["placement"]))
    inbox = _Inbox()
    threading.Thread(target=inbox.listen, args=(sys.stdin,), daemon=True).start()
    try:
        while (order := inbox.orders.get()) is not None:
            if order["kind"] == "train":
                _train(backend, order, inbox, answers)
            else:
                _answer(backend, order, answers)
    finally:
        backend.close()


class _Inbox:
    """What the server says: orders to be carried out one after the other, and commands for the one at hand."""

    def __init__(self) -> None:
        self.orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._controls: dict[str, Control] = {}
        self._ended = False

    def listen(self, stdin: IO[str]) -> None:
        for line in stdin:
            order = json.loads(line)
            if order["kind"] == "stop":
                self.control_of(order["key"]).ask_stop()
            else:
                self.orders.put(order)
        with self._lock:
            self._ended = True
            for control in self._controls.values():
                control.ask_leave()
        self.orders.put(None)

    def control_of(self, key: str) -> Control:
        """Return the control of a run, which a command may reach before its order does."""
        with self._lock:
            control = self._controls.setdefault(key, Control())
            if self._ended:
                control.ask_leave()
            return control


def _own_stdout() -> IO[str]:
    """Return the real stdout; what libraries print goes to stderr from now on."""
    real = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return real


def _say(answers: IO[str], value: Mapping[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the server is gone; stdin has ended, too
        answers.write(json.dumps(value) + "\n")
        answers.flush()


def _train(backend: Backend, order: Order, inbox: _Inbox, answers: IO[str]) -> None:
    request = codec.from_json(TrainingRequest, order["request"])
    control = inbox.control_of(request.key)
    follow(backend, request, order["after"], control, lambda value: _say(answers, value), Path(order["keep"]))


def _answer(backend: Backend, order: Order, answers: IO[str]) -> None:
    options = codec.from_json(PredictOptions, order["options"])
    try:
        found = backend.predict(order["model"], order["prompts"], options)
    except BackendError as error:
        _say(answers, {"failure": codec.to_json(error.failure)})
        return
    _say(answers, {"predictions": [codec.to_json(each) for each in found]})


if __name__ == "__main__":
    main()
