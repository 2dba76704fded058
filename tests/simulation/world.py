"""The simulated world of a sweep: clocks, a fake service and a storage, with injected faults.

Everything random comes from one seed, and nothing waits: a world runs the same way each time.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import inline_engine
import optuna
from optuna.storages import InMemoryStorage
from sweep_invariants import has_ended

from backends.contract import (
    BackendError,
    Capabilities,
    Estimate,
    Event,
    Failure,
    FailureKind,
    Handle,
    Prediction,
    PredictOptions,
    TrainingRequest,
)
from backends.fake import FakeBackend, FakeOptions, Fault
from backends.fake_service import FakeRun, FakeService
from sweeps.errors import SweepError
from sweeps.study import attributes

HOUR_S = 3600.0
YEAR_S = 365.25 * 24 * HOUR_S
CLOCK_JUMPS_S = (-2 * HOUR_S, 2 * HOUR_S, 30 * YEAR_S)
"""Jumps of the time of day. The monotonic clock never jumps."""

EPOCH_S = 1_790_000_000.0


class ProcessDied(BaseException):
    """The simulated process was killed. Nothing that it does afterwards has an effect."""


class WorkerDiedError(Exception):
    """A worker was killed."""


class VirtualTime:
    """Stands in for the module `time`: a wall clock that jumps and a monotonic clock."""

    def __init__(self) -> None:
        self.monotonic_s = 1000.0
        self.wall_offset_s = EPOCH_S

    def time(self) -> float:
        return self.monotonic_s + self.wall_offset_s

    def monotonic(self) -> float:
        return self.monotonic_s

    def sleep(self, seconds: float) -> None:
        self.monotonic_s += max(seconds, 0.001)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class World:
    """What outlives a process, and the chances of the faults.

    `faults_left` bounds the number of faults, so that every sweep can end at last.
    """

    def __init__(self, seed: int, options: FakeOptions) -> None:
        self.random = random.Random(seed)
        self._id_random = random.Random(f"ids of {seed}")
        self.time = VirtualTime()
        self.log: list[str] = []
        self.violations: list[str] = []
        self.faults_left = self.random.choice((0, 1, 1, 2, 3, 5, 8))
        self.fault_share = self.random.choice((0.01, 0.03, 0.1))
        self.process_is_dead = False
        self.forgotten: set[str] = set()
        self.lost_answers: set[str] = set()
        self.submissions: list[TrainingRequest] = []
        self.service = _service_in_memory()
        self.backend = SimulatedBackend(self, options.model_copy(update={"faults": self._failing_runs()}))
        self.storage = SimulatedStorage(self)

    def _failing_runs(self) -> tuple[Fault, ...]:
        """Return which of the runs fail at the service: none, or the first ones that fit."""
        if self.random.random() < 0.6:
            return ()
        kinds = (FailureKind.TRANSIENT, FailureKind.QUOTA, FailureKind.LOST, FailureKind.OUT_OF_MEMORY)
        match = {} if self.random.random() < 0.5 else {"n_epochs": 2}
        times, after_epoch = self.random.choice((1, 1, 2)), self.random.choice((0.0, 0.5, 1.0))
        return (Fault(on="train", kind=self.random.choice(kinds), times=times, match=match, after_epoch=after_epoch),)

    def new_uuid(self) -> uuid.UUID:
        """Return the next id; the same world returns the same ids."""
        return uuid.UUID(int=self._id_random.getrandbits(128), version=4)

    def note(self, text: str) -> None:
        """Remember what happened, for the report of a failing seed."""
        self.log.append(f"{self.time.monotonic_s - 1000:8.1f} s  {text}")

    def chance(self, *kinds: str) -> str | None:
        """Return one of these faults now, or none."""
        if not self.faults_left or self.random.random() >= self.fault_share:
            return None
        self.faults_left -= 1
        kind = self.random.choice(kinds)
        self.note(f"FAULT {kind}")
        return kind

    def die(self) -> None:
        """Kill the process."""
        self.process_is_dead = True
        raise ProcessDied

    def check_alive(self) -> None:
        """Raise ProcessDied in a process that is dead already."""
        if self.process_is_dead:
            raise ProcessDied

    def jump_clock(self) -> None:
        """Set the time of day."""
        jump_s = self.random.choice(CLOCK_JUMPS_S)
        self.note(f"the clock jumps by {jump_s / HOUR_S:g} h")
        self.time.wall_offset_s += jump_s

    def runs(self) -> list[FakeRun]:
        """Return all runs of the service."""
        return [FakeRun(*row) for row in self.service._execute("SELECT * FROM runs", {})]

    def check_retry(self, key: str) -> None:
        """Note a violation if this trial retries one whose run goes on."""
        sweep, _, number = key.rpartition("-")
        trials = self.storage.get_all_trials(self.storage.get_all_studies()[0]._study_id, deepcopy=False)
        retry_of = trials[int(number)].user_attrs.get(attributes.RETRY_OF)
        if retry_of is None:
            return
        retried = self.service.run_by_key(f"{sweep}-{retry_of:04d}")
        if retried is not None and not has_ended(retried):
            self.violations.append(f"trial {retry_of} was retried by trial {int(number)} while its run went on")

    def forget_a_run(self) -> None:
        """Let the service lose one of its runs."""
        runs = self.runs()
        if runs:
            lost = self.random.choice(runs)
            self.forgotten.add(lost.key)
            self.note(f"the service forgets {lost.key}")
            self.service._execute("DELETE FROM runs WHERE id = :id", {"id": lost.id})


class SimulatedBackend:
    """The fake backend, whose calls fail by chance."""

    options_model = FakeOptions

    def __init__(self, world: World, options: FakeOptions) -> None:
        self._world = world
        self._real = FakeBackend(options, world.service, world.time.time)
        self.capabilities: Capabilities = self._real.capabilities

    def check(self, request: TrainingRequest) -> Sequence[Failure]:
        return self._real.check(request)

    def estimate(self, request: TrainingRequest) -> Estimate:
        self._world.check_alive()
        self._fail_by_chance("estimate", "estimate transient")
        return self._real.estimate(request)

    def submit(self, request: TrainingRequest) -> Handle:
        world = self._world
        world.check_alive()
        self._fail_by_chance("submit", "submit transient", "submit user", "submit quota", "submit killed")
        world.note(f"submit {request.key}")
        world.submissions.append(request)
        world.check_retry(request.key)
        handle = self._real.submit(request)
        match world.chance("answer lost", "answer killed"):
            case "answer lost":
                world.lost_answers.add(request.key)
                raise BackendError(Failure(FailureKind.TRANSIENT, "simulated: the answer is lost"))
            case "answer killed":
                world.die()
        return handle

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        world = self._world
        world.check_alive()
        match world.chance("events transient", "events user", "events slow", "forget", "clock"):
            case "events transient":
                raise BackendError(Failure(FailureKind.TRANSIENT, "simulated: no events now"))
            case "events user":
                raise BackendError(Failure(FailureKind.USER, "simulated: the key has expired"))
            case "events slow":
                world.time.sleep(world.random.uniform(10, 4000))
            case "forget":
                world.forget_a_run()
            case "clock":
                world.jump_clock()
        return self._real.events(handle, after)

    def stop(self, handle: Handle) -> None:
        self._world.check_alive()
        self._fail_by_chance("stop", "stop transient", "stop killed")
        self._real.stop(handle)

    def discard(self, handle: Handle) -> None:
        self._world.check_alive()
        self._fail_by_chance("discard", "discard transient")
        self._real.discard(handle)

    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        self._world.check_alive()
        return self._real.predict(model, prompts, options)

    def close(self) -> None:
        """Stay open: the service outlives the processes."""

    def _fail_by_chance(self, operation: str, *kinds: str) -> None:
        kind = self._world.chance(*kinds)
        if kind is None:
            return
        if kind.endswith("killed"):
            self._world.die()
        raise BackendError(Failure(FailureKind(kind.removeprefix(f"{operation} ")), f"simulated: {kind}"))


_WRITES = (
    "create_new_study",
    "create_new_trial",
    "set_study_user_attr",
    "set_study_system_attr",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
)


class SimulatedStorage(InMemoryStorage):
    """Optuna's storage in memory, as a database is: each write counts alone, and some fail."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world


