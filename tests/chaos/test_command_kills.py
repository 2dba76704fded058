"""Real sweeps of the command backend, killed while their trials are in every phase at once.

Six programs wait at six gates: before they do anything, before the first number, after an
evaluation, in the second epoch, and at two moments while a checkpoint is written. One kill then
meets all phases.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_runs import EPOCHS, GatedRun, kill, wait_for
from mlflow_equality import mlflow_differences

from sweeps.study.stored_study import StoredStudy, read_study
from sweeps.trials.trial import Trial, TrialState
from sweeps.workspace import Workspace
from tests.chaos.random_kills import MARK, processes_of

pytestmark = [pytest.mark.integration, pytest.mark.slow]

GATES = ("start", "before-number", "middle", "loop", "checkpoint", "torn-checkpoint")
TRAINER = Path(__file__).parents[1] / "support" / "programs" / "gated_trainer.py"
TIMEOUT_S = 300.0

FILE = """\
name: gated
backend:
  type: command
  run: >-
    {python} -S -E {trainer} --lr {{learning_rate}} --epochs {{n_epochs}} --gate {{gate}} --gates {folder}
    --output {{output}} --seed {{seed}} --behaviour family
  metrics: [output]
  checkpoints: "{{output}}/checkpoint-*"
  resume: {resume}
  grace_s: 2
  abandoned_after_s: {abandoned_after_s}
  hyperparameters:
    learning_rate: {{choices: [0.1]}}
    n_epochs: {{choices: [{epochs}]}}
    gate: {{choices: [{gates}]}}
