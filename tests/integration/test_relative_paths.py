"""A relative path in the sweep file means the same in the planning process and in the workers.

Ray Tune is asked to change the folder of its workers, which machines of a cluster do anyway.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from user_environment import user_environment

from backends.local.model_source import BUILTIN

pytestmark = [pytest.mark.integration]

LOCAL = """\
name: relative
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 24, valid_examples: 12, test_examples: 12}
backend: {type: local, model: ./models/mine, device: cpu, pretraining_learning_rate: 1e-3}
space: {n_epochs: 1, batch_size: 8, learning_rate_multiplier: 0.05}
search: {trials: 1, scheduler: none}
objective: {maximize: valid_accuracy}
"""
PLUGIN = """\
name: relative
data: {checks: quick, source: data.jsonl, prompt: "{text}", completion: " {label}"}
backend: {type: paper, rules: rules.txt, more: [data.jsonl]}
space: {n_epochs: [1, 2]}
search: {sampler: grid, scheduler: none}
objective: {minimize: valid_loss}
"""
PAPER_BACKEND = '''\
from pathlib import Path

from coin_backend import CoinBackend, CoinOptions
from pydantic import FilePath

from backends import credentials
from backends.contract import BackendError, Failure, FailureKind


class PaperOptions(CoinOptions):
    rules: FilePath
    more: list[Path] = []


class PaperBackend(CoinBackend):
    """A backend with options that are paths, and with a secret in a file."""

    options_model = PaperOptions

    @classmethod
    def open(cls, options, workspace, placement):
        found = [options.rules.read_text(), options.more[0].is_file(), credentials.secret("PAPER_KEY")]
        if found != ["rules", True, "secret"]:
            raise BackendError(Failure(FailureKind.USER, f"found {found}"))
        return cls(options, workspace)
'''


def sweep(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sweeps.cli", *arguments],
        cwd=folder,
        env=user_environment(**{"RAY_CHDIR_TO_TRIAL_DIR": "1", **environment}),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def completed_trials(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    trials: list[dict[str, Any]] = json.loads(done.stdout)["trials"]
    assert {trial["state"] for trial in trials} == {"complete"}, trials
    return trials


@pytest.mark.trains
@pytest.mark.parametrize("base_models", [(), ("./models/mine", "models/other")])
def test_a_model_is_named_by_a_path_relative_to_the_current_folder(
    tmp_path: Path, base_models: tuple[str, ...]
) -> None:
    for name in ("mine", "other"):
        shutil.copytree(BUILTIN["builtin:tiny-lm"], tmp_path / "models" / name)
    (tmp_path / "relative.yaml").write_text(LOCAL)
    options = (
        f"--set=space.base_model={json.dumps(base_models)}",
        "--set=search.sampler=grid",
        "--set=search.trials=2",
    )
    done = sweep(tmp_path, "run", "relative.yaml", "--json", *(options if base_models else ()))
    trials = completed_trials(done)
    assert {trial["hyperparameters"].get("base_model") for trial in trials} == set(base_models or [None])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".sweep", "models", "relative.yaml"]
    # A later command may run in another folder.
    cleaned = sweep(tmp_path.parent, "--root", str(tmp_path / ".sweep"), "clean", "relative")
    assert cleaned.returncode == 0, cleaned.stderr
    again = sweep(tmp_path, "run", "relative.yaml", "--json", *(options if base_models else ()))
    assert len(completed_trials(again)) == len(trials), "the same sweep, not another one"


def test_a_plug_in_gets_absolute_paths_and_finds_its_key_file(tmp_path: Path) -> None:
    site, folder = tmp_path / "site", tmp_path / "work"
    info = site / "paper_backend-0.1.dist-info"
    info.mkdir(parents=True)
    folder.mkdir()
    shutil.copy(Path(__file__).parent / "plugin" / "coin_backend.py", site)
    (site / "paper_backend.py").write_text(PAPER_BACKEND)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: paper-backend\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[finesweep.backends]\npaper = paper_backend:PaperBackend\n")
    (folder / "rules.txt").write_text("rules")
    (folder / "key.txt").write_text("secret\n")
    rows = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(40)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "relative.yaml").write_text(PLUGIN)
    environment = {"PYTHONPATH": str(site), "PAPER_KEY_FILE": "key.txt"}
    assert len(completed_trials(sweep(folder, "run", "relative.yaml", "--json", **environment))) == 2
    [stored] = folder.glob(".sweep/sweeps/*/sweep.yaml")
    assert f"rules: {folder / 'rules.txt'}\n" in stored.read_text(), "so that `sweep clean` works from any folder"
    missing = sweep(folder, "check", "relative.yaml", "--set=backend.rules=absent.txt", **environment)
    assert missing.returncode == 2
    assert "--set backend.rules: `backend.rules`: path does not point to a file" in missing.stderr
