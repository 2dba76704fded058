"""Kills the processes of real sweeps at random: `python -m tests.chaos.random_kills --kills 300`.

A series is one sweep with real Ray and MLflow. Its processes are killed several times, it is
resumed with the same command, and at its end study, service and MLflow are compared. A process that
a killed driver left must be gone once the next run of the sweep has ended. `--seed`
repeats the choices of one series: the kind of sweep, the victims and the moments. Only the moments
of the machine differ.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import optuna
from killed_sweep import leftovers, service_runs
from mlflow_equality import mlflow_differences
from sweep_invariants import Expectation, SweepFacts, violations

from sweeps.planning.plan import plan_file
from sweeps.study.storage import open_storage
from sweeps.study.stored_study import read_study
from sweeps.trials.trial import Trial, TrialState
from sweeps.workspace import Workspace

MARK = "FINESWEEP_CHAOS_SERIES"
"""The environment variable by which all processes of a series are found, wherever they hang."""

RUN_TIMEOUT_S = 240.0
VICTIM_TIMEOUT_S = 60.0
ORPHAN_TIMEOUT_S = 60.0
SWEEP = "from sweeps.cli.main import main; main()"
"""The command `sweep` of this checkout."""

CLEAN_EXIT_CODES = (0, 1, 130)

VICTIMS = ("driver", "driver", "worker", "worker", "worker", "worker", "raylet", "gcs", "group", "mlflow")

FAKE_FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small, seconds_per_epoch: 0.7}
space:
  n_epochs: [2, 3, 4]
  batch_size: {low: 1, high: 8}
  learning_rate_multiplier: {low: 0.01, high: 0.4, log: true}
search: {sampler: tpe, scheduler: SCHEDULER, trials: TRIALS, concurrency: 4, retries: 20}
objective: {maximize: valid_accuracy}
"""

LOCAL_FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: local, model: "builtin:tiny-lm"}
space:
  n_epochs: 2
  batch_size: [8, 16]
  learning_rate: {low: 1e-4, high: 1e-2, log: true}
search: {sampler: random, scheduler: none, trials: 4, concurrency: 2, retries: 20}
objective: {maximize: valid_accuracy}
"""


TRAINER = Path(__file__).parents[1] / "support" / "programs" / "gated_trainer.py"

COMMAND_FILE = f"""\
name: pairs
backend:
  type: command
  run: >-
    {sys.executable} -S -E {TRAINER} --lr {{lr}} --epochs {{n_epochs}} --output {{output}} --seed {{seed}}
    --behaviour family --epoch-seconds 0.7
  metrics: [output]
  checkpoints: "{{output}}/checkpoint-*"
  resume: RESUME
  grace_s: 2
  abandoned_after_s: 20
  hyperparameters:
    lr: {{low: 1e-6, high: 1e-2, log: true}}
    n_epochs: {{type: int, low: 2, high: 4}}
