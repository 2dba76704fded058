"""Ray Tune runs the trials: a searcher shim over the session, Tune's own schedulers, concurrency and placement."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, assert_never

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from backends import codec
from backends.contract import Event, Failure, Handle
from backends.waiting import Waiting
from sweeps.errors import SweepError
from sweeps.execution.session import Session, TrialEnd
from sweeps.execution.trainable import TrialRunner
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study.study import NoTrial
from sweeps.trials.trial import Trial

SERVICE_TRIAL_CPUS = 0.01
"""What a trial takes that only waits for a service: Ray places nothing that takes no CPU at all."""

OBJECT_STORE_BYTES = 200 * 2**20
"""Nothing large travels between the processes: models and data are read from disk."""

# Ray reads these when it is imported or starts; the user's own values win.
_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "20",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # the session says how many wait; with Tune's 1 workers start in turn
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "30",
}


SLOT = "sweep_trial"
"""A resource of a Ray started here, of which each trial takes its share: so many run at once and no more."""


def connect(address: str | None, log: logging.Handler) -> None:
    """Start Ray on this machine, or join the cluster at `address`. Idempotent. Raises SweepError where that fails."""
    if ray.is_initialized():
        return
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray_log = logging.getLogger("ray")
    ray_log.handlers[:], ray_log.propagate = [log], False
    local: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "resources": {SLOT: 1.0},
    }
    try:
        ray.init(
            address=address,
            logging_level=logging.WARNING,
            log_to_driver=False,
            **(local if address is None else {}),
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"the Ray cluster at {address}" if address else "Ray on this machine"
        raise SweepError(
            f"{where} cannot be reached: {error}", "check `ray status`, memory and /tmp; see the log"
        ) from error


def gpus() -> float:
    """Return how many GPUs the connected Ray has."""
    return _cluster().get("GPU", 0.0)


def _cluster() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def disconnect() -> None:
    """Leave Ray; a Ray that was started here ends."""
    ray.shutdown()


def run(session: Session) -> None:
    """Run trials until the session has had enough. Ray must be connected; Ctrl-C ends the sweep, a second one at once.

    Raises SweepError where Tune itself fails. The session's `finish` is left to the caller.
    """
    plan = session.plan
    slots = _cluster().get(SLOT, 0.0) == 1.0
    # Tune keeps the worker of a trial that has ended only where another one waits for it: else it ends the process, and
    # the next trial loads everything anew. Where the slots hold the concurrency, one trial can safely wait.
    session.staged_trials = 1 if slots else 0
    searcher = _SessionSearcher(session)
    scratch = Path(tempfile.mkdtemp(prefix="sweep-tune-"))
    try:
        with _interruptible(session):
            tune.run(
                TrialRunner,
                name="tune",
                config=_shared_config(plan),
                resources_per_trial=_resources(plan, slots),
                num_samples=-1,
                search_alg=searcher,
                scheduler=_scheduler_with_history(session),
                callbacks=[_SessionCallback(session, searcher)],
                stop=_SessionStopper(session, searcher),
                storage_path=str(scratch),
                trial_name_creator=lambda trial: str(trial.trial_id),
                trial_dirname_creator=lambda trial: str(trial.trial_id),
                reuse_actors=True,
                raise_on_failed_trial=False,
                verbose=0,
            )
    except tune.TuneError as error:
        raise SweepError(
            f"Ray Tune gave up: {error}", "the sweep's log has the details; `sweep run` goes on"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Unsaved:
    """Tune pickles what it runs with, for a restore that we never do: the study is the record."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _SessionSearcher(_Unsaved, Searcher):
    """Hands the session's trials to Tune and tells it how they ended."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.numbers: dict[str, int] = {}
        self.errors: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        match self._session.next_trial():
            case NoTrial.WAIT:
                return None
            case NoTrial.EXHAUSTED:
                return Searcher.FINISHED
            case Trial() as trial:
                self.numbers[trial_id] = trial.number
                request = json.dumps(codec.to_json(self._session.plan.request(trial)))
                return {"request": request, "may_be_stopped": trial.repeat_of is None}
            case _ as unreachable:
                assert_never(unreachable)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            by = TrialEnd.CRASH
        elif result and result.get("ended"):
            by = TrialEnd.ITSELF
        elif self._session.should_end():
            by = TrialEnd.SWEEP
        else:
            by = TrialEnd.VERDICT if self._session.is_stopped_by_verdict(self.numbers[trial_id]) else TrialEnd.SCHEDULER
        self._session.ended(self.numbers[trial_id], by, self.errors.get(trial_id, ""))

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class _SessionCallback(_Unsaved, tune.Callback):
    """Passes a trial's events on before Tune acts on them."""

    def __init__(self, session: Session, searcher: _SessionSearcher) -> None:
        self._session = session
        self._searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._session.started(self._searcher.numbers[trial.trial_id])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        handle = codec.from_json(Handle, result["handle"]) if result["handle"] else None
        events = codec.from_json(list[Event], json.loads(result.pop("events")))
        self._session.observe(self._searcher.numbers[trial.trial_id], handle, result["first"], events)
        if waiting := result.pop("waiting"):
            self._session.waits(self._searcher.numbers[trial.trial_id], codec.from_json(Waiting, waiting))
        if unreachable := result.pop("unreachable"):
            self._session.report_unreachable(codec.from_json(Failure, unreachable))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._session.ended(self._searcher.numbers[trial.trial_id], TrialEnd.CRASH, _last_line(trial.get_error()))


