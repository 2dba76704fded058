"""`CommandBackend`: trials that are runs of the user's own training program."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from backends.command import checkpoints, supervisor
from backends.command.follower import Follower
from backends.command.launchers import RankGroup, reserved_port
from backends.command.options import CommandOptions, HyperparameterOptions
from backends.command.program import Program
from backends.command.run_folder import RunFolder, run_id
from backends.contract import (
    BackendError,
    Capabilities,
    Estimate,
    Event,
    Failure,
    FailureKind,
    Handle,
    Hyperparameter,
    OwnData,
    Placement,
    Prediction,
    PredictOptions,
    TrainingRequest,
)
from backends.hyperparameter_checks import check_hyperparameters
from backends.waiting import Waiting

NAME = "command"
POLL_S = 0.5
SILENT_AFTER_S = 60.0
"""After this time without a new number, the screen says what the program printed last."""

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

    @classmethod
    def describe(cls, options: BaseModel) -> Capabilities:
        """Return the capabilities under these options."""
        options = _command_options(options)
        Program.of(options)  # an unknown preset is an error
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
        )

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Placement) -> CommandBackend:
        """Open the runs of this workspace."""
        return cls(_command_options(options), workspace, placement)

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

    # -------------------------------------------------------------------------------------- a run
    def submit(self, request: TrainingRequest) -> Handle:
        """Start the program, or adopt the one that runs under this key.

        A run whose program was lost or abandoned begins again: from its last checkpoint if the
        program can resume, or else from scratch under the same key.
        """
        run = RunFolder(self._programs, run_id(request.key))
        if not run.exists:
            for failure in self._failures(request):
                raise BackendError(failure)
            run.create(request)
        with run.followed():
            run.watch()
            if not run.ended and not run.is_supervised:
                self._start(run)
        return Handle(NAME, run.path.name)

    def _start(self, run: RunFolder) -> None:
        end = run.end
        if end is not None and end.cause != "abandoned":
            return  # it has ended, and the next reader of its events says so
        checkpoint = None
        if run.has_started:
            supervisor.end_processes(run.path, 0.0)
            checkpoint = self._newest_checkpoint(run)
            run.forget_attempt(keep_events=checkpoint is not None)
            self._followers.pop(run.path.name, None)
        if not run.is_planned:
            call = self._program.call(run.request(), run, self._placement, self._ranks(run), checkpoint)
            if call.config is not None and self._program.config is not None:
                supervisor.write_durably(run.path / self._program.config.name, call.config)
            run.write_call(
                {
                    "arguments": call.arguments,
                    "environment": dict(call.environment),
                    "working_folder": call.working_folder,
                    "grace_s": self._options.grace_s,
                    "abandoned_after_s": self._options.abandoned_after_s,
                }
            )
        _start_supervisor(run.path)
        deadline = time.monotonic() + 30
        while not (run.has_started or run.end) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _ranks(self, run: RunFolder) -> RankGroup:
        """Return the processes that train this run together."""
        placement = self._placement
        port = placement.port or reserved_port(run.path)
        processes = max(1, int(placement.gpus))
        return RankGroup(processes, placement.nodes, placement.node, placement.address, port)

    def _newest_checkpoint(self, run: RunFolder) -> str | None:
        pattern = self._program.checkpoint_pattern(run)
        if self._program.resume is None or pattern is None:
            return None
        found = checkpoints.checkpoints_of(pattern)
        return str(found[-1].path) if found else None

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        """Return the events so far from number `after` on."""
        run = self._run(handle)
        if run.ended:
            return list(run.events()[after:])
        follower = self._followers.setdefault(handle.id, Follower(run, self._program))
        follower.advance()
        return list(run.events()[after:])

    def waiting(self, handle: Handle) -> Waiting | None:
        """Return what the program printed last, if it has reported no number for a while."""
        follower = self._followers.get(handle.id)
        if follower is None or time.monotonic() - follower.last_news_at < SILENT_AFTER_S:
            return None
        lines = RunFolder(self._programs, handle.id).last_lines(1)
        last = f"its last line: {lines[0].strip()[:120]}" if lines else "it has printed nothing"
        minutes = (time.monotonic() - follower.last_news_at) / 60
        return Waiting(f"the program has reported nothing new for {minutes:.0f} min; {last}", time.time() + POLL_S)

    def stop(self, handle: Handle) -> None:
        """End the program: SIGTERM, and SIGKILL after the grace period."""
        run = self._run(handle)
        if not run.ended:
            run.request_stop()

    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        """Refuse: only the program knows how to use its models."""
        raise BackendError(Failure(FailureKind.USER, "the command backend cannot predict with a program's model"))

    def discard(self, handle: Handle) -> None:
        """End the program if it runs, and delete what it wrote."""
        run = self._run(handle)
        if run.is_supervised:
            run.request_stop()
        supervisor.end_processes(run.path, 0.0)
        run.delete_output()

    def _run(self, handle: Handle) -> RunFolder:
        run = RunFolder(self._programs, handle.id)
        if "/" in handle.id or not run.exists:
            raise BackendError(Failure(FailureKind.LOST, f"there is no run {handle.id!r} in {self._programs}"))
        follower = self._followers.get(handle.id)
        return run if follower is None else follower.run


def _start_supervisor(folder: Path) -> None:
    """Start the supervisor as nobody's child: Ray ends the children of a worker with it."""
    script = Path(supervisor.__file__)
    detach = "import os,sys; os.fork() or os.execv(sys.executable, [sys.executable, '-P', *sys.argv[1:]])"
    subprocess.run(
        [sys.executable, "-S", "-E", "-P", "-c", detach, str(script), str(folder)],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


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
