"""`sweep run` in its own process, with real Ray and MLflow: interrupted, killed, resumed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_warnings import MLFLOW_WARNINGS
from user_environment import STORAGE_UNDER_TEST, user_environment

from sweeps.errors import SweepError
from sweeps.study.state import read_state
from sweeps.trials.trial import TrialState
from sweeps.workspace import Workspace

pytestmark = [
    pytest.mark.integration,
    *MLFLOW_WARNINGS,
]

FILE = """\
name: pairs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60, test_examples: 30}
backend: {type: fake, model: fake-small, seconds_per_epoch: 0.6}
space:
  n_epochs: [2, 3]
  batch_size: {low: 1, high: 8}
search: {sampler: random, scheduler: none, trials: 6, concurrency: 2}
objective: {maximize: valid_accuracy}
"""
PLUGIN = Path(__file__).parent / "plugin" / "coin_backend.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pairs.yaml").write_text(FILE)
    return tmp_path


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps.cli", *arguments],
        cwd=folder,
        env=user_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def sweep(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    return finish(start(folder, *arguments, **environment))


def trials(folder: Path) -> list[dict[str, object]]:
    code, out, err = sweep(folder, "status", "pairs", "--json")
    assert code == 0, err
    listed: list[dict[str, object]] = json.loads(out)["trials"]
    return listed


def mlflow_of(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / '.sweep' / 'mlflow.db'}")


def tracked(folder: Path) -> tuple[Run, list[Run]]:
    """Return the MLflow run of the sweep, and the runs of its trials."""
    client = mlflow_of(folder)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return parent, [run for run in runs if "mlflow.parentRunId" in run.data.tags]


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool], timeout_s: float = 120) -> None:
    """Wait until `condition` holds while `process` runs.

    Fails at once if the process ends before.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"the command ended early: {process.communicate()}"
        assert time.monotonic() < deadline, f"the condition did not hold within {timeout_s} s"
        time.sleep(0.1)


def test_a_sweep_from_file_to_mlflow(folder: Path) -> None:
    code, out, err = sweep(folder, "run", "pairs.yaml", "--json", "--set", "data.checks=full")
    assert code == 0, err
    assert "to beat: valid_accuracy" in err
    outcome = json.loads(out)
    assert outcome["end"] == "all trials are done"
    assert outcome["baselines"]["kind"]
    assert len(outcome["trials"]) == 6
    assert outcome["best"]["values"][0] == max(trial["values"][0] for trial in outcome["trials"])
    assert re.search(r"6 of 6 trials · best valid_accuracy", err), "plain lines if there is no terminal"
    for chatter in ("Traceback", "WARNING", "Trial status", "alembic", "[I "):
        assert chatter not in err

    client = mlflow_of(folder)
    parent, children = tracked(folder)
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert len(children) == 6
    assert {child.info.status for child in children} == {"FINISHED"}
    by_key = {trial["key"]: trial for trial in outcome["trials"]}
    for child in children:
        trial = by_key[child.data.tags["finesweep.trial_key"]]
        assert child.data.tags["verdict"] == trial["verdict"]["kind"]
        assert child.data.params["batch_size"] == str(trial["hyperparameters"]["batch_size"])
        assert child.data.metrics["objective"] == pytest.approx(trial["values"][0])
        history = client.get_metric_history(child.info.run_id, "valid_accuracy")
        # one evaluation per epoch, and one of the base model at step 0
        assert len(history) == trial["hyperparameters"]["n_epochs"] + 1
        assert "learning_curve.png" in [artifact.path for artifact in client.list_artifacts(child.info.run_id)]
    artifacts = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"sweep.yaml", "plan.json", "report.html", "data-report.html"} <= artifacts
    assert 0 < parent.data.metrics["baseline.tfidf.valid_accuracy"] < 1
    assert parent.data.tags["baseline.comparison"] == outcome["baselines"]["kind"]
    assert "few-per-class 1" in parent.data.tags["data.findings"]
    assert parent.data.tags["data.findings.text"]
    assert parent.inputs.dataset_inputs

    code, _, err = sweep(folder, "run", "pairs.yaml")
    assert code == 0
    assert "is complete" in err
    code, _, err = sweep(folder, "run", "pairs.yaml", "--set", "search.seed=8")
    assert code == 2
    assert "--fresh" in err


def test_the_same_command_resumes_a_sweep_after_ctrl_c(folder: Path) -> None:
    process = start(folder, "run", "pairs.yaml", "--set", "backend.seconds_per_epoch=1.5")
    wait_until(process, lambda: (folder / ".sweep/sweeps/pairs/plan.json").exists() and bool(completed_trials(folder)))
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err
    assert "Run the same command again: running trials resume where they stopped" in err
    before = {trial["number"]: trial["key"] for trial in trials(folder)}
    assert any(trial["state"] == "running" for trial in trials(folder))
    status = json.loads(sweep(folder, "status", "pairs", "--json")[1])
    assert not status["running"]
    assert status["states"]["interrupted"] >= 1

    code, _, err = sweep(folder, "run", "pairs.yaml", "--set", "backend.seconds_per_epoch=1.5")
    assert code == 0, err
    after = {trial["number"]: trial["key"] for trial in trials(folder)}
    assert before.items() <= after.items()
    assert [trial["state"] for trial in trials(folder)] == ["complete"] * 6


