"""One schedule: a sweep lives through the processes and faults that its seed chooses."""

from __future__ import annotations

import functools
import tempfile
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import optuna
from inline_engine import HangError, InlineController, InlineTrial
from session_driver import planned
from sweep_invariants import Expectation, SweepFacts, violations

from sweeps.errors import SweepError
from sweeps.execution.clock import steady_clock
from sweeps.execution.environment import Environment, open_study
from sweeps.execution.model_retention import ModelRetention
from sweeps.execution.outcome import RESUMABLE_ENDS, SweepEnd
from sweeps.execution.session import Session
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.workspace import Workspace
from tests.simulation.world import HOUR_S, NOWHERE, ProcessDied, WorkerDiedError, World, inside

MAX_PROCESSES = 40
MAX_STEPS = 3000
"""A sweep that needs more processes, or more steps of one process, never ends."""


@dataclass(frozen=True)
class Kind:
    """A kind of sweep: what it changes in the sweep file, and what must be there at its end."""

    overrides: tuple[str, ...]
    trials: int | None
    finals: bool = False
    ends: tuple[SweepEnd, ...] = (SweepEnd.TRIALS,)


_BASE = (
    "space={n_epochs: [1, 2], batch_size: {low: 1, high: 8}}",
    "space.learning_rate_multiplier={low: 0.01, high: 0.4, log: true}",
    "search={sampler: random, scheduler: none, trials: 3, concurrency: 2}",
    "backend.events_per_poll=3",
)
_DONE = (SweepEnd.TRIALS, SweepEnd.EXHAUSTED)

KINDS = {
    "plain": Kind(_BASE, 3),
    "grid": Kind(
        (
            "space={n_epochs: [1, 2], batch_size: [2, 4], learning_rate_multiplier: 0.1}",
            "search={sampler: grid, scheduler: none, trials: 4, concurrency: 2}",
            "backend.events_per_poll=4",
        ),
        4,
        ends=_DONE,
    ),
    "asha": Kind((*_BASE, "search={sampler: random, scheduler: asha, trials: 4, concurrency: 2}"), 4),
    "median": Kind(
        (
            *_BASE,
            "search={sampler: random, trials: 4, concurrency: 2}",
            "search.scheduler={type: median, min_trials: 1}",
        ),
        4,
    ),
    "finals": Kind((*_BASE, "search.trials=2", "finals={candidates: 1, seeds: 2}"), 2, finals=True),
    "budget": Kind(
        (*_BASE, "search.trials=4", "backend.price_usd_per_token=0.00001", "budget.usd=0.1"),
        None,
        ends=(SweepEnd.BUDGET, SweepEnd.TRIALS),
    ),
    "hours": Kind(
        (*_BASE, "backend={type: fake, seconds_per_epoch: 40}", "budget.hours=0.05"),
        None,
        ends=(SweepEnd.TIME, SweepEnd.TRIALS),
    ),
    "steering": Kind(
        (
            *_BASE,
            "space={n_epochs: {low: 1, high: 2}, batch_size: 4, learning_rate_multiplier: {low: 0.02, high: 0.03}}",
            "search={sampler: random, scheduler: none, trials: 5, concurrency: 2}",
            "steering=act",
            "bounds={n_epochs: [1, 6], learning_rate_multiplier: [0.01, 1.0]}",
            "backend.events_per_poll=8",
        ),
        5,
    ),
    "target": Kind(
        (*_BASE, "objective={maximize: valid_accuracy, target: 0.6}"), None, ends=(SweepEnd.TARGET, SweepEnd.TRIALS)
    ),
    "objectives": Kind(
        (*_BASE, "objective=[{maximize: valid_accuracy}, {minimize: usd}]", "backend.price_usd_per_token=0.00001"), 3
    ),
}


@functools.cache
def plan_of(kind: str) -> SweepPlan:
    """Return the plan of this kind of sweep, prepared once."""
    return planned(Path(tempfile.mkdtemp(prefix="sweep-simulation-")), *KINDS[kind].overrides)


@dataclass
class Result:
    """What one schedule found: its faults in words, and its log."""

    seed: int
    kind: str
    faults: list[str]
    log: list[str]
    processes: int = 0
    steps: int = 0


def run_schedule(seed: int) -> Result:
    """Run the schedule of this seed, and compare the sweep with what must hold."""
    kind = list(KINDS)[seed % len(KINDS)]
    plan = plan_of(kind)
    world = World(seed, plan.spec.backend_options)  # type: ignore[arg-type]
    schedule = _Schedule(KINDS[kind], plan, world)
    with warnings.catch_warnings(), inside(world):
        warnings.simplefilter("ignore")
        try:
            schedule.run()
        except HangError as error:
            schedule.faults.append(str(error))
        except Exception:  # noqa: BLE001 - any exception is a fault of this seed
            schedule.faults.append(traceback.format_exc())
    return Result(seed, kind, schedule.faults, world.log, schedule.processes, schedule.steps)


