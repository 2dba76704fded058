"""Runs the trials of a session in this process and without Ray, over the engine's own code.

The searcher, the callback, the stopper, the scheduler and the workers are those of
`sweeps.execution.engine`. Only Tune's controller is replaced: it is written here again, in Tune's
order and in a fixed sequence, so that a run can be repeated exactly.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from sweeps.execution import engine, trainable
from sweeps.execution.session import Session
from sweeps.execution.trainable import TrialRunner

MAX_IDLE_STEPS = 200
"""This many steps in a row with nothing to run and nothing to start are a hang."""


class HangError(AssertionError):
    """The sweep neither runs a trial nor ends."""


@dataclass(eq=False)
class InlineTrial:
    """A trial of Tune, as far as schedulers and callbacks look at it."""

    trial_id: str
    config: dict[str, Any]
    runner: TrialRunner | None = None
    last_result: dict[str, Any] = field(default_factory=dict)
    metric_analysis: dict[str, Any] = field(default_factory=dict)
    metric_n_steps: dict[str, Any] = field(default_factory=dict)
    run_metadata: Any = field(default_factory=SimpleNamespace)
    error: BaseException | None = None
    status: str = "PENDING"

    def get_error(self) -> BaseException | None:
        return self.error

    def get_pickled_error(self) -> BaseException | None:
        return self.error


class InlineController:
    """Tune's controller for one session: it starts trials, steps them and obeys the scheduler.

    `choose` picks the trial that makes the next step, out of the running ones. `step` makes the
    step; an exception of it is the crash of a worker. `idle` is called when nothing can run now.
    """

    def __init__(
        self,
        session: Session,
        choose: Callable[[Sequence[InlineTrial]], InlineTrial] = lambda trials: trials[0],
        step: Callable[[InlineTrial], dict[str, Any]] | None = None,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._session = session
        self._choose, self._step, self._idle = choose, step or _step, idle
        self._pending: list[InlineTrial] = []
        self._running: list[InlineTrial] = []
        self._idle_runners: list[TrialRunner] = []
        self._asked = self._idle_steps = 0
        self._search_finished = False

    def run(self) -> None:
        """Do what `engine.run` does, until the session ends the sweep or no trial is left."""
        with patch.object(engine.tune, "run", self._tune_run):
            engine.run(self._session)

    def _tune_run(
        self,
        trainable: type[TrialRunner],
        *,
        config: dict[str, Any],
        search_alg: Any,
        scheduler: Any,
        callbacks: Sequence[Any],
        stop: Any,
        **_: Any,
    ) -> None:
        self._shared_config, self._searcher, self._scheduler = config, search_alg, scheduler
        (self._callback,), self._stopper = callbacks, stop
        self._loop()

    def get_live_trials(self) -> list[InlineTrial]:
        """Return the trials that have not ended, as the schedulers ask for them."""
        return [*self._pending, *self._running]

    def _loop(self) -> None:
        while not self._search_finished or self._pending or self._running:
            self._ask()
            self._start_pending()
            if self._running:
                self._idle_steps = 0
                self._advance(self._choose(self._running))
            else:
                self._idle_steps += 1
                if self._idle_steps > MAX_IDLE_STEPS:
                    raise HangError(f"nothing runs and nothing starts after {MAX_IDLE_STEPS} steps")
                self._idle()
            if self._stopper.stop_all():
                return

    def _ask(self) -> None:
        if self._search_finished:
            return
        trial_id = f"inline{self._asked:05d}"
        config = self._searcher.suggest(trial_id)
        if config is None:
            return
        if config == Searcher.FINISHED:
            self._search_finished = True
            return
        self._asked += 1
        trial = InlineTrial(trial_id, {**self._shared_config, **config})
        self._scheduler.on_trial_add(self, trial)
        self._pending.append(trial)

    def _start_pending(self) -> None:
        while self._pending and len(self._running) < self._session.plan.concurrency:
            trial = self._pending.pop(0)
            trial.status = "RUNNING"
            self._running.append(trial)
            self._callback.on_trial_start(iteration=0, trials=[], trial=trial)
            try:
                if self._idle_runners:
                    trial.runner = self._idle_runners.pop()
                    trial.runner.reset_config(dict(trial.config))
                else:
                    trial.runner = object.__new__(TrialRunner)
                    trial.runner.setup(dict(trial.config))
            except Exception as error:  # noqa: BLE001 - as Ray, which reports any exception of a worker
                self._fail(trial, error)

    def _advance(self, trial: InlineTrial) -> None:
        try:
            result = {**self._step(trial), "trial_id": trial.trial_id}
        except Exception as error:  # noqa: BLE001 - as Ray does
            self._fail(trial, error)
            return
        if self._stopper(trial.trial_id, result) or result["done"]:
            decision = TrialScheduler.STOP
        else:
            decision = self._scheduler.on_trial_result(self, trial, dict(result))
        self._callback.on_trial_result(iteration=0, trials=[], trial=trial, result=result)
        trial.last_result = result
        assert decision in (TrialScheduler.CONTINUE, TrialScheduler.STOP), decision
        if decision == TrialScheduler.STOP:
            self._running.remove(trial)
            trial.status = "TERMINATED"
            self._scheduler.on_trial_complete(self, trial, dict(result))
            self._searcher.on_trial_complete(trial.trial_id, result=result)
            self._callback.on_trial_complete(iteration=0, trials=[], trial=trial)
            assert trial.runner is not None
            self._idle_runners.append(trial.runner)

    def _fail(self, trial: InlineTrial, error: Exception) -> None:
        trial.error = error
        self._running.remove(trial)
        self._scheduler.on_trial_error(self, trial)
        self._searcher.on_trial_complete(trial.trial_id, error=True)
        trial.status = "ERROR"
        self._callback.on_trial_error(iteration=0, trials=[], trial=trial)


def _step(trial: InlineTrial) -> dict[str, Any]:
    assert trial.runner is not None
    return trial.runner.step()


@contextlib.contextmanager
def ray_is_not_needed() -> Iterator[None]:
    """Let the engine and the workers believe that Ray is connected and has room for every trial."""
    here = SimpleNamespace(get_node_id=lambda: "this process")
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(trainable.ray, "get_runtime_context", lambda: here))
        stack.enter_context(patch.object(trainable.isolation, "guard_this_worker", lambda: None))
        for name, answer in (
            ("connect", None),
            ("disconnect", None),
            ("gpus", 0.0),
            ("has_trial_slots", True),
            ("can_grow", False),
            ("require_room", None),
            ("log_folder", None),
            ("watched_ray", contextlib.nullcontext(SimpleNamespace(lost=None))),
        ):
            stack.enter_context(patch.object(engine, name, lambda *_, answer=answer, **__: answer))
        yield


@contextlib.contextmanager
def instead_of_ray() -> Iterator[None]:
    """Let `sweep run` use the inline engine: Ray is neither started nor asked."""
    run = engine.run

    def run_inline(session: Session, *arguments: Any, **options: Any) -> None:
        controller = InlineController(session)
        with patch.object(engine.tune, "run", controller._tune_run):
            run(session, *arguments, **options)

    with ray_is_not_needed(), patch.object(engine, "run", run_inline):
        yield


class NoTracker:
    """An MLflow that records nothing, for tests that are not about it."""

    problems: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()

    @classmethod
    def connect(cls, *arguments: Any, **options: Any) -> NoTracker:
        return cls()

    def start(self, *arguments: Any, **options: Any) -> str:
        return "run"

    def shows_end_of(self, trial: Any) -> bool:
        return True

    def table_path(self) -> str:
        return "table"

    def run_url(self, run_id: str) -> None:
        return None

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **options: None


@contextlib.contextmanager
def without_mlflow() -> Iterator[None]:
    """Let `sweep run` record nothing in MLflow."""
    from sweeps import tracking

    with patch.object(tracking, "Tracker", NoTracker):
        yield


logging.getLogger("ray").setLevel(logging.ERROR)