class _SessionStopper(_Unsaved, tune.Stopper):
    """Stops a trial whose verdict is sure, and everything once the session has had enough."""

    def __init__(self, session: Session, searcher: _SessionSearcher) -> None:
        self._session = session
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._session.is_stopped_by_verdict(self._searcher.numbers[trial_id])

    def stop_all(self) -> bool:
        return self._session.should_end()


@dataclass(frozen=True)
class _PastTrial:
    """What a scheduler needs of a trial of an earlier run."""

    trial_id: str


def _scheduler_with_history(session: Session) -> Any:
    """Return Tune's scheduler, told of the trials of earlier runs, so that a resumed sweep stops as strictly."""
    objective = session.objective
    scheduler: Any = _scheduler(session.plan)  # untyped below: it is told of trials that Tune does not know
    if session.plan.spec.search.scheduler.type == "none":
        return scheduler
    scheduler.set_search_properties("objective", "max" if objective.direction == "maximize" else "min")
    for trial in session.study.search_trials:
        if not trial.state.ended:
            continue
        past = _PastTrial(f"past-{trial.number}")
        scheduler.on_trial_add(None, past)
        for index, measured in enumerate(trial.curve[1:], start=1):
            if objective.metric in measured.values:
                result = {"evaluations": index, "objective": measured.values[objective.metric]}
                scheduler.on_trial_result(None, past, result)
    return scheduler


def _scheduler(plan: SweepPlan) -> TrialScheduler:
    spec, per_epoch = plan.spec.search.scheduler, plan.evaluation.per_epoch
    grace = max(1, round(spec.grace_epochs * per_epoch))
    match spec.type:
        case "none":
            return FIFOScheduler()  # type: ignore[no-untyped-call]
        case "asha":
            # One more than the longest trial has, so that its own last evaluation ends it and not the scheduler.
            longest = max(grace, round(plan.max_epochs * per_epoch)) + 1
            return ASHAScheduler(
                time_attr="evaluations", max_t=longest, grace_period=grace, reduction_factor=spec.reduction_factor
            )
        case "median":
            return MedianStoppingRule(
                time_attr="evaluations",
                grace_period=grace,
                min_samples_required=spec.min_trials,
                min_time_slice=float("inf"),  # type: ignore[arg-type]  # never pause: our trials have nothing to restore
                hard_stop=True,
            )
        case _ as unreachable:
            assert_never(unreachable)


def _resources(plan: SweepPlan, slots: bool) -> tune.PlacementGroupFactory:
    bundle = {"CPU": plan.placement.cpus or SERVICE_TRIAL_CPUS, "GPU": plan.placement.gpus}
    if slots:
        bundle[SLOT] = int(10_000 / plan.concurrency) / 10_000  # Ray counts in ten thousandths
    return tune.PlacementGroupFactory([bundle])


def _shared_config(plan: SweepPlan) -> dict[str, Any]:
    """What is the same in the configuration of every trial; `request` and `may_be_stopped` are added for each."""
    return {
        "backend": plan.spec.backend_type,
        "options": plan.spec.backend_options.model_dump_json(),
        "workspace": str(plan.folder),
        "cpus": plan.placement.cpus,
        "gpus": plan.placement.gpus,
        "metric": plan.spec.objective.metric,
    }


@contextlib.contextmanager
def _interruptible(session: Session) -> Iterator[None]:
    """Let the first Ctrl-C (or SIGTERM) end the sweep in order, and a second one break off."""

    def ask_to_end(number: int, frame: FrameType | None) -> None:
        session.interrupt()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {each: signal.signal(each, ask_to_end) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _last_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines() if error is not None else []
    return lines[-1] if lines else "the worker process died"
