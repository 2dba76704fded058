"""`CommandBackend`: trials that are runs of the user's own training program."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import psutil
from pydantic import BaseModel

from backends.cleanup import Leftover
from backends.command import leftovers, memory, supervisor
from backends.command.follower import Follower
from backends.command.launchers import RankGroup, reserved_port
from backends.command.options import CommandOptions, HyperparameterOptions
from backends.command.program import Program
from backends.command.run_folder import RunFolder
from backends.contract import (
    BackendError,
    Capabilities,
    Estimate,
    Event,
    Failure,
    FailureKind,
    Finished,
    Handle,
    Hyperparameter,
    OwnData,
    Placement,
    Prediction,
    PredictOptions,
    TrainingRequest,
)
from backends.hyperparameter_checks import check_hyperparameters
from backends.memory_forecast.forecast import MemoryForecast
from backends.run_names import run_id
from backends.waiting import Waiting

NAME = "command"
POLL_S = 0.5
SILENT_AFTER_S = 60.0
"""After this time without a new number, the screen says what the program printed last."""

START_TIMEOUT_S = 30.0
"""How long a supervisor may take to start the program before another one is started."""

MAX_STARTS = 3

SCOPE = "local"


class CommandBackend:
    """Starts programs, follows their logs, and stops them.

    Each run has a folder below `workspace`.
    """

    options_model: ClassVar[type[BaseModel]] = CommandOptions

    def __init__(self, options: CommandOptions, workspace: Path, placement: Placement) -> None:
        self.capabilities = self.describe(options)
        self._options, self._placement = options, placement
        self._program = Program.of(options)
        programs = (workspace / "programs").absolute()
        self._programs = programs / f"node-{placement.node}" if placement.node else programs
        self._followers: dict[str, Follower] = {}
        self._started_at: dict[str, float] = {}
        self._starts: Counter[str] = Counter()

    @classmethod
    def describe(cls, options: BaseModel) -> Capabilities:
        """Return the capabilities under these options."""
        options = _command_options(options)
        program = Program.of(options)  # an unknown preset is an error
        return Capabilities(
            hyperparameters=tuple(_declared(name, known) for name, known in options.hyperparameters.items()),
            metrics=options.reports,
            label_metrics=(),
            recommendation_scope=SCOPE,
            in_process=False,
            poll_s=POLL_S,
            further_metrics=not options.reports,
            own_data=OwnData(options.examples.train, options.examples.valid),
            starts_programs=True,
            memory_drivers=tuple(name for name in options.hyperparameters if name in memory.MEMORY_DRIVERS),
            keeps_progress=program.resume is not None,
        )

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Placement) -> CommandBackend:
        """Open the runs of this workspace."""
        return cls(_command_options(options), workspace, placement)

    @classmethod
    def output_file(cls, workspace: Path, key: str) -> Path:
        """Return the file with the output of a run; see `SupportsProgramOutput`."""
        return RunFolder(workspace / "programs", run_id(key)).log

    def close(self) -> None:
        """Forget the runs of this process. The programs go on."""
        self._followers.clear()

    # ------------------------------------------------------------------------------- before a run
    def check(self, request: TrainingRequest) -> Sequence[Failure]:
        """Return every fault of the definition and of the request."""
        return list(self._failures(request))

    def _failures(self, request: TrainingRequest) -> Iterator[Failure]:
        yield from self._program.failures()
        yield from check_hyperparameters(request.hyperparameters, self.capabilities)
        for file in (request.dataset.train, request.dataset.valid):
            if file.path and not Path(file.path).is_file():
                yield Failure(FailureKind.USER, f"the data file {file.path} does not exist")
        takes_models = self.capabilities.hyperparameter("base_model") is not None
        if request.base_model != self._options.model and not takes_models:
            named = repr(self._options.model) if self._options.model else "no model"
            hint = "Declare base_model under `backend.hyperparameters`."
            yield Failure(FailureKind.USER, f"`backend.model` names {named}, not {request.base_model!r}", hint)
        metric = request.evaluation.keep_metric
        if self._options.reports and metric not in self._options.reports:
            hint = f"`backend.reports` names {', '.join(self._options.reports)}."
            yield Failure(FailureKind.USER, f"keep_metric: the program does not report {metric}", hint)
        if request.evaluation.per_epoch != 1:
            hint = "Leave out evaluation.per_epoch, and tell the program itself how often to evaluate."
            yield Failure(FailureKind.USER, "per_epoch: the program itself decides when to evaluate", hint)
        if request.evaluation.metrics:
            hint = "Let the program measure, and name its number in `objective`."
            yield Failure(FailureKind.USER, "evaluation.metrics: no text of a program's model can be measured", hint)
        if request.resume_from is not None:
            yield Failure(FailureKind.USER, "resume_from: a program starts from its own model")

    def estimate(self, request: TrainingRequest) -> Estimate:
        """Return that nothing is known: a program costs what it costs."""
        for failure in check_hyperparameters(request.hyperparameters, self.capabilities):
            raise BackendError(failure)
        return Estimate(None, None, None, None, "the program does not say what it takes")

    def memory_forecast(self, request: TrainingRequest) -> MemoryForecast | None:
        """Return the forecast of the run's memory; see `memory_forecast.SupportsMemoryForecast`."""
        return memory.forecast(self._program, request)

    # -------------------------------------------------------------------------------------- a run
    def submit(self, request: TrainingRequest) -> Handle:
        """Start the program, or adopt the one that runs under this key.

        A run whose program was paused, abandoned or lost begins another attempt: from its last
        complete checkpoint if the program can resume, or else from scratch.
        """
        run = RunFolder(self._programs, run_id(request.key))
        with _disk_errors(FailureKind.USER):
            if not run.exists:
                for failure in self._failures(request):
                    raise BackendError(failure)
            with run.followed():
                run.create(request)
                if self._placement.node and run.ended and not isinstance(run.events()[-1], Finished):
                    run.forget_end()  # it follows the first part, which may continue
                    self._followers.pop(run.path.name, None)
                self._begin(self._follower(run))
        return Handle(NAME, run.path.name)

    def _begin(self, follower: Follower) -> None:
        run = follower.run
        run.watch()
        self._await_pause(run)
        end = follower.advance()
        if run.ended or run.is_supervised:
            return
        if end is not None:
            follower.begin_attempt(only_from_checkpoint=False)
        self._start(run)

    def _await_pause(self, run: RunFolder) -> None:
        """Wait for the end of a program that an interrupted sweep has just asked to end."""
        deadline = time.monotonic() + self._options.grace_s + supervisor.KILL_TIMEOUT_S + START_TIMEOUT_S
        while run.pause_requested and run.is_supervised and time.monotonic() < deadline:
            run.watch()
            time.sleep(0.05)

    def _start(self, run: RunFolder) -> None:
        """Start the supervisor of the current attempt, and wait a while for the program."""
        if not run.is_planned:
            attempt = run.attempt
            call = self._program.call(run.request(), run, self._placement, self._ranks(run), attempt.checkpoint)
            if call.config is not None and self._program.config is not None:
                supervisor.write_durably(run.path / self._program.config.name, call.config)
            origin = "from scratch" if attempt.checkpoint is None else f"from {attempt.checkpoint}"
            run.write_call(
                {
                    "arguments": call.arguments,
                    "environment": dict(call.environment),
                    "working_folder": call.working_folder,
                    "grace_s": self._options.grace_s,
                    "abandoned_after_s": self._options.abandoned_after_s,
                    "note": f"attempt {attempt.number}, {origin}" if attempt.number > 1 else "",
                }
            )
        self._started_at[run.path.name] = time.monotonic()
        started = _start_supervisor(run.path)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not (run.has_started or run.end) and time.monotonic() < deadline:
            if started is None or not psutil.pid_exists(started):  # somebody killed it
                del self._started_at[run.path.name]
                return
            time.sleep(0.01)

    def _start_again(self, follower: Follower) -> None:
        """Start the supervisor of a program that has not begun; the earlier one was killed."""
        run, now = follower.run, time.monotonic()
        if now - self._started_at.get(run.path.name, -START_TIMEOUT_S) < START_TIMEOUT_S:
            return
        self._starts[run.path.name] += 1
        if self._starts[run.path.name] > MAX_STARTS:
            follower.fail_to_start()
        else:
            self._start(run)

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        """Return the events so far from number `after` on.

        A program that was lost continues from a checkpoint that it has written in this attempt.
        """
        run = self._run(handle)
        with _disk_errors(FailureKind.TRANSIENT):
            if not run.ended:
                self._advance(self._follower(run))
            return list(run.events()[after:])

    def _advance(self, follower: Follower) -> None:
        run = follower.run
        with run.followed():
            end = follower.advance()
            if end is None:
                if not run.ended and not run.has_started and run.end is None and not run.is_supervised:
                    self._start_again(follower)
            elif end.cause != "paused":
                if follower.begin_attempt(only_from_checkpoint=True):
                    self._start(run)
                else:
                    follower.fail(end)

    def waiting(self, handle: Handle) -> Waiting | None:
        """Return what the program printed last, if it has reported no number for a while."""
        follower = self._followers.get(handle.id)
        if follower is None or time.monotonic() - follower.last_news_at < SILENT_AFTER_S:
            return None
        lines = follower.run.last_lines(1)
        last = f"its last line: {lines[0].strip()[:120]}" if lines else "it has printed nothing"
        minutes = (time.monotonic() - follower.last_news_at) / 60
        return Waiting(f"the program has reported nothing new for {minutes:.0f} min; {last}", time.time() + POLL_S)

    def stop(self, handle: Handle) -> None:
        """End the program: SIGTERM, and SIGKILL after the grace period."""
        run = self._run(handle)
        with _disk_errors(FailureKind.TRANSIENT):
            if run.ended:
                return
            run.request_stop()
            if not run.is_supervised:  # a supervisor that was killed may have left processes
                with run.followed():
                    self._follower(run).advance()

    def pause(self, key: str) -> None:
        """End the program of a run as `stop` does, but let the next submission continue the run."""
        run = RunFolder(self._programs, run_id(key))
        with _disk_errors(FailureKind.TRANSIENT):
            if not run.exists or run.ended or not run.is_planned or run.end is not None:
                return
            run.request_pause()
            for part in self._programs.glob(f"node-*/{run.path.name}/call.json"):
                RunFolder(part.parent.parent, part.parent.name).request_pause()
            if not run.is_supervised:
                with run.followed():
                    self._follower(run).advance()

    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        """Refuse: only the program knows how to use its models."""
        raise BackendError(Failure(FailureKind.USER, "the command backend cannot predict with a program's model"))

    def discard(self, handle: Handle) -> None:
        """End the program at once if it runs, and delete what it wrote."""
        run = self._run(handle)
        with _disk_errors(FailureKind.TRANSIENT), run.followed():
            if not run.ended:
                run.request_stop()
                supervisor.end_processes(run.path, 0.0)
                deadline = time.monotonic() + supervisor.KILL_TIMEOUT_S
                while run.is_supervised and time.monotonic() < deadline:
                    time.sleep(0.02)
                self._follower(run).advance()
            supervisor.end_processes(run.path, 0.0)
            run.delete_output()

    # ------------------------------------------------------------------------------------ leftovers
    def leftovers(self, others: Sequence[Path]) -> Sequence[Leftover]:
        """Return the processes and the files that the runs have left; see `SupportsCleanup`."""
        with _disk_errors(FailureKind.USER):
            return leftovers.of_runs(self._programs)

    def remove(self, leftover: Leftover) -> str:
        """End processes, or delete files. Return why they stay, or an empty string."""
        with _disk_errors(FailureKind.USER):
            return leftovers.remove(self._programs, leftover)

    # ------------------------------------------------------------------------------------- the runs
    def _run(self, handle: Handle) -> RunFolder:
        if (follower := self._followers.get(handle.id)) is not None:
            return follower.run
        run = RunFolder(self._programs, handle.id)
        if "/" in handle.id or not run.exists:
            raise BackendError(Failure(FailureKind.LOST, f"there is no run {handle.id!r} in {self._programs}"))
        return run

    def _follower(self, run: RunFolder) -> Follower:
        name = run.path.name
        if name not in self._followers:
            self._followers[name] = Follower(run, self._program, reports=self._placement.node == 0)
        return self._followers[name]

    def _ranks(self, run: RunFolder) -> RankGroup:
        """Return the processes that train this run together."""
        placement = self._placement
        port = placement.port or reserved_port(run.path)
        processes = max(1, int(placement.gpus))
        return RankGroup(processes, placement.nodes, placement.node, placement.address, port)


