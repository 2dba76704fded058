"""Asking models: questions that wait at the same time are answered together, one model after the other."""

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

from backends import codec
from backends.contract import Backend, BackendError, Failure, FailureKind, Prediction, PredictOptions
from sweeps.server.settings import Trainer
from sweeps.server.worker_pool import WorkerProcess

IDLE_S = 300.0
"""After this long without a question the process that holds the model ends, and its memory is free."""

MAX_TOGETHER = 256


@dataclass(frozen=True)
class _Question:
    model: str
    prompts: tuple[Mapping[str, Any], ...]
    options: PredictOptions
    answer: Future[list[Prediction]]


class Predictions:
    """Answers questions from any thread. An in-process backend lives in a process of its own, begun when needed."""

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self._trainer, self._folder = trainer, folder
        self._waiting: deque[_Question] = deque()
        self._lock = threading.Condition()
        self._closing = False
        self._worker: _Worker | None = None
        self._thread = threading.Thread(target=self._loop, name="predictions", daemon=True)
        self._thread.start()

    def ask(self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
        """Return the answers in the prompts' order. Raises BackendError."""
        question = _Question(model, tuple(prompts), options, Future())
        with self._lock:
            if self._closing:
                raise BackendError(Failure(FailureKind.TRANSIENT, "the server is ending"))
            self._waiting.append(question)
            self._lock.notify()
        return question.answer.result()

    def close(self) -> None:
        """Refuse what waits, and end."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._thread.join()

    def _loop(self) -> None:
        last = time.monotonic()
        while True:
            with self._lock:
                if not self._waiting and not self._closing:
                    self._lock.wait(5.0)
                batch = self._next_batch()
                closing = self._closing
            if closing:
                self._refuse(batch)
                break
            if batch:
                self._answer(batch)
                last = time.monotonic()
            elif self._worker is not None and time.monotonic() - last > IDLE_S:
                self._end_worker()
        self._end_worker()

    def _next_batch(self) -> list[_Question]:
        """Take the first question, and all that can be answered together with it."""
        if not self._waiting:
            return []
        first = self._waiting[0]
        batch: list[_Question] = []
        rest: deque[_Question] = deque()
        size = 0
        for each in self._waiting:
            fits = (each.model, each.options, _kind(each)) == (first.model, first.options, _kind(first))
            if fits and (not batch or size + len(each.prompts) <= MAX_TOGETHER):
                batch.append(each)
                size += len(each.prompts)
            else:
                rest.append(each)
        self._waiting = rest
        return batch

    def _answer(self, batch: list[_Question]) -> None:
        first = batch[0]
        prompts = [prompt for each in batch for prompt in each.prompts]
        try:
            found = self._predict(first.model, prompts, first.options)
        except BackendError as error:
            for each in batch:
                each.answer.set_exception(error)
            return
        except Exception as error:  # noqa: BLE001  whoever waits must be told, and the thread must live
            failure = Failure(FailureKind.BUG, f"{type(error).__name__} while predicting")
            for each in batch:
                each.answer.set_exception(BackendError(failure))
            return
        start = 0
        for each in batch:
            each.answer.set_result(found[start : start + len(each.prompts)])
            start += len(each.prompts)

    def _predict(self, model: str, prompts: list[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
        if not self._trainer.capabilities.in_process:
            backend: Backend = self._trainer.open()
            try:
                return list(backend.predict(model, prompts, options))
            finally:
                backend.close()
        if self._worker is not None and self._worker.process.exit_code is not None:  # it died since the last question
            self._end_worker()
        if self._worker is None:
            self._worker = _Worker(self._trainer, self._folder / "worker.log")
        try:
            return self._worker.ask(model, prompts, options)
        except StopIteration as error:  # it died
            self._end_worker()
            failure = Failure(FailureKind.TRANSIENT, "the process that answers has died", "the next question starts it")
            raise BackendError(failure) from error

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.process.end()
            self._worker = None

    def _refuse(self, batch: list[_Question]) -> None:
        for each in [*batch, *self._waiting]:
            with contextlib.suppress(Exception):
                each.answer.set_exception(BackendError(Failure(FailureKind.TRANSIENT, "the server is ending")))


class _Worker:
    """The process that holds the model."""

    def __init__(self, trainer: Trainer, log: Path) -> None:
        self.process = WorkerProcess(trainer.place(), log)
        self._answers = self.process.answers()

    def ask(self, model: str, prompts: list[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
        """Ask, and wait. Raises StopIteration where the process has died."""
        self.process.tell({"kind": "predict", "model": model, "prompts": prompts, "options": codec.to_json(options)})
        answer = next(self._answers)
        if "failure" in answer:
            raise BackendError(codec.from_json(Failure, answer["failure"]))
        return codec.from_json(list[Prediction], answer["predictions"])


def _kind(question: _Question) -> bool:
    """Whether it is a conversation: a backend is asked for one form at a time."""
    return "messages" in question.prompts[0]