search: {{sampler: grid, scheduler: none, trials: 6, concurrency: 6, retries: 3}}
resources: {{cpus_per_trial: 0.1}}
objective: {{minimize: valid_loss}}
"""


class GatedSweep:
    """A sweep whose trials wait at the gates, in a folder with a short path for Ray's sockets."""

    def __init__(self, folder: Path, *, abandoned_after_s: float = 120.0, resume: bool = True) -> None:
        self.folder = folder
        self.run = GatedRun(folder, {})
        text = FILE.format(
            python=sys.executable,
            trainer=TRAINER,
            folder=folder,
            epochs=EPOCHS,
            gates=", ".join(GATES),
            abandoned_after_s=abandoned_after_s,
            resume="'--resume {checkpoint}'" if resume else "null",
        )
        (folder / "gated.yaml").write_text(text)
        (folder / "t").mkdir()
        hidden = ("SWEEP_", "MLFLOW_", "RAY_")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(hidden)},
            MARK: folder.name,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TMPDIR": str(folder / "t"),
        }
        self.starts = 0
        self.driver: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start `sweep run`."""
        self.starts += 1
        with self.output.open("wb") as output:
            self.driver = subprocess.Popen(
                [sys.executable, "-m", "sweeps.cli", "run", "gated.yaml"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.driver

    @property
    def output(self) -> Path:
        """What the last `sweep run` has printed."""
        return self.folder / f"output-{self.starts}.txt"

    def run_to_the_end(self) -> None:
        """Run the sweep, or resume it, until it ends well."""
        self.wait(self.start(), 0)

    def wait(self, driver: subprocess.Popen[bytes], *codes: int) -> int:
        """Wait for the end of a `sweep run`, which must have one of the exit codes."""
        try:
            code = driver.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
            raise
        assert code in codes, self.output.read_text()
        return code

    def wait_at_the_gates(self, driver: subprocess.Popen[bytes]) -> None:
        """Wait until every trial waits at its gate."""

        def all_wait() -> bool:
            assert driver.poll() is None, self.output.read_text()
            return all(self.run.has_reached(gate) for gate in GATES)

        wait_for(all_wait, "every trial waits at its gate", TIMEOUT_S)

    def open_gates(self) -> None:
        """Let all programs go on."""
        for gate in GATES:
            self.run.open_gate(gate)

    def processes(self, *words: str) -> list[int]:
        """Return all processes of the sweep, or those with one of the words in their command."""
        found = processes_of(self.environment[MARK], self.folder)
        return [pid for pid, line in found.items() if not words or any(word in line for word in words)]

    @property
    def supervisors(self) -> list[int]:
        """The processes that watch the programs."""
        return self.processes("command/supervisor.py")

    @property
    def study(self) -> StoredStudy:
        """What the study has recorded."""
        workspace = Workspace(self.folder / ".sweep")
        return read_study(workspace.study_file("gated"), "gated")

    def check_end(self) -> Counter[str]:
        """Check the ended sweep, and return how often the program started at each gate."""
        study = self.study
        assert {str(trial.hyperparameters["gate"]) for trial in study.trials} == set(GATES)
        for trial in study.trials:
            assert trial.state is TrialState.COMPLETE, trial
            assert epochs_of(trial) == [float(epoch + 1) for epoch in range(EPOCHS)], trial
        assert mlflow_differences(self.folder / ".sweep", "gated") == []
        wait_for(lambda: not self.processes(), "all processes end")
        assert "Traceback" not in self.output.read_text()
        keys = {trial.key: str(trial.hyperparameters["gate"]) for trial in study.attempts}
        return Counter(keys[Path(start["output"]).parent.name] for start in self.run.starts)

    def end_all(self) -> None:
        """Kill whatever is left."""
        while left := self.processes():
            for pid in left:
                kill(pid)
            time.sleep(0.05)


def epochs_of(trial: Trial) -> list[float]:
    return [evaluation.epoch for evaluation in trial.curve if evaluation.epoch > 0]


@contextlib.contextmanager
def gated_sweep(folder: Path, **options: object) -> Iterator[GatedSweep]:
    sweep = GatedSweep(folder, **options)  # type: ignore[arg-type]
    try:
        yield sweep
    finally:
        sweep.end_all()
        if sweep.driver is not None:
            sweep.driver.wait()


ONCE = Counter(dict.fromkeys(GATES, 1))


@pytest.mark.parametrize("victim", ["driver", "driver and workers", "everything but the programs"])
def test_the_next_run_adopts_the_programs_of_a_killed_one(short_folder: Path, victim: str) -> None:
    with gated_sweep(short_folder) as sweep:
        driver = sweep.start()
        sweep.wait_at_the_gates(driver)
        programs = set(sweep.supervisors)
        assert len(programs) == len(GATES)
        doomed = {
            "driver": [driver.pid],
            "driver and workers": [driver.pid, *sweep.processes("TrialRunner")],
            "everything but the programs": [driver.pid, *sweep.processes("ray::", "raylet", "gcs_server", "/ray/")],
        }[victim]
        for pid in doomed:
            kill(pid)
        driver.wait()
        assert set(sweep.supervisors) == programs
        sweep.open_gates()
        sweep.run_to_the_end()
        assert sweep.check_end() == ONCE


@pytest.mark.parametrize("victim", ["TrialRunner", "raylet/raylet", "gcs_server"])
def test_programs_survive_their_workers_and_ray(short_folder: Path, victim: str) -> None:
    with gated_sweep(short_folder) as sweep:
        driver = sweep.start()
        sweep.wait_at_the_gates(driver)
        for pid in sweep.processes(victim):
            kill(pid)
        sweep.open_gates()
        if sweep.wait(driver, 0, *([] if victim == "TrialRunner" else [1])):  # a lost Ray ends the sweep
            sweep.run_to_the_end()
        assert sweep.check_end() == ONCE


def test_programs_of_a_killed_sweep_end_by_themselves(short_folder: Path) -> None:
    with gated_sweep(short_folder, abandoned_after_s=3.0) as sweep:
        driver = sweep.start()
        sweep.wait_at_the_gates(driver)
        for pid in sweep.processes("ray::", "raylet", "gcs_server", "/ray/", "sweeps.cli"):
            kill(pid)
        driver.wait()
        wait_for(lambda: not sweep.processes(), "all processes end")
        sweep.open_gates()
        sweep.run_to_the_end()
        assert sweep.check_end() == Counter(dict.fromkeys(GATES, 2))


def test_killed_supervisors_cost_no_trial_and_leave_no_process(short_folder: Path) -> None:
    """A program with a checkpoint goes on from it; the others come again as a retry."""
    with gated_sweep(short_folder) as sweep:
        driver = sweep.start()
        sweep.wait_at_the_gates(driver)
        for pid in sweep.supervisors:
            kill(pid)
        sweep.open_gates()
        sweep.wait(driver, 0)
        assert sweep.check_end() == Counter(dict.fromkeys(GATES, 2))
        failed = [trial for trial in sweep.study.attempts if trial.state is TrialState.FAILED]
        retried = {str(trial.hyperparameters["gate"]) for trial in failed}
        # A supervisor that dies before it has noted the start of its program leaves no loss.
        assert set(GATES) - {"loop", "start"} <= retried <= set(GATES) - {"loop"}
        first = {start["first"] for start in sweep.run.starts}
        assert first == {0, 1}


@pytest.mark.parametrize("resume", [True, False])
def test_ctrl_c_frees_the_machine_and_the_next_run_continues(short_folder: Path, resume: bool) -> None:
    with gated_sweep(short_folder, resume=resume) as sweep:
        driver = sweep.start()
        sweep.wait_at_the_gates(driver)
        driver.send_signal(signal.SIGINT)
        sweep.wait(driver, 130)
        wait_for(lambda: not sweep.processes(), "all processes end")
        assert not any(trial.state.ended for trial in sweep.study.trials)
        sweep.open_gates()
        sweep.run_to_the_end()
        assert sweep.check_end() == Counter(dict.fromkeys(GATES, 2))
        ends = sorted((sweep.folder / ".sweep/sweeps/gated/programs").glob("*/exit.json"))
        assert {json.loads(end.read_text())["cause"] for end in ends} == {"ended"}


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for the names of Ray's sockets; deleted after success."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="ck", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