search: {{sampler: tpe, scheduler: SCHEDULER, trials: TRIALS, concurrency: 4, retries: 20}}
resources: {{cpus_per_trial: 0.1}}
objective: {{minimize: valid_loss}}
"""

FILES = {"fake": FAKE_FILE, "local": LOCAL_FILE, "command": COMMAND_FILE}

PROGRAM_VICTIMS = ("program", "program", "supervisor", "supervisor")
"""What the command backend has beside the processes of every sweep."""


@dataclass(frozen=True)
class Choices:
    """What the seed of a series decides."""

    kind: str
    mlflow_server: bool
    text: str
    trials: int
    finals: bool


@dataclass
class Series:
    """One sweep and its kills."""

    seed: int
    root: Path
    kind: str | None = None
    faults: list[str] = field(default_factory=list)
    victims: Counter[str] = field(default_factory=Counter)
    runs: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        kind = self.kind or self.random.choice(("fake", "fake", "fake", "local", "command", "command"))
        trials = 4 if kind == "local" else 8
        text = FILES[kind].replace("RESUME", self.random.choice(("'--resume {checkpoint}'", "null")))
        scheduler = self.random.choice(("none", "asha", "{type: median, min_trials: 2}"))
        text = text.replace("SCHEDULER", scheduler).replace("TRIALS", str(trials))
        finals = self.random.random() < 0.4
        if finals:
            text += "finals: {candidates: 2, seeds: 2}\n"
        server = self.random.random() < 0.3
        self.choices = Choices(kind, server, text, trials, finals)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SWEEP_", "MLFLOW_", "RAY_"))},
            MARK: f"{os.getpid()}-{self.seed}",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "SWEEP_ROOT": str(self.root / "workspace"),
            "TMPDIR": str(self.root / "t"),
        }
        (self.root / "t").mkdir(parents=True)
        (self.root / "sweep.yaml").write_text(text)

    def run(self, kills: int) -> None:
        """Kill that many processes of the sweep, resume it to its end, and check it."""
        with self._mlflow() as server:
            while kills > 0 and not self.faults:
                kills -= self._run_with_kills(kills, server)
                if self._has_ended:
                    break
            if not self.faults:
                self._finish()
            if not self.faults:
                self._check()
        self._end_orphans()

    _has_ended = False

    # ------------------------------------------------------------------------------------ processes
    def _start(self) -> subprocess.Popen[bytes]:
        self.runs += 1
        output = (self.root / f"output-{self.runs}.txt").open("wb")
        command = [sys.executable, "-c", SWEEP, "run", str(self.root / "sweep.yaml")]
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _run_with_kills(self, kills: int, server: _MlflowServer | None) -> int:
        """Run the sweep once and kill some of its processes. Returns the number of kills."""
        process, done = self._start(), 0
        while done < kills:
            self._sleep(process, self.random.choice((0.5, 1, 2, 3, 5)) * self.random.uniform(0.5, 2))
            victim = self.random.choice(VICTIMS + (PROGRAM_VICTIMS if self.choices.kind == "command" else ()))
            if process.poll() is not None:
                break
            killed = self._kill(victim, process, server)
            if killed:
                done += 1
                self.victims[killed] += 1
            if killed in ("driver", "group"):
                break
        code = self._await(process)
        if code is not None and code not in (*CLEAN_EXIT_CODES, -signal.SIGKILL):
            self._fault(f"run {self.runs} ended with {code}")
        self._has_ended = code == 0
        self._check_output()
        if code != -signal.SIGKILL:  # a killed driver ends nothing: the next run does
            self._check_orphans()
        return done

    def _finish(self) -> None:
        for _ in range(4):
            process = self._start()
            code = self._await(process)
            self._check_output()
            self._check_orphans()
            if code == 0 or self.faults:
                return
        self._fault(f"the sweep ends with {code} when nothing disturbs it: {self._last_words()}")

    def _sleep(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)

    def _await(self, process: subprocess.Popen[bytes]) -> int | None:
        try:
            return process.wait(RUN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._fault(f"run {self.runs} hangs after {sum(self.victims.values())} kills: {self._last_words()}")
            process.kill()
            process.wait()
            return None

    def _kill(self, victim: str, driver: subprocess.Popen[bytes], server: _MlflowServer | None) -> str | None:
        """Kill the victim. Returns its kind, or None if there is none of this kind."""
        if victim == "mlflow":
            if server is not None:
                server.kill_and_restart()
            return None if server is None else victim
        until = time.monotonic() + VICTIM_TIMEOUT_S
        chosen: list[int] = []
        while not chosen and driver.poll() is None and time.monotonic() < until:
            chosen = self._processes_to_kill(victim, driver)
            time.sleep(0.1)
        for number in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return victim if chosen else None

    def _processes_to_kill(self, victim: str, driver: subprocess.Popen[bytes]) -> list[int]:
        processes = processes_of(self.environment[MARK], self.root)
        match victim:
            case "driver":
                return [driver.pid]
            case "group":
                return [number for number, name in processes.items() if "mlflow" not in name]
            case "worker":
                workers = [number for number, name in processes.items() if "TrialRunner" in name or "::train" in name]
                return [self.random.choice(sorted(workers))] if workers else []
            case "program" | "supervisor":
                words = {"program": str(TRAINER), "supervisor": "command/supervisor.py"}[victim]
                found = [number for number, name in processes.items() if words in name]
                return [self.random.choice(sorted(found))] if found else []
            case _:
                program = {"raylet": "raylet/raylet", "gcs": "gcs_server"}[victim]
                return [number for number, name in processes.items() if program in name.partition(" ")[0]]

    @contextlib.contextmanager
    def _mlflow(self) -> Iterator[_MlflowServer | None]:
        if not self.choices.mlflow_server:
            self.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{self.root}/workspace/mlflow.db"
            yield None
            return
        server = _MlflowServer(self.root, self.environment)
        self.environment["MLFLOW_TRACKING_URI"] = server.uri
        try:
            yield server
        finally:
            server.end()

    # --------------------------------------------------------------------------------------- checks
    def _fault(self, sentence: str) -> None:
        self.faults.append(sentence)

    def _last_words(self) -> str:
        return (self.root / f"output-{self.runs}.txt").read_text(errors="replace")[-600:]

    def _check_output(self) -> None:
        text = (self.root / f"output-{self.runs}.txt").read_text(errors="replace")
        if "Traceback (most recent call last)" in text:
            self._fault(f"run {self.runs} printed a traceback: {text[-1500:]}")

    def _check_orphans(self) -> None:
        until = time.monotonic() + ORPHAN_TIMEOUT_S
        while time.monotonic() < until:
            found = self._sweep_processes()
            if not found:
                return
            time.sleep(0.2)
        self._fault(f"processes of run {self.runs} live on: {found}")
        self._end_orphans()

    def _sweep_processes(self) -> dict[int, str]:
        found = processes_of(self.environment[MARK], self.root)
        return {number: name for number, name in found.items() if "mlflow" not in name or "sweep run" in name}

    def _end_orphans(self) -> None:
        for number in processes_of(self.environment[MARK], self.root):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def _check(self) -> None:
        workspace = Workspace(self.root / "workspace")
        plan = plan_file(self.root / "sweep.yaml", (), workspace, estimate=False)
        storage = open_storage(workspace.study_file("pairs"))
        study = optuna.load_study(study_name=workspace.study_name("pairs"), storage=storage)
        runs = service_runs(plan.folder) if self.choices.kind == "fake" else []
        facts = SweepFacts(plan, study, runs, knows_runs=self.choices.kind == "fake")
        expected = Expectation(self.choices.trials, failed=0, finals=self.choices.finals)
        self.faults += violations(facts, expected)
        self.faults += gaps(read_study(workspace.study_file("pairs"), workspace.study_name("pairs")).trials)
        self.faults += leftovers(self.root)
        self.faults += [f"{path.name} was left in the temporary folder" for path in (self.root / "t").glob("sweep-*")]
        sessions = [path for path in (self.root / "t" / "ray").glob("session_*") if not path.is_symlink()]
        self.faults += [f"{path.name} of Ray was left behind" for path in sessions]
        if workspace.is_locked("pairs"):
            self._fault("the sweep is still locked")
        tracking_uri = self.environment["MLFLOW_TRACKING_URI"]
        self.faults += mlflow_differences(self.root / "workspace", "pairs", uri=tracking_uri)


class _MlflowServer:
    """An `mlflow server` of a series, which can be killed and comes back."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._root = root
        self._environment = {**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # no job runner
        self._start()

    def _start(self) -> None:
        (self._root / "workspace").mkdir(exist_ok=True)
        command = [
            str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", str(self._port),
            "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self._root}/workspace/mlflow.db",
            "--artifacts-destination", str(self._root / "artifacts"),
        ]  # fmt: skip
        log = (self._root / "mlflow-server.txt").open("ab")
        self._process = subprocess.Popen(
            command, cwd=self._root, env=self._environment, stdout=log, stderr=log, start_new_session=True
        )
        until = time.monotonic() + 180
        while time.monotonic() < until:
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            time.sleep(0.3)
        raise RuntimeError("the MLflow server does not start")

    def kill_and_restart(self) -> None:
        """Kill the server and its workers, and start it again."""
        self.end()
        self._start()

    def end(self) -> None:
        """Kill the server and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def gaps(trials: Iterable[Trial]) -> Iterator[str]:
    """Yield which complete trials do not have each epoch once, in their order."""
    for trial in trials:
        epochs = [evaluation.epoch for evaluation in trial.curve if evaluation.epoch > 0]
        wanted = [float(epoch + 1) for epoch in range(int(trial.hyperparameters["n_epochs"]))]
        if trial.state is TrialState.COMPLETE and epochs != wanted:
            yield f"trial {trial.number} has the epochs {epochs}, not {wanted}"


def processes_of(mark: str, root: Path) -> dict[int, str]:
    """Return the processes of a series with their command lines.

    A process has the mark in its environment, or works in the folder of the series: Ray's workers
    overwrite their environment with their title.
    """
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_marked = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if is_marked or (folder / "cwd").readlink().is_relative_to(root):
                name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if name:
                    found[int(folder.name)] = name
    return found


def main() -> int:
    """Run series until enough processes were killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.random_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--per-series", type=int, default=8, help="kills of one sweep")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first series")
    parser.add_argument("--seed", type=int, help="run only the series of this seed")
    parser.add_argument("--kind", choices=FILES, help="only sweeps of this kind")
    parser.add_argument("--keep", action="store_true", help="keep the folders of all series")
    options = parser.parse_args()
    began, total, wrong = time.monotonic(), Counter[str](), 0
    seed = options.first if options.seed is None else options.seed
    series_count = 0
    while total.total() < options.kills:
        root = Path(tempfile.mkdtemp(prefix="rk", dir="/tmp"))  # Ray's sockets need a short path
        series = Series(seed, root, options.kind)
        series.run(min(options.per_series, options.kills - total.total()))
        series_count += 1
        total += series.victims
        choices = dataclasses.replace(series.choices, text="")
        print(f"series {seed}: {dict(series.victims)} in {series.runs} runs, {choices}", flush=True)
        for fault in series.faults:
            kind = f" --kind {options.kind}" if options.kind else ""
            print(f"  FAULT {fault}\n  repeat: python -m tests.chaos.random_kills --seed {seed}{kind}", flush=True)
        wrong += bool(series.faults)
        if series.faults or options.keep:
            print(f"  folder: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
        if options.seed is not None:
            break
        seed += 1
    minutes = (time.monotonic() - began) / 60
    print(f"{total.total()} kills {dict(total)} in {series_count} series, {wrong} with a fault, {minutes:.1f} min")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