class _Schedule:
    def __init__(self, kind: Kind, plan: SweepPlan, world: World) -> None:
        self.faults: list[str] = []
        self.processes = self.steps = 0
        self._kind, self._plan, self._world = kind, plan, world
        self._used_s = 0.0

    def run(self) -> None:
        """Start processes until the sweep has ended, then check the invariants."""
        end: SweepEnd | None = None
        while end is None or end in RESUMABLE_ENDS:
            self.processes += 1
            if self.processes > MAX_PROCESSES:
                self.faults.append(f"the sweep has not ended after {MAX_PROCESSES} processes; the last: {end}")
                return
            end = self._process()
        self._world.note(f"ended: {end}")
        if end not in self._kind.ends:
            self.faults.append(f"the sweep ended because: {end}")
        hours = self._plan.spec.budget.hours
        if end is SweepEnd.TIME and hours is not None and self._used_s < hours * HOUR_S - 1:
            self.faults.append(f"the time limit ended the sweep after {self._used_s:.0f} s of {hours * HOUR_S:.0f} s")
        self._check()

    def _process(self) -> SweepEnd | None:
        """Run one process of the sweep. Returns how it ended; None if it was killed or failed."""
        world, began_s = self._world, self._world.time.monotonic_s
        world.process_is_dead = False
        world.note(f"process {self.processes}")
        session: Session | None = None
        try:
            study = open_study(self._plan, Environment(Workspace(NOWHERE), "unused"))
            retention = ModelRetention(self._plan, study, world.backend, ())
            deadline = None
            if world.chance("deadline"):
                deadline = world.time.time() + world.random.uniform(1, 100)
            session = Session(
                self._plan,
                study,
                [retention],
                steady_clock(world.time.time, world.time.monotonic),
                world.backend,
                deadline,
                world.time.sleep,
            )
            self._run_session(session)
            return session.end
        except ProcessDied:
            world.note("the process is dead")
            return None
        except SweepError as error:
            world.note(f"the process ends with: {error.message}")
            return None
        finally:
            world.time.sleep(0.5)
            self._used_s += world.time.monotonic_s - began_s

    def _run_session(self, session: Session) -> None:
        world = self._world

        def step(trial: InlineTrial) -> dict[str, object]:
            self.steps += 1
            if self.steps > MAX_STEPS * self.processes:
                raise HangError(f"the sweep has not ended after {self.steps} steps")
            world.time.sleep(world.random.uniform(0.1, 5))
            match world.chance("crash", "stop", "kill", "clock", "duplicate"):
                case "crash":
                    raise WorkerDiedError("simulated: the worker died")
                case "stop":
                    session.interrupt()
                case "kill":
                    world.die()
                case "clock":
                    world.jump_clock()
                case "duplicate":
                    assert trial.runner is not None
                    trial.runner._next_event = max(0, trial.runner._next_event - 2)
            assert trial.runner is not None
            return trial.runner.step()

        controller = InlineController(session, world.random.choice, step, lambda: world.time.sleep(1.0))
        try:
            controller.run()
        except BaseException:
            if not world.process_is_dead:
                session.abort()
            raise
        finally:
            if not world.process_is_dead:
                session.finish()
        if session.end not in RESUMABLE_ENDS:
            self._after_trials(session)

    def _after_trials(self, session: Session) -> None:
        """Do what `sweep run` does after the last trial, as far as it needs the service."""
        from sweeps.execution.finals_decision import decide_finals
        from sweeps.execution.outcome import selected_trial

        assert session.end is not None
        study, backend = session.study, self._world.backend
        if self._plan.spec.finals is not None:
            decide_finals(self._plan, study, backend, session.end, self._world.note)
        retention = ModelRetention(self._plan, study, backend, ())
        retention.finish(keep=selected_trial(study, self._plan.spec.objective))
        session.budget_ledger.settle(60.0)
        if session.error is not None:
            raise session.error

    def _check(self) -> None:
        world = self._world
        study = optuna.load_study(study_name=self._plan.spec.name, storage=world.storage)
        facts = SweepFacts(self._plan, study, world.runs(), world.submissions, frozenset(world.forgotten))
        expected = Expectation(self._kind.trials, failed=None, finals=self._kind.finals)
        self.faults += [*world.violations, *violations(facts, expected)]
