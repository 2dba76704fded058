"""Sweeps that are killed at a chosen durable write, resumed and compared with what must hold.

`python -m tests.chaos.kill_points` repeats one case.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent))

import inline_engine
import optuna
from durable_writes import DurableWrites, KillPoint
from forked_process import ChildEnd, run_in_child
from mlflow_equality import mlflow_differences
from optuna.storages.journal import JournalFileBackend
from session_driver import planned
from sweep_invariants import Expectation, SweepFacts, violations

from backends import codec
from backends.contract import Dataset, Handle, TrainingRequest
from backends.fake import FakeBackend
from backends.fake_service import FakeRun, FakeService
from backends.model_packages import ModelPackage
from sweeps.api.running import run_plan
from sweeps.execution import run as _imported_before_the_fork  # noqa: F401
from sweeps.execution.observers import ProgressObserver
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study import attributes, records
from sweeps.tracking.registry import Registry
from sweeps.trials.trial import TrialState
from sweeps.workspace import Workspace

with warnings.catch_warnings():  # they warn about each other; imported before the fork, because they are slow
    warnings.simplefilter("ignore")
    import mlflow.pyfunc as _pyfunc  # noqa: F401
    from mlflow.store.model_registry import sqlalchemy_store as _registry  # noqa: F401
    from mlflow.store.tracking import sqlalchemy_store as _tracking  # noqa: F401

MAX_RUNS = 5
"""How often a sweep is started until it must have ended."""

SECOND_KILL_SHARE = 0.3
"""The share of the resumed sweeps that are killed once more, at a random write."""


@dataclass(frozen=True)
class Scenario:
    """A kind of sweep. `overrides` change the sweep file of `session_driver`.

    `mlflow`: the sweep records itself in MLflow, whose tables exist. `steers`: it steers its space.
    `programs`: its trials are programs of the command backend.
    """

    name: str
    overrides: Sequence[str]
    expected: Expectation
    steers: bool = False
    mlflow: bool = False
    programs: bool = False


def _fault(on: str, kind: str, **more: object) -> str:
    return "backend.faults=" + json.dumps([{"on": on, "kind": kind, "times": 1, **more}])


_TRAINER = Path(__file__).with_name("programs") / "gated_trainer.py"

_COMMAND = {
    "type": "command",
    "run": f"{sys.executable} -S -E {_TRAINER} --lr {{lr}} --epochs 2 --output {{output}} --behaviour family",
    "metrics": ["output"],
    "checkpoints": "{output}/checkpoint-*",
    "resume": "--resume {checkpoint}",
    "grace_s": 2,
    "hyperparameters": {"lr": {"choices": [0.1, 0.2]}},
}
_GRID_OF_PROGRAMS = (
    "backend=" + json.dumps(_COMMAND),
    "space={lr: [0.1, 0.2]}",
    "search={sampler: grid, scheduler: none, trials: 2, concurrency: 2, retries: 3}",
    "objective={minimize: valid_loss}",
)

_PLAIN = ("search={sampler: random, scheduler: none, trials: 3, concurrency: 2, startup_trials: 1}",)
_POLLS = ("backend.events_per_poll=4",)
_GRID = [{"n_epochs": epochs, "batch_size": size} for epochs in (1, 2) for size in (2, 4)]

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("plain", (*_PLAIN, *_POLLS), Expectation(3)),
        Scenario(
            "grid",
            (
                "search={sampler: grid, scheduler: none, trials: 4, concurrency: 2}",
                "space={n_epochs: [1, 2], batch_size: [2, 4], learning_rate_multiplier: 0.1}",
                *_POLLS,
            ),
            Expectation(4, points=_GRID),
        ),
        Scenario(
            "asha", ("search={sampler: tpe, scheduler: asha, trials: 5, concurrency: 2}", *_POLLS), Expectation(5)
        ),
        Scenario(
            "median",
            (
                "search={sampler: random, trials: 6, concurrency: 2}",
                "search.scheduler={type: median, min_trials: 1}",
                "space.n_epochs=5",
                "backend.events_per_poll=3",
            ),
            Expectation(6),
        ),
        Scenario("finals", (*_PLAIN, *_POLLS, "finals={candidates: 2, seeds: 2}"), Expectation(3, finals=True)),
        Scenario("retry", (*_PLAIN, *_POLLS, _fault("train", "transient", after_epoch=1)), Expectation(3)),
        Scenario(
            "retry-finals",
            (
                "search={sampler: random, scheduler: none, trials: 2, concurrency: 2}",
                *_POLLS,
                "finals={candidates: 1, seeds: 2}",
                "backend.faults=" + json.dumps([{"on": "train", "kind": "quota", "times": 2}]),
            ),
            Expectation(2, finals=True),
        ),
        Scenario("lost-answer", (*_PLAIN, *_POLLS, _fault("submit", "lost_answer")), Expectation(3)),
        Scenario(
            "failure", (*_PLAIN, *_POLLS, _fault("train", "out_of_memory", after_epoch=1)), Expectation(3, failed=1)
        ),
        Scenario(
            "steering",
            (
                "search={sampler: random, scheduler: none, trials: 7, concurrency: 1}",
                "space={n_epochs: {low: 1, high: 2}, batch_size: 4, learning_rate_multiplier: {low: 0.02, high: 0.03}}",
                "steering=act",
                "bounds={n_epochs: [1, 6], learning_rate_multiplier: [0.01, 1.0]}",
                "backend.events_per_poll=6",
            ),
            Expectation(7),
            steers=True,
        ),
        Scenario(
            "budget",
            (*_PLAIN, *_POLLS, "search.trials=8", "backend.price_usd_per_token=0.00001", "budget.usd=0.25"),
            Expectation(None),
        ),
        Scenario(
            "objectives",
            (*_PLAIN, *_POLLS, "objective=[{maximize: valid_accuracy}, {minimize: valid_loss}]"),
            Expectation(3),
        ),
        Scenario("mlflow", (*_PLAIN, *_POLLS), Expectation(3), mlflow=True),
        Scenario(
            "champion",
            (*_PLAIN, *_POLLS, "search.trials=2", "champion={model: answers}"),
            Expectation(2),
            mlflow=True,
        ),
        Scenario(
            "duplicates",
            (
                "search={sampler: random, scheduler: none, trials: 9, concurrency: 2}",
                "space={n_epochs: [1, 2], batch_size: 4, learning_rate_multiplier: 0.1}",
                *_POLLS,
            ),
            Expectation(2, points=[{"n_epochs": 1}, {"n_epochs": 2}]),
        ),
        Scenario("command", _GRID_OF_PROGRAMS, Expectation(2), programs=True),
    )
}


@dataclass
class KilledSweep:
    """One scenario with a prepared plan, run as often as needed in folders below `folder`."""

    scenario: Scenario
    folder: Path
    _cases: int = field(default=0, init=False)

    @cached_property
    def plan(self) -> SweepPlan:
        """The plan; its data lies in the folder of the plan and is only read."""
        with registrable_fake_models():
            return planned(self.folder / "prepared", *self.scenario.overrides)

    @cached_property
    def writes(self) -> DurableWrites:
        """The durable writes of a run that nothing disturbs. It must itself be without fault."""
        root = self._new_root()
        end = self.run(root)
        assert end.exit_code == 0, f"the undisturbed sweep ended with {end}"
        writes = self._written(root)
        found = self.violations(root)
        assert not found, f"the undisturbed sweep: {found}"
        if self.scenario.steers:
            assert self.facts(root).study.user_attrs["steering"], "this scenario never steers"
        return writes

    def case(self, kill_at: KillPoint, seed: int) -> list[str]:
        """Kill a new sweep at this point, resume it to its end, and return what is wrong then."""
        root, choice = self._new_root(), random.Random(f"{self.scenario.name} {kill_at} {seed}")
        end = self.run(root, kill_at)
        if not end.killed and not (self.scenario.mlflow and end.exit_code == 0):
            # MLflow is written by a thread: how often depends on its speed.
            return [f"the sweep was not killed: {end}"]
        for run in range(MAX_RUNS):
            again = None
            if run < MAX_RUNS - 1 and choice.random() < SECOND_KILL_SHARE:
                again = KillPoint(choice.randrange(len(self.writes.names)), choice.choice(("before", "after")))
            end = self.run(root, again)
            if end.exit_code == 0:
                break
            if not end.killed:
                return [f"the resumed sweep ended with {end}"]
        else:
            return [f"the sweep was killed {MAX_RUNS} times"]
        found = self.violations(root)
        if not found:
            shutil.rmtree(root)
        return found

    def violations(self, root: Path) -> list[str]:
        """Return what is wrong with the ended sweep, its leftovers and its MLflow included."""
        found = [*violations(self.facts(root), self.scenario.expected), *leftovers(root)]
        if self.scenario.programs:
            found += program_violations(root, self.facts(root).study)
        if self.scenario.mlflow:
            found += mlflow_differences(root / "workspace", self.plan.spec.name)
        if self.plan.spec.champion is not None:
            found += self._champion_violations(root)
        return found

    def _champion_violations(self, root: Path) -> Iterator[str]:
        """Yield what is wrong with the registry, which must hold the winner once, as champion."""
        registry = Registry(f"sqlite:///{root / 'workspace' / 'mlflow.db'}")
        decision = self.facts(root).study.user_attrs.get(attributes.CHAMPION)
        champion, versions = registry.champion("answers"), registry.versions("answers")
        if decision is None or not decision["promoted"]:
            yield f"the winner was not promoted: {decision}"
        elif champion is None or str(champion.number) != str(decision["version"]):
            yield f"the champion is {champion}, the study says version {decision['version']}"
        if len(versions) != 1:
            yield f"the winner was registered {len(versions)} times"

    def run(self, root: Path, kill_at: KillPoint | None = None, timeout_s: float = 100.0) -> ChildEnd:
        """Run `sweep run` in a child, without Ray and MLflow."""
        output = root / "output.txt"
        output.unlink(missing_ok=True)
        return run_in_child(lambda: self._sweep_run(root, kill_at), output, timeout_s)

    def _sweep_run(self, root: Path, kill_at: KillPoint | None) -> None:
        workspace = Workspace(root / "workspace")
        plan = replace(self.plan, folder=workspace.sweep_folder(self.plan.spec.name))
        for name in ("SWEEP_STORAGE", "MLFLOW_TRACKING_URI"):
            os.environ.pop(name, None)
        os.environ["TMPDIR"] = tempfile.tempdir = str(root)
        writes = DurableWrites(root / "workspace", kill_at)
        with ExitStack() as stack:
            stack.enter_context(inline_engine.instead_of_ray())
            if not self.scenario.mlflow:
                stack.enter_context(inline_engine.without_mlflow())
            stack.enter_context(patch("sweeps.execution.run.page", lambda state, now: "the report"))
            stack.enter_context(recorded_submissions(root / "submissions.jsonl"))
            stack.enter_context(registrable_fake_models())
            writes.install()
            run_plan(plan, workspace, ProgressObserver(), print)
        listing = {"names": writes.names, "tearable": writes.tearable}
        (root / "writes.json").write_text(json.dumps(listing))

    def _written(self, root: Path) -> DurableWrites:
        listing = json.loads((root / "writes.json").read_text())
        return DurableWrites(root, names=listing["names"], tearable=listing["tearable"])

    def facts(self, root: Path) -> SweepFacts:
        """Read what study and service know."""
        workspace, name = Workspace(root / "workspace"), self.plan.spec.name
        plan = replace(self.plan, folder=workspace.sweep_folder(name))
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(workspace.study_file(name))))
        study = optuna.load_study(study_name=workspace.study_name(name), storage=storage)
        if self.scenario.programs:
            return SweepFacts(plan, study, (), knows_runs=False)
        return SweepFacts(plan, study, service_runs(plan.folder), submissions(root / "submissions.jsonl"))

    def _new_root(self) -> Path:
        self._cases += 1
        root = self.folder / f"case{self._cases}"
        root.mkdir(parents=True)
        if self.scenario.mlflow:
            (root / "workspace").mkdir()
            shutil.copyfile(self._empty_mlflow, root / "workspace" / "mlflow.db")
        return root

    @cached_property
    def _empty_mlflow(self) -> Path:
        """MLflow's tables without a run, made by a child: MLflow starts threads."""
        database = self.folder / "mlflow.db"
        end = run_in_child(lambda: create_mlflow(database), self.folder / "mlflow.txt")
        assert end.exit_code == 0, end
        return database


