"""The program of a worker process: an in-process backend that trains or predicts.

The process reads one message per line from stdin and writes its answers to stdout; see
`worker_messages`. The first message says which backend to open. When stdin ends, the worker leaves
its run where it is and ends, so that no trainer outlives its server.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from pathlib import Path
from typing import IO, assert_never

from backends import registry
from backends.contract import Backend, BackendError
from sweeps.server.run_loop import RunControl, drive_run
from sweeps.server.worker_messages import (
    STOP_TIMEOUT_S,
    PredictCommand,
    PredictionFailed,
    PredictionsMade,
    StopCommand,
    TrainCommand,
    WorkerReport,
    WorkerSetup,
    decode_command,
    encode,
)


def main() -> None:
    """Carry out commands until stdin ends."""
    output = _claim_stdout()
    setup = decode_command(sys.stdin.readline())
    assert isinstance(setup, WorkerSetup)
    backend_class = registry.load(setup.backend)
    options = backend_class.options_model.model_validate(setup.options)
    backend = backend_class.open(options, Path(setup.workspace), setup.placement)
    inbox = _Inbox()
    threading.Thread(target=inbox.read, args=(sys.stdin,), daemon=True).start()
    try:
        while (command := inbox.commands.get()) is not None:
            if isinstance(command, TrainCommand):
                _train(backend, command, inbox, output)
            else:
                _send(output, _prediction(backend, command))
    finally:
        backend.close()


class _Inbox:
    """Receives commands. It queues all but stops, which take effect at once."""

    def __init__(self) -> None:
        self.commands: queue.SimpleQueue[TrainCommand | PredictCommand | None] = queue.SimpleQueue()
        """The commands in their order; None at the end of stdin."""
        self._lock = threading.Lock()
        self._controls: dict[str, RunControl] = {}
        self._has_ended = False

    def read(self, stdin: IO[str]) -> None:
        """Read commands until stdin ends, then detach from all runs."""
        for line in stdin:
            match decode_command(line):
                case StopCommand(key=key):
                    self.control(key).request_stop()
                case TrainCommand() | PredictCommand() as command:
                    self.commands.put(command)
                case WorkerSetup():
                    raise ValueError("a worker is set up once")
                case other:
                    assert_never(other)
        with self._lock:
            self._has_ended = True
            for control in self._controls.values():
                control.request_detach()
        self.commands.put(None)
        _end_process_after(STOP_TIMEOUT_S)

    def control(self, key: str) -> RunControl:
        """Return the control of a run.

        A stop may arrive before the run begins, so either side creates it.
        """
        with self._lock:
            control = self._controls.setdefault(key, RunControl())
            if self._has_ended:
                control.request_detach()
            return control


def _end_process_after(seconds: float) -> None:
    """End this process if it is still there after some seconds, whatever its libraries do.

    A server that lives kills its worker itself. This is for a worker whose server was killed.
    """
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _claim_stdout() -> IO[str]:
    """Return the real stdout, and send to stderr whatever libraries print from now on."""
    real = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return real


def _send(output: IO[str], report: WorkerReport) -> None:
    with contextlib.suppress(BrokenPipeError):  # the server is gone, so stdin ends, too
        output.write(encode(report))
        output.flush()


def _train(backend: Backend, command: TrainCommand, inbox: _Inbox, output: IO[str]) -> None:
    control = inbox.control(command.request.key)
    drive_run(
        backend,
        command.request,
        command.first_event,
        control,
        lambda report: _send(output, report),
        Path(command.checkpoints_folder),
    )


def _prediction(backend: Backend, command: PredictCommand) -> PredictionsMade | PredictionFailed:
    try:
        return PredictionsMade(backend.predict(command.model, command.prompts, command.options))
    except BackendError as error:
        return PredictionFailed(error.failure)


if __name__ == "__main__":
    main()
