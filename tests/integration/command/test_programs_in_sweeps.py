"""Sweeps without Ray whose trials are programs: interrupted, failing, diverging, cleaned up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_runs import TRAINER, GatedRun, kill, wait_for

from backends.contract import FailureKind
from sweeps.study.stored_study import StoredStudy, read_study
from sweeps.trials.trial import TrialState
from sweeps.workspace import Workspace

pytestmark = pytest.mark.integration

SUPPORT = Path(__file__).parents[2] / "support"
TIMEOUT_S = 180.0

FILE = """\
name: programs
backend:
  type: command
  run: >-
    {python} -S -E {trainer} --lr {{lr}} --output {{output}} --epochs {epochs} --epoch-seconds 0.2
    --gate {gate} --gates {folder} --behaviour {{behaviour}}
  metrics: [output]
  checkpoints: "{{output}}/checkpoint-*"
  resume: "--resume {{checkpoint}}"
  grace_s: 2
  hyperparameters: {{lr: {{choices: [{rates}]}}, behaviour: {{choices: [{behaviours}]}}}}
search: {{sampler: grid, scheduler: none, trials: 2, concurrency: 2, retries: 1}}
objective: {{minimize: valid_loss{target}}}
"""


class ProgramSweep:
    """A sweep of two trials in a folder, which also has the gates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gates = GatedRun(folder, {})
        self.drivers: list[subprocess.Popen[str]] = []

    def write(self, *behaviours: str, gate: str = "none", epochs: int = 2, target: float | None = None) -> None:
        """Write the sweep file: a trial for each of two behaviours, or two trials for one."""
        file = FILE.format(
            python=sys.executable,
            trainer=TRAINER,
            folder=self.folder,
            gate=gate,
            epochs=epochs,
            target="" if target is None else f", target: {target}",
            behaviours=", ".join(behaviours),
            rates="0.1, 0.2" if len(behaviours) == 1 else "0.1",
        )
        (self.folder / "sweep.yaml").write_text(file)

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(SUPPORT / "inline_sweep.py"), "sweep.yaml", ".sweep"]
        self.drivers.append(
            subprocess.Popen(
                command, cwd=self.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
        return self.drivers[-1]

    def run(self, code: int) -> str:
        return ended(self.start(), code)

    def clean(self, *options: str) -> list[dict[str, object]]:
        command = [sys.executable, "-m", "sweeps.cli", "clean", "programs", "--json", *options]
        answer = subprocess.run(
            command, cwd=self.folder, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert answer.returncode == 0, answer.stderr
        return list(json.loads(answer.stdout)["items"])

    @property
    def processes(self) -> dict[int, str]:
        """The supervisors, programs, and what these have started."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                variables = (folder / "environ").read_bytes()
            except OSError:
                continue
            is_program = f"{self.folder}/.sweep" in line or f"FINESWEEP_RUN={self.folder}/".encode() in variables
            if is_program and "inline_sweep" not in line:
                found[int(folder.name)] = line
        return found

    @property
    def study(self) -> StoredStudy:
        workspace = Workspace(self.folder / ".sweep")
        return read_study(workspace.study_file("programs"), "programs")


def environment() -> dict[str, str]:
    hidden = ("SWEEP_", "MLFLOW_", "RAY_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return {**inherited, "PYTHONPATH": str(Path(__file__).parents[3])}


def ended(driver: subprocess.Popen[str], code: int) -> str:
    output, _ = driver.communicate(timeout=TIMEOUT_S)
    assert driver.returncode == code, output
    assert "Traceback" not in output
    return output


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[ProgramSweep]:
    """A sweep, all of whose processes are ended after the test."""
    made = ProgramSweep(tmp_path)
    yield made
    for driver in made.drivers:
        driver.kill()
        driver.communicate()
    while left := made.processes:
        for pid in left:
            kill(pid)


def test_ctrl_c_ends_the_programs_and_the_next_run_continues_them(sweep: ProgramSweep) -> None:
    sweep.write("family", gate="loop")
    driver = sweep.start()
    wait_for(lambda: len(sweep.gates.starts) == 2 and sweep.gates.has_reached("loop"), "both train", TIMEOUT_S)
    driver.send_signal(signal.SIGINT)
    ended(driver, 130)
    wait_for(lambda: not sweep.processes, "all processes end")
    assert [trial.state for trial in sweep.study.trials] == [TrialState.RUNNING, TrialState.RUNNING]
    sweep.gates.open_gate("loop")
    sweep.run(0)
    assert [trial.state for trial in sweep.study.trials] == [TrialState.COMPLETE, TrialState.COMPLETE]
    assert len(sweep.gates.starts) == 4
    wait_for(lambda: not sweep.processes, "all processes end")


def test_a_loss_that_is_not_finite_is_a_diverged_trial(sweep: ProgramSweep) -> None:
    sweep.write("diverges")
    sweep.run(0)
    for trial in sweep.study.trials:
        assert trial.verdict is not None
        assert trial.verdict.kind.value == "diverged"
    assert not sweep.processes


@pytest.mark.parametrize(
    ("behaviour", "kind"), [("out-of-memory", FailureKind.OUT_OF_MEMORY), ("bug", FailureKind.BUG)]
)
def test_a_failed_program_is_a_failed_trial_with_its_reason(
    sweep: ProgramSweep, behaviour: str, kind: FailureKind
) -> None:
    sweep.write(behaviour, "good")
    sweep.run(0)
    trials = {(trial.hyperparameters["behaviour"], trial.state): trial for trial in sweep.study.attempts}
    failed = trials[behaviour, TrialState.FAILED]
    assert failed.failure is kind
    assert "program" in failed.reason
    assert "\n" not in failed.reason


def test_a_trial_that_reaches_the_target_is_stopped_and_keeps_its_best_state(sweep: ProgramSweep) -> None:
    sweep.write("family", epochs=500, target=1.3)  # reached in the third epoch
    sweep.run(0)
    best = min((trial for trial in sweep.study.trials if trial.values), key=lambda trial: trial.values or ())
    assert best.state is TrialState.STOPPED
    assert best.values is not None
    assert best.values[0] <= 1.3
    assert best.model is not None
    assert (Path(best.model) / "state.json").exists()
    wait_for(lambda: not sweep.processes, "all processes end")


def test_cleaning_up_a_killed_sweep_ends_its_orphans_and_keeps_what_resumes(sweep: ProgramSweep) -> None:
    sweep.write("family", gate="loop")
    driver = sweep.start()
    wait_for(lambda: len(sweep.gates.starts) == 2 and sweep.gates.has_reached("loop"), "both train", TIMEOUT_S)
    driver.kill()
    driver.wait()
    items = sweep.clean()
    assert {item["kind"]: item["goes"] for item in items} == {"running program": False, "output": False}
    for pid, line in sweep.processes.items():
        if "supervisor.py" in line:
            kill(pid)
    wait_for(lambda: not any("supervisor.py" in line for line in sweep.processes.values()), "the supervisors end")
    assert sweep.processes
    items = sweep.clean("--yes")
    assert {item["kind"]: item["goes"] for item in items} == {"orphaned processes": True, "output": False}
    assert not sweep.processes
    sweep.gates.open_gate("loop")
    sweep.run(0)
    assert [trial.state for trial in sweep.study.trials] == [TrialState.COMPLETE, TrialState.COMPLETE]
    outputs = sweep.clean("--all", "--yes")
    assert outputs
    assert sweep.clean() == []