def program_violations(root: Path, study: optuna.Study) -> Iterator[str]:
    """Yield which trials have a gap in their curve, and which processes live on."""
    for number, epochs in epochs_by_trial(study).items():
        if epochs != [1.0, 2.0]:
            yield f"trial {number} has the epochs {epochs}"
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment, line = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
            if f"FINESWEEP_RUN={root}/".encode() in environment or f"{root}/".encode() in line:
                yield f"process {folder.name} lives on: {line.replace(bytes(1), b' ').decode(errors='replace')}"


def epochs_by_trial(study: optuna.Study) -> dict[int, list[float]]:
    """Return the epochs of the evaluations of each complete trial."""
    recorded = {
        frozen.number: records.read_record(frozen, {}, set())
        for frozen in study.get_trials(deepcopy=False)
        if attributes.RECORD in frozen.user_attrs
    }
    return {
        number: [evaluation.epoch for evaluation in trial.curve if evaluation.epoch > 0]
        for number, trial in recorded.items()
        if trial.state is TrialState.COMPLETE
    }


def create_mlflow(database: Path) -> None:
    """Create the tables of MLflow in a new database."""
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{database}").search_experiments()


@contextlib.contextmanager
def registrable_fake_models() -> Iterator[None]:
    """Let models of the fake backend be registered. Such a model knows every answer."""

    def package(backend: FakeBackend, model: str, dataset: Dataset, folder: Path) -> ModelPackage:
        answers = {}
        for file in Path(dataset.train.path).parent.glob("*.jsonl"):
            lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
            answers |= {line["prompt"]: line["completion"] for line in lines}
        (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
        return ModelPackage(Path(__file__).with_name("knowing_predictor.py"), {"labels": list(dataset.labels)}, ())

    with patch.object(FakeBackend, "package", package, create=True):
        yield


def recorded_submissions(file: Path) -> ExitStack:
    """Write every request that reaches the fake backend into `file`, one a line."""
    original = FakeBackend.submit

    def submit(backend: FakeBackend, request: TrainingRequest) -> Handle:
        line = json.dumps(codec.to_json(request)) + "\n"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(descriptor, line.encode())
        os.close(descriptor)
        return original(backend, request)

    stack = ExitStack()
    stack.enter_context(patch.object(FakeBackend, "submit", submit))
    return stack


def submissions(file: Path) -> list[TrainingRequest]:
    """Return the requests that `recorded_submissions` wrote."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [codec.from_json(TrainingRequest, json.loads(line)) for line in lines]


def service_runs(folder: Path) -> list[FakeRun]:
    """Return all runs of the fake service of a sweep's folder."""
    service = FakeService(folder / "fake-service.sqlite")
    with closing(service):
        return [FakeRun(*row) for row in service._execute("SELECT * FROM runs", {})]


_DRAFT = re.compile(r"\..+\.draft$|\.writing-")
"""The names of our drafts of files and folders. MLflow's begin with `.artifact.uploading.`."""


def leftovers(root: Path) -> Iterator[str]:
    """Yield what only a process that died can have left: temporary files, and locks still held."""
    for path in (root / "workspace").rglob("*"):
        is_best = path.is_symlink() and path.name == "best" and path.parents[1].name == "programs"
        if is_best:
            if not path.exists():
                yield f"{path.relative_to(root)} leads nowhere"
        elif path.is_symlink() or path.name.endswith((".tmp", ".rename", ".partial")) or _DRAFT.match(path.name):
            yield f"{path.relative_to(root)} was left behind"
        elif path.name.endswith("lock") and path.is_file():
            with path.open("r") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    yield f"{path.relative_to(root)} is still locked"
    for path in root.glob("sweep-*"):
        if path.is_dir():
            yield f"{path.name} was left behind"