def test_a_killed_sweep_resumes_and_no_trial_is_lost_or_repeated(folder: Path) -> None:
    process = start(folder, "run", "pairs.yaml")
    wait_until(
        process, lambda: (folder / ".sweep/sweeps/pairs/plan.json").exists() and len(completed_trials(folder)) >= 2
    )
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {trial["number"]: trial for trial in trials(folder)}

    code, _, err = sweep(folder, "run", "pairs.yaml")
    assert code == 0, err
    after = {trial["number"]: trial for trial in trials(folder)}
    assert len(after) == 6
    assert {trial["state"] for trial in after.values()} == {"complete"}
    for number, trial in before.items():
        assert after[number]["key"] == trial["key"]
        if trial["state"] == "complete":
            assert after[number] == {**trial, "model": after[number]["model"]}
    kept_models = sum(trial["model"] is not None for trial in after.values())
    assert kept_models == 3, "the sweep keeps the three best models and deletes the others"


def test_a_sweep_killed_during_its_finals_is_finished_by_the_next_run_and_can_take_more_trials(folder: Path) -> None:
    options = ("--set", "finals={candidates: 2, seeds: 2}", "--set", "backend.seconds_per_epoch=0")
    process = start(folder, "run", "pairs.yaml", *options)
    assert process.stderr is not None
    assert any(line.startswith("comparing the finalists") for line in process.stderr)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)

    code, _, err = sweep(folder, "run", "pairs.yaml", *options)
    assert code == 0, err
    parent, children = tracked(folder)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["finals.mean"] > 0
    assert [child.info.status for child in children] == ["FINISHED"] * (6 + 4)
    assert all("verdict" in child.data.tags for child in children)
    assert (folder / ".sweep/sweeps/pairs/report.html").exists()
    code, _, err = sweep(folder, "run", "pairs.yaml", *options)
    assert code == 0
    assert "is complete" in err

    code, out, err = sweep(folder, "run", "pairs.yaml", *options, "--set", "search.trials=12", "--json")
    assert code == 0, err
    outcome = json.loads(out)
    assert len(outcome["trials"]) == 12
    parent, children = tracked(folder)
    assert len(children) == 12 + len(outcome["repeats"])
    assert parent.data.metrics["trials"] == 12


def test_an_unreachable_tracking_server_is_an_error_before_any_trial_starts(folder: Path) -> None:
    code, _, err = sweep(folder, "run", "pairs.yaml", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert code == 1
    assert "127.0.0.1:9" in err
    assert "MLFLOW_TRACKING_URI" in err
    assert "starts:" not in err


def test_an_unwritable_folder_is_an_error_without_a_traceback(folder: Path) -> None:
    (folder / "file").write_text("")
    code, _, err = sweep(folder, "--root", "file/below", "run", "pairs.yaml")
    assert code == 1
    assert "Traceback" not in err


def test_a_sweep_runs_on_an_installed_plugin_backend(folder: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "coin_backend-0.3.dist-info"
    info.mkdir(parents=True)
    shutil.copy(PLUGIN, site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: coin-backend\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("[finesweep.backends]\ncoin = coin_backend:CoinBackend\n")
    file = FILE.replace("{type: fake, model: fake-small, seconds_per_epoch: 0.6}", "{type: coin}")
    file = file.replace("batch_size: {low: 1, high: 8}", "bend: {low: 0.1, high: 0.9}")
    file = file.replace("maximize: valid_accuracy", "minimize: valid_loss")
    (folder / "pairs.yaml").write_text(file.replace("concurrency: 2", "concurrency: 1"))
    code, out, err = sweep(folder, "run", "pairs.yaml", "--json", PYTHONPATH=str(site))
    assert code == 0, err
    plugin_trials = json.loads(out)["trials"]
    assert len(plugin_trials) == 6
    assert {trial["state"] for trial in plugin_trials} == {"complete"}


def completed_trials(folder: Path) -> list[str]:
    """Return one entry per completed trial in the study.

    Reading a journal as text is fast and takes no lock.
    """
    if storage := os.environ.get(STORAGE_UNDER_TEST):
        try:
            trials = read_state(Workspace(folder / ".sweep"), "pairs", storage).trials
        except SweepError:  # the sweep has not begun
            return []
        return [trial.key for trial in trials if trial.state is TrialState.COMPLETE]
    journal = (folder / ".sweep/sweeps/pairs/study.journal").read_text()
    return re.findall(r'\\"state\\": ?\\"complete\\"', journal)
