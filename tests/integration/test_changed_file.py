"""`sweep run` meets a sweep that ran with another file: what goes on, and what does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from user_environment import user_environment

pytestmark = pytest.mark.integration

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small}
space:
  n_epochs: [1, 2]
  batch_size: {low: 1, high: 8}
search: {sampler: random, scheduler: none, trials: 2, concurrency: 2}
objective: {maximize: valid_accuracy}
"""


def sweep(folder: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "sweeps.cli", *arguments],
        cwd=folder,
        env=user_environment(),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_trials_count_over_all_runs_and_another_space_is_shown_as_a_difference(tmp_path: Path) -> None:
    file = tmp_path / "pairs.yaml"
    file.write_text(FILE)
    code, out, err = sweep(tmp_path, "run", "pairs.yaml", "--json")
    assert (code, len(json.loads(out)["trials"])) == (0, 2), err

    file.write_text(FILE.replace("trials: 2", "trials: 4"))
    code, out, err = sweep(tmp_path, "run", "pairs.yaml", "--json")
    assert (code, len(json.loads(out)["trials"])) == (0, 4), err
    assert "search.trials: 2 -> 4" in err
    assert "2 of 4 trials are done" in err

    file.write_text(FILE.replace("high: 8", "high: 16").replace("trials: 2", "trials: 9"))
    code, _, err = sweep(tmp_path, "run", "pairs.yaml")
    assert code == 2
    assert "pairs.yaml:7: space.batch_size: " in err
    assert err.count("error:") == 1
    assert "Traceback" not in err
    code, out, err = sweep(tmp_path, "run", "pairs.yaml", "--fresh", "--json", "--set", "search.trials=1")
    assert (code, len(json.loads(out)["trials"])) == (0, 1), err
    assert "changed since the last run" not in err
