"""Predictions: requests that wait at the same time are answered together, model by model."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.contract import BackendError, Failure, FailureKind, Prediction, PredictOptions
from sweeps.server.training_backend import TrainingBackend
from sweeps.server.worker_messages import PredictCommand, PredictionFailed, PredictionsMade
from sweeps.server.worker_pool import WorkerProcess

MAX_IDLE_S = 300.0
"""After this time without a request, the process that holds the model ends and frees its memory."""

MAX_BATCH_PROMPTS = 256


@dataclass(frozen=True)
class _Request:
    model: str
    prompts: tuple[Mapping[str, Any], ...]
    options: PredictOptions
    result: Future[list[Prediction]]

    @property
    def batch_key(self) -> tuple[str, PredictOptions, bool]:
        """Requests with equal keys can share a batch.

        A backend answers either conversations or texts in one call, but not both.
        """
        return self.model, self.options, "messages" in self.prompts[0]


class PredictionQueue:
    """Answers requests from any thread, in one thread of its own.

    An in-process backend predicts in a worker process, which starts with the first request.
    """

    def __init__(self, backend: TrainingBackend, worker_log: Path) -> None:
        self._backend, self._worker_log = backend, worker_log
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._worker: WorkerProcess | None = None
        self._thread = threading.Thread(target=self._run, name="predictions", daemon=True)
        self._thread.start()

    def predict(self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
        """Return the answers in the order of the prompts. Raises BackendError."""
        request = _Request(model, tuple(prompts), options, Future())
        with self._changed:
            if self._closing:
                raise BackendError(_shutting_down())
            self._waiting.append(request)
            self._changed.notify()
        return request.result.result()

    def refuse(self) -> None:
        """Refuse the waiting requests and all later ones. The batch at hand goes on."""
        with self._changed:
            self._closing = True
            waiting, self._waiting = list(self._waiting), deque()
            self._changed.notify()
        _fail(waiting, _shutting_down())

    def close(self) -> None:
        """Refuse all requests, break off the batch at hand, and end."""
        self.refuse()
        self.abort()
        self._thread.join()

    def abort(self) -> None:
        """Break off the batch at hand, if a worker process answers it."""
        if (worker := self._worker) is not None:
            worker.kill()

    def _run(self) -> None:
        last_request = time.monotonic()
        while True:
            with self._changed:
                if not self._waiting and not self._closing:
                    self._changed.wait(5.0)
                batch = self._next_batch()
                closing = self._closing
            if closing:
                _fail([*batch, *self._waiting], _shutting_down())
                break
            if batch:
                self._answer(batch)
                last_request = time.monotonic()
            elif self._worker is not None and time.monotonic() - last_request > MAX_IDLE_S:
                self._stop_worker()
        self._stop_worker()

    def _next_batch(self) -> list[_Request]:
        """Take the first waiting request, and all that can share its batch."""
        if not self._waiting:
            return []
        first = self._waiting[0]
        batch: list[_Request] = []
        rest: deque[_Request] = deque()
        size = 0
        for request in self._waiting:
            fits = not batch or size + len(request.prompts) <= MAX_BATCH_PROMPTS
            if fits and request.batch_key == first.batch_key:
                batch.append(request)
                size += len(request.prompts)
            else:
                rest.append(request)
        self._waiting = rest
        return batch

    def _answer(self, batch: list[_Request]) -> None:
        first = batch[0]
        prompts = [prompt for request in batch for prompt in request.prompts]
        try:
            predictions = self._predict(first.model, prompts, first.options)
        except BackendError as error:
            _fail(batch, error.failure)
            return
        except Exception as error:  # noqa: BLE001  each waiting caller must get an answer, and the thread must survive
            _fail(batch, Failure(FailureKind.BUG, f"{type(error).__name__} while predicting"))
            return
        start = 0
        for request in batch:
            request.result.set_result(predictions[start : start + len(request.prompts)])
            start += len(request.prompts)

    def _predict(self, model: str, prompts: list[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
        if not self._backend.capabilities.in_process:
            with contextlib.closing(self._backend.open()) as backend:
                return list(backend.predict(model, prompts, options))
        # it died since the last request
        if self._worker is not None and self._worker.exit_code is not None:
            self._stop_worker()
        if self._worker is None:
            self._worker = WorkerProcess(self._backend.worker_setup(), self._worker_log)
        self._worker.send(PredictCommand(model, prompts, options))
        match next(self._worker.reports(), None):
            case PredictionsMade(predictions=predictions):
                return list(predictions)
            case PredictionFailed(failure=failure):
                raise BackendError(failure)
            case None:
                self._stop_worker()
                message = "the process that predicts has died"
                raise BackendError(Failure(FailureKind.TRANSIENT, message, "Repeat the request, which restarts it."))
            case report:
                raise ValueError(f"unexpected report: {report.kind}")

    def _stop_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


def _fail(requests: Sequence[_Request], failure: Failure) -> None:
    for request in requests:
        request.result.set_exception(BackendError(failure))


def _shutting_down() -> Failure:
    return Failure(FailureKind.TRANSIENT, "the server is shutting down", "Repeat the request later.")
