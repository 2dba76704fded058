"""The engine: lets Ray Tune run the trials of a session, with Tune's own schedulers."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, assert_never

from ray import tune
from ray.tune.search import Searcher

from backends import codec, foreign_errors
from backends.contract import BackendError
from backends.metrics import waits
from backends.waiting import Waiting
from sweeps.errors import SweepError
from sweeps.execution import last_words
from sweeps.execution.cluster import Cluster
from sweeps.execution.interruption import ends_on_signals
from sweeps.execution.last_words import WorkerProcess
from sweeps.execution.outcome import SweepEnd
from sweeps.execution.ray_connection import (
    RAY_RECORD,
    TRIAL_SLOT,
    abandon,
    can_grow,
    connect,
    disconnect,
    gpus,
    has_trial_slots,
    log_folder,
    machines,
    request_machine,
)
from sweeps.execution.ray_watch import watched_ray
from sweeps.execution.room import in_words, require_room
from sweeps.execution.running_trial import TrialEnd
from sweeps.execution.session import Session
from sweeps.execution.silence import AnswerWatch, MeasurementWatch, SilenceWatch
from sweeps.execution.trainable import TrialRunner, WorkerReport
from sweeps.execution.trial_schedulers import scheduler_with_history
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study.study import NoTrial
from sweeps.trials.trial import Trial

__all__ = ["RAY_RECORD", "connect", "disconnect", "gpus", "run"]

SERVICE_TRIAL_CPUS = 0.01
"""The CPU share of a trial that only waits for a service. Ray cannot place a task that needs no CPU
at all."""

WAIT_IS_OVER_S = 90.0
"""A reported wait explains the silence for this long after its end: the next attempt takes time."""

_LOG = logging.getLogger("sweeps")

TUNE_FOLDER = "tune"
"""The folder of Tune below that of the sweep. Nothing in it is needed after a run."""


def run(session: Session, cluster: Cluster | None = None, say: Callable[[str], None] = lambda message: None) -> None:
    """Run trials until the session ends the sweep. Ray must be connected.

    `cluster` are the machines of the cluster; None if this machine is the only one. `say` receives
    what the sweep waits for. The first Ctrl-C, SIGTERM or SIGHUP ends the sweep cleanly, a second
    Ctrl-C at once. The caller holds the lock of the sweep's folder, and must call the session's
    `finish` afterwards. Raises SweepError if a trial fits on no machine, if Ray is lost, or if Tune
    itself fails.
    """
    plan = session.plan
    slots = has_trial_slots()
    # Tune keeps the worker of an ended trial only if another trial waits for it. Otherwise it ends
    # the process, and the next trial loads everything again. One trial can safely wait if the slots
    # limit the concurrency.
    session.staged_trials = 1 if slots else 0
    scratch = plan.folder / TUNE_FOLDER
    shutil.rmtree(scratch, ignore_errors=True)  # an earlier run that was killed left it

    def abandon_run() -> None:
        abandon(plan.folder / RAY_RECORD)
        shutil.rmtree(scratch, ignore_errors=True)

    try:
        with ends_on_signals(session), watched_ray(say, session.fail, abandon_run):
            require_room(
                _resources(plan, slots, None),
                machines,
                grow=request_machine if can_grow() else None,
                say=say,
                should_end=session.should_end,
                count=plan.placement.nodes,
            )
            while True:
                searcher = _SessionSearcher(session, cluster)
                callback = _SessionCallback(session, searcher, cluster, say)
                _run_tune(session, searcher, callback, _shared_config(plan, slots, cluster), scratch)
                if not searcher.offer_stranded_again():
                    break
    except tune.TuneError as error:
        _LOG.error("Ray Tune failed: %s", error)
        if session.error is not None:
            raise session.error from error
        last_line = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise SweepError(
            f"Ray Tune failed: {last_line}", "read the sweep's log for details, then resume with `sweep run`"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_tune(
    session: Session, searcher: _SessionSearcher, callback: _SessionCallback, config: dict[str, Any], scratch: Path
) -> None:
    # Tune looks for a file of results of each trial, which we do not write, and logs them all.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    tune.run(
        TrialRunner,
        name="tune",
        config=config,
        num_samples=-1,
        search_alg=searcher,
        scheduler=scheduler_with_history(session.plan, session.study.search_trials),
        callbacks=[callback],
        stop=_SessionStopper(session, searcher),
        storage_path=str(scratch),
        trial_name_creator=lambda trial: str(trial.trial_id),
        trial_dirname_creator=lambda trial: str(trial.trial_id),
        reuse_actors=True,
        raise_on_failed_trial=False,
        verbose=0,
    )


class _NotPickled:
    """Pickles as nothing.

    Tune saves its searcher and callbacks to restore an experiment; our record is the study.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _SessionSearcher(_NotPickled, Searcher):
    """Hands the trials of the session to Tune, and tells the session how they ended."""

    def __init__(self, session: Session, cluster: Cluster | None) -> None:
        super().__init__()
        self._session = session
        self._cluster = cluster
        self._nodes: dict[int, Sequence[str]] = {}
        self.numbers: dict[str, int] = {}

    @property
    def is_stranded(self) -> bool:
        """Whether no trial runs, and one waits for machines that are lost while there are others.

        Tune cannot change where a waiting trial may start, so it must begin anew.
        """
        cluster = self._cluster
        if cluster is None or not self._nodes or self._session.running:
            return False
        return any(cluster.is_stranded(nodes) for nodes in self._nodes.values())

    def offer_stranded_again(self) -> bool:
        """Take back the trials that Tune left waiting. Returns whether there are any."""
        numbers = [] if self._session.should_end() else list(self._nodes)
        for number in numbers:
            self._session.offer_again(number)
        return bool(numbers)

    def forget(self, number: int) -> None:
        """Forget where a trial that has ended could train."""
        self._nodes.pop(number, None)
        if self._cluster is not None:
            self._cluster.trial_ended(number)

    def suggest(self, trial_id: str) -> Any:
        if self._cluster is not None and not self._cluster.usable_nodes:
            return None if not self._session.should_end() else Searcher.FINISHED
        match self._session.next_trial():
            case NoTrial.WAIT:
                return None
            case NoTrial.EXHAUSTED:
                return Searcher.FINISHED
            case Trial() as trial:
                self.numbers[trial_id] = trial.number
                request = json.dumps(codec.to_json(self._session.plan.request(trial)))
                nodes = None if self._cluster is None else self._cluster.usable_nodes
                if nodes is not None:
                    self._nodes[trial.number] = nodes
                return {
                    "request": request,
                    "may_be_stopped": trial.repeat_of is None,
                    "passed_evaluations": trial.passed_evaluations,
                    "nodes": nodes,
                }
            case _ as unreachable:
                assert_never(unreachable)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error:
            return  # Tune tells the callback next, which also learns the error
        number = self.numbers[trial_id]
        if self.is_stranded and not self._session.should_end():
            return  # see `offer_stranded_again`
        self.forget(number)
        if result and result.get("ended"):
            ended_by = TrialEnd.ITSELF
        elif self._session.should_end():
            ended_by = TrialEnd.SWEEP
        elif self._session.is_stopped_by_verdict(number):
            ended_by = TrialEnd.VERDICT
        else:
            ended_by = TrialEnd.SCHEDULER
        self._session.trial_ended(number, ended_by)

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class _SessionCallback(_NotPickled, tune.Callback):
    """Passes the events of a trial to the session before Tune acts on the result."""

    def __init__(
        self, session: Session, searcher: _SessionSearcher, cluster: Cluster | None, say: Callable[[str], None]
    ) -> None:
        self._session = session
        self._searcher = searcher
        self._cluster = cluster
        self._say = say
        self._silence = SilenceWatch(say)
        self._measurements = MeasurementWatch(self._measurement_wait, say)
        self._answers = None if session.plan.spec.capabilities.in_process else AnswerWatch(say)
        self._waits: dict[int, Waiting] = {}
        self._is_ending = False
        self._processes: dict[str, WorkerProcess] = {}
        self._kills_before: dict[str, int] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._kills_before[trial.trial_id] = last_words.out_of_memory_kills() or 0
        self._silence.news()
        self._session.trial_started(self._searcher.numbers[trial.trial_id])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        number = self._searcher.numbers[trial.trial_id]
        report = codec.from_json(WorkerReport, json.loads(result.pop("report")))
        if "pid" in result:
            host = str(result.get("hostname", ""))
            self._processes[trial.trial_id] = WorkerProcess(result["pid"], host, report.memory_bytes)
        if self._answers is not None:
            self._answers.heard(number)
        if report.events:
            self._waits.pop(number, None)
            self._silence.news()
        elif report.waiting is not None:
            if (known := self._waits.get(number)) is None or known.reason != report.waiting.reason:
                self._silence.news()
            self._waits[number] = report.waiting
        if report.traceback:
            _LOG.error("trial %d\n%s", number, report.traceback)
        if self._cluster is not None:
            self._cluster.trial_is_on(number, report.node, report.resumed_from)
            self._session.trial_placed(number, str(result["hostname"]))
        self._session.observe(number, report.handle, report.first, report.events)
        if report.waiting is not None:
            self._session.trial_waiting(number, report.waiting)
        if report.unfollowed is not None:
            self._session.report_unfollowed(number, report.unfollowed)
        if report.unreachable is not None:
            self._session.report_unreachable(report.unreachable)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        if self._session.should_end() and not self._is_ending:
            self._is_ending = True
            if self._session.end is SweepEnd.INTERRUPTED:
                self._say("stopping the running trials; another Ctrl-C stops at once")
        if self._answers is not None:
            self._answers.look()
        if self._measurements.look():
            self._silence.news()
        self._silence.look(lambda: self._what_it_waits_for(trials))

    def _measurement_wait(self) -> Waiting | None:
        plan = self._session.plan
        try:
            return waits.waiting([metric.request for metric in plan.spec.task_metrics], plan.folder)
        except BackendError:  # what it waits for is only shown; the measurement reports what is wrong
            return None

    def _what_it_waits_for(self, trials: list[Any]) -> str:
        silent = [trial for trial in trials if trial.status == "RUNNING"]
        waiting = [trial for trial in trials if trial.status == "PENDING"]
        parts = []
        for trial in silent:
            number = self._searcher.numbers[trial.trial_id]
            process = self._processes.get(trial.trial_id)
            where = f"trains in process {process.pid} on {process.host}" if process else "waits for its worker to start"
            if (wait := self._waits.get(number)) is not None and time.time() < wait.until + WAIT_IS_OVER_S:
                where = f"waits: {wait.reason}"
            parts.append(f"trial {number} {where}")
        if waiting and not silent:
            numbers = ", ".join(str(self._searcher.numbers[trial.trial_id]) for trial in waiting)
            needs = in_words(waiting[0].placement_group_factory.required_resources)
            parts.append(f"trial {numbers} waits for a machine with {needs} free")
        return "; ".join(parts) or "no trial is ready to start"

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._silence.news()
        self._forget(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        number = self._searcher.numbers[trial.trial_id]
        kills = (last_words.out_of_memory_kills() or 0) - self._kills_before.get(trial.trial_id, 0)
        loss = last_words.loss_of(_error_of(trial), self._processes.get(trial.trial_id), log_folder(), kills)
        _LOG.error("trial %d: %s\n%s", number, loss.message, loss.log_text)
        self._silence.news()
        self._forget(trial)
        was_lost = self._cluster is not None and self._cluster.is_lost(number, loss.log_text)
        self._searcher.forget(number)
        if was_lost:
            self._session.offer_again(number)
            return
        self._session.trial_ended(number, TrialEnd.CRASH, loss.message, out_of_memory=loss.out_of_memory)
        if not self._session.study.trial(number).state.ended and not self._session.should_end():
            self._say(f"trial {number} comes next again, as the same run: {loss.message}")

    def _forget(self, trial: Any) -> None:
        self._processes.pop(trial.trial_id, None)
        self._kills_before.pop(trial.trial_id, None)
        number = self._searcher.numbers[trial.trial_id]
        self._waits.pop(number, None)
        if self._answers is not None:
            self._answers.forget(number)
        # Tune keeps every trial: 30 KB each, most of it statistics of metrics that nobody asks for.
        trial.metric_analysis.clear()
        trial.metric_n_steps.clear()
        trial.run_metadata.last_result = {"done": True}
        trial.config, trial.evaluated_params, trial.experiment_tag = {}, {}, ""


class _SessionStopper(_NotPickled, tune.Stopper):
    """Stops a trial whose verdict is certain, and every trial once the session ends the sweep."""

    def __init__(self, session: Session, searcher: _SessionSearcher) -> None:
        self._session = session
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._session.is_stopped_by_verdict(self._searcher.numbers[trial_id])

    def stop_all(self) -> bool:
        return self._session.should_end() or self._searcher.is_stranded


def _resources(plan: SweepPlan, slots: bool, cluster: Cluster | None) -> dict[str, float]:
    resources = {"CPU": plan.placement.cpus or SERVICE_TRIAL_CPUS, "GPU": plan.placement.gpus}
    if slots:
        # Ray counts in steps of 1/10,000.
        resources[TRIAL_SLOT] = int(10_000 / plan.concurrency) / 10_000
    return resources if cluster is None else cluster.resources(resources)


def _shared_config(plan: SweepPlan, slots: bool, cluster: Cluster | None) -> dict[str, Any]:
    """Return the configuration that all trials share.

    The searcher adds `request`, `may_be_stopped`, `passed_evaluations` and `nodes` to each.
    """
    files = None if cluster is None else cluster.files
    return {
        "backend": plan.spec.backend_type,
        "options": plan.spec.backend_options.model_dump_json(),
        "workspace": str(plan.folder),
        "cpus": plan.placement.cpus,
        "gpus": plan.placement.gpus,
        "machines": plan.placement.nodes,
        "metric": plan.spec.objective.metric,
        "resources": _resources(plan, slots, cluster),
        "files": None if files is None else asdict(files),
    }


def _error_of(trial: Any) -> BaseException | None:
    """Return the error that Ray reported for a trial; None if it is unknown.

    Tune keeps it in a file only, which it leaves on the machine of the driver; some errors only as
    text.
    """
    try:
        error: BaseException | None = trial.get_pickled_error()
        if error is None and trial.pickled_error_file is None:
            return RuntimeError(Path(trial.error_file).read_text(encoding="utf-8"))
        if error is None:
            with Path(trial.pickled_error_file).open("rb") as stream:
                error = pickle.load(stream)
        return error
    except Exception as unreadable:  # noqa: BLE001  an error of others can fail in its constructor
        _LOG.warning("the error of a worker cannot be read: %s", foreign_errors.in_one_line(unreadable))
        return None