def _failing_write(name: str) -> Any:
    original = getattr(InMemoryStorage, name)

    def write(self: SimulatedStorage, *arguments: Any, **options: Any) -> Any:
        world = self._world
        world.check_alive()
        fault = world.chance("write killed before", "write killed after", "write fails")
        if fault == "write killed before":
            world.die()
        if fault == "write fails":
            raise SweepError("simulated: cannot write to the storage", "try again")
        result = original(self, *arguments, **options)
        if fault == "write killed after":
            world.die()
        return result

    return write


for _name in _WRITES:
    setattr(SimulatedStorage, _name, _failing_write(_name))


def inside(world: World) -> ExitStack:
    """Let the code under test live in this world: its clocks, its storage and its workers."""
    stack = ExitStack()
    stack.enter_context(inline_engine.ray_is_not_needed())
    for module in ("sweeps.execution.trainable", "sweeps.execution.clock", "sweeps.study.study"):
        stack.enter_context(patch(f"{module}.time", world.time))
    stack.enter_context(patch("sweeps.study.study.open_storage", lambda location: world.storage))
    stack.enter_context(patch("uuid.uuid4", world.new_uuid))  # the fake service's curves depend on the keys
    stack.enter_context(patch("sweeps.execution.trainable._backend", lambda *arguments: world.backend))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("sweeps").setLevel(logging.CRITICAL)
    return stack


def _service_in_memory() -> FakeService:
    service = object.__new__(FakeService)
    service._lock = threading.Lock()
    service._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    from backends.fake_service import _SCHEMA

    service._connection.executescript(_SCHEMA)
    return service


NOWHERE = Path("nowhere")
