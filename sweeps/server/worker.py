"""The process beside the server in which an in-process backend trains or answers: `python -m sweeps.server.worker`.

The first line of stdin is the order, later ones are commands; answers are lines of stdout. All of them are JSON. When
stdin ends, so does the worker: a server that dies leaves no trainer behind, and a run is left where it is.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from backends import registry
from backends.contract import Backend, BackendError, Placement, PredictOptions, TrainingRequest
from sweeps.server.course import Control, follow


def main() -> None:
    """Carry out the order."""
    answers = _own_stdout()
    order = json.loads(sys.stdin.readline())
    options_model = registry.load(order["backend"]).options_model
    backend = registry.load(order["backend"]).open(
        options_model.model_validate(order["options"]), Path(order["workspace"]), Placement(**order["placement"])
    )
    try:
        if order["kind"] == "train":
            _train(backend, order, answers)
        else:
            _answer(backend, answers)
    finally:
        backend.close()


def _own_stdout() -> IO[str]:
    """Return the real stdout; what libraries print goes to stderr from now on."""
    real = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return real


def _say(answers: IO[str], value: Mapping[str, Any]) -> None:
    try:
        answers.write(json.dumps(value) + "\n")
        answers.flush()
    except BrokenPipeError:  # the server is gone; stdin has ended, too
        pass


def _train(backend: Backend, order: Mapping[str, Any], answers: IO[str]) -> None:
    control = Control()
    threading.Thread(target=_listen, args=(control,), daemon=True).start()
    request = TrainingRequest.from_json(order["request"])
    follow(backend, request, order["after"], control, lambda value: _say(answers, value), Path(order["keep"]))


def _listen(control: Control) -> None:
    for line in sys.stdin:
        if line.strip() == "stop":
            control.ask_stop()
    control.ask_leave()


def _answer(backend: Backend, answers: IO[str]) -> None:
    for question in _questions():
        options = PredictOptions(**{**question["options"], "labels": _labels(question["options"]["labels"])})
        try:
            found = backend.predict(question["model"], question["prompts"], options)
        except BackendError as error:
            _say(answers, {"failure": asdict(error.failure)})
            continue
        _say(answers, {"predictions": [asdict(each) for each in found]})


def _questions() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def _labels(value: list[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)


if __name__ == "__main__":
    main()
