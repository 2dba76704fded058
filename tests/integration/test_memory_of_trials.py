"""A sweep over two models, one of which no machine can hold: it says so, and goes on."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from user_environment import user_environment

from backends.contract import FailureKind
from backends.local.model_source import BUILTIN
from sweeps.study.state import read_state
from sweeps.trials.trial import TrialState
from sweeps.workspace import Workspace

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1200)]

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise}\\n{hypothesis}\\n\\n###\\n\\n", completion: " {label}",
       train_examples: 40, valid_examples: 20, test_examples: 20}
backend: {type: local, device: cpu}
space: {n_epochs: 1, batch_size: 8, learning_rate: 0.001, method: lora, lora_rank: 1,
        base_model: ["builtin:tiny-lm", HUGE]}
search: {sampler: grid, scheduler: none, trials: 2, concurrency: 1}
objective: {minimize: valid_loss}
"""


def sweep(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Run `sweep` in its own process, because Ray and the libraries' loggers stay in a process."""
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.cli", *arguments],
        cwd=folder,
        env=user_environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_model_that_cannot_fit_is_a_finding_and_a_failed_trial(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    shutil.copytree(BUILTIN["builtin:tiny-lm"], huge)
    # The file announces 20 terabytes of weights and has none.
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1_000_000, 5_000_000], "data_offsets": [0, 0]}}).encode()
    (huge / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (tmp_path / "pairs.yaml").write_text(FILE.replace("HUGE", str(huge)), encoding="utf-8")

    code, out, err = sweep(tmp_path, "plan", "pairs.yaml", "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert plan["memory"]["bytes_per_trial"] < 2**30
    assert plan["memory"]["bytes_per_trial_at_most"] > 10 * 2**40
    [finding] = [finding for finding in plan["findings"] if "of memory" in finding["message"]]
    assert str(huge) in finding["message"]
    assert "before they start" in finding["hint"]

    code, _, err = sweep(tmp_path, "run", "pairs.yaml")
    assert code == 0, err
    trials = read_state(Workspace(tmp_path / ".sweep"), "pairs", None).trials
    states = {str(trial.hyperparameters["base_model"]): trial for trial in trials}
    assert states["builtin:tiny-lm"].state is TrialState.COMPLETE
    failed = states[str(huge)]
    assert (failed.state, failed.failure) == (TrialState.FAILED, FailureKind.OUT_OF_MEMORY)
    assert failed.reason.startswith("a run needs about")
    assert not failed.curve