@contextlib.contextmanager
def _disk_errors(kind: FailureKind) -> Iterator[None]:
    """Translate errors of the disk under the runs."""
    try:
        yield
    except OSError as error:
        message = f"{error.filename or 'the folder of the runs'}: {error.strerror or error}"
        raise BackendError(Failure(kind, message, "Free some space there, or mend the folder.")) from error


_DETACH = """\
import os, sys
child = os.fork()
if child:
    print(child)
else:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execv(sys.executable, [sys.executable, "-P", *sys.argv[1:]])
"""


def _start_supervisor(folder: Path) -> int | None:
    """Start the supervisor as nobody's child: Ray ends the children of a worker with it.

    Returns its process id, or None if it did not start.
    """
    script = Path(supervisor.__file__)
    with (folder / "supervisor.log").open("ab") as errors:
        answer = subprocess.run(
            [sys.executable, "-S", "-E", "-P", "-c", _DETACH, str(script), str(folder)],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    return int(answer.stdout) if answer.returncode == 0 and answer.stdout.strip() else None


def _declared(name: str, known: HyperparameterOptions) -> Hyperparameter:
    return Hyperparameter(
        name,
        known.kind,
        known.description or f"{name} of the program",
        low=known.low,
        high=known.high,
        choices=known.choices,
        default=known.default,
        default_rule="" if known.default is not None else "the program's own",
        may_be_path=known.kind == "str",
        searched=True,
        log=known.log,
    )


def _command_options(options: BaseModel) -> CommandOptions:
    if not isinstance(options, CommandOptions):
        raise BackendError(Failure(FailureKind.BUG, f"these are no options of the command backend: {type(options)}"))
    return options
