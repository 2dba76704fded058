"""`sweep logs NAME TRIAL`: what the program of a trial prints, while it runs and afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_runs import TRAINER, GatedRun, wait_for
from session_driver import FILE as FAKE_SWEEP
from session_driver import drive, open_session

pytestmark = pytest.mark.integration

SUPPORT = Path(__file__).parents[2] / "support"
TIMEOUT_S = 180.0

FILE = """\
name: printed
backend:
  type: command
  run: >-
    sh -c 'echo "the secret is $SOME_TOKEN"; exec {python} -S -E {trainer} --output {{output}} --lr {{lr}}
    --gate middle --gates {folder}'
  metrics: [output]
  hyperparameters: {{lr: {{choices: [0.1, 0.2]}}}}
search: {{sampler: grid, scheduler: none, trials: 2, concurrency: 1}}
objective: {{minimize: valid_loss}}
"""


class PrintingSweep:
    """A sweep of two trials, run without Ray. The program waits after its first evaluation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gates = GatedRun(folder, {})
        (folder / "sweep.yaml").write_text(FILE.format(python=sys.executable, trainer=TRAINER, folder=folder))
        hidden = ("SWEEP_", "MLFLOW_", "RAY_")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(hidden)},
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "SOME_TOKEN": "tk-abcdefgh-123",
        }
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *command: str) -> subprocess.Popen[str]:
        self.processes.append(
            subprocess.Popen(
                [sys.executable, *command],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return self.processes[-1]

    def run(self) -> subprocess.Popen[str]:
        return self.start(str(SUPPORT / "inline_sweep.py"), "sweep.yaml", ".sweep")

    def logs(self, *arguments: str) -> subprocess.Popen[str]:
        return self.start("-m", "sweeps.cli", "logs", "printed", *arguments)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return the exit code, and what was not yet read of the output and the messages."""
    assert process.stdout is not None
    assert process.stderr is not None
    return process.wait(TIMEOUT_S), process.stdout.read(), process.stderr.read()


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[PrintingSweep]:
    made = PrintingSweep(tmp_path)
    yield made
    made.gates.open_gate("middle")
    for process in made.processes:
        process.kill()
        process.communicate()


def test_the_output_of_a_trial_is_shown_and_followed(sweep: PrintingSweep) -> None:
    driver = sweep.run()
    wait_for(lambda: sweep.gates.has_reached("middle") or driver.poll() is not None, "the program waits", TIMEOUT_S)
    assert driver.poll() is None, ended(driver)

    code, output, messages = ended(sweep.logs("0"))
    assert (code, messages) == (0, "")
    assert output.startswith("the secret is <secret>\n")
    assert "'eval_loss'" in output.splitlines()[-1]
    assert ended(sweep.logs("0", "-n", "1"))[1] == output.splitlines(keepends=True)[-1]

    code, _, messages = ended(sweep.logs("9"))
    assert code == 2
    assert "sweep `printed` has no trial 9" in messages
    assert "Its trials are 0" in messages

    interrupted = sweep.logs("0", "--follow")
    assert interrupted.stdout is not None
    assert interrupted.stdout.readline() == "the secret is <secret>\n"
    interrupted.send_signal(signal.SIGINT)
    code, _, messages = ended(interrupted)
    assert (code, messages) == (0, "")

    followed = sweep.logs("0", "--follow")
    assert followed.stdout is not None
    first = followed.stdout.readline()
    sweep.gates.open_gate("middle")
    code, rest, messages = ended(followed)
    assert (code, messages) == (0, "")
    assert ended(driver)[0] == 0
    whole = ended(sweep.logs("0"))[1]
    assert whole == first + rest
    assert whole.startswith(output)
    assert whole.count("eval_loss") == 2
    assert "Its trials are 0, 1" in ended(sweep.logs("7"))[2]


def test_a_backend_without_programs_says_what_there_is(tmp_path: Path) -> None:
    root = tmp_path / ".sweep"
    session = open_session(root)
    drive(session)
    session.finish()
    folder = root / "sweeps" / "pairs"
    (folder / "plan.json").write_text("{}")
    (folder / "sweep.yaml").write_text(FAKE_SWEEP)
    answer = subprocess.run(
        [sys.executable, "-m", "sweeps.cli", "--root", str(root), "logs", "pairs", "0"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert answer.returncode == 1
    assert "of backend `fake`, which runs no program here" in answer.stderr
    assert "sweep logs pairs" in answer.stderr
