"""`sweep run` as a user has it: a process of its own, real Ray, real MLflow, interrupted and killed and resumed."""

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

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FILE = """\
name: pairs
data: {source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
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
        env={**{key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}, **environment},
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
    found: list[dict[str, object]] = json.loads(out)["trials"]
    return found


def mlflow_of(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / '.sweep' / 'mlflow.db'}")


def tracked(folder: Path) -> tuple[Run, list[Run]]:
    """The sweep's run in MLflow, and those of its trials."""
    client = mlflow_of(folder)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    [parent] = [each for each in runs if "mlflow.parentRunId" not in each.data.tags]
    return parent, [each for each in runs if "mlflow.parentRunId" in each.data.tags]


def wait_until(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def test_a_sweep_from_file_to_mlflow(folder: Path) -> None:
    code, out, err = sweep(folder, "run", "pairs.yaml", "--json")
    assert code == 0, err
    outcome = json.loads(out)
    assert outcome["end"] == "all trials are done"
    assert len(outcome["trials"]) == 6
    assert outcome["best"]["values"][0] == max(each["values"][0] for each in outcome["trials"])
    assert re.search(r"6 of 6 trials · best valid_accuracy", err), "plain lines where there is no terminal"
    for chatter in ("Traceback", "WARNING", "Trial status", "alembic", "[I "):
        assert chatter not in err

    client = mlflow_of(folder)
    parent, children = tracked(folder)
    assert {each.data.tags["mlflow.parentRunId"] for each in children} == {parent.info.run_id}
    assert len(children) == 6
    assert {each.info.status for each in children} == {"FINISHED"}
    by_key = {each["key"]: each for each in outcome["trials"]}
    for child in children:
        trial = by_key[child.data.tags["finesweep.trial_key"]]
        assert child.data.tags["verdict"] == trial["verdict"]["kind"]
        assert child.data.params["batch_size"] == str(trial["hyperparameters"]["batch_size"])
        assert child.data.metrics["objective"] == pytest.approx(trial["values"][0])
        history = client.get_metric_history(child.info.run_id, "valid_accuracy")
        assert len(history) == trial["hyperparameters"]["n_epochs"] + 1  # and the base model at step 0
        assert "learning_curve.png" in [each.path for each in client.list_artifacts(child.info.run_id)]
    assert {"sweep.yaml", "plan.json"} <= {each.path for each in client.list_artifacts(parent.info.run_id)}
    assert parent.inputs.dataset_inputs

    code, _, err = sweep(folder, "run", "pairs.yaml")
    assert code == 0
    assert "is complete" in err
    code, _, err = sweep(folder, "run", "pairs.yaml", "--set", "search.seed=8")
    assert code == 2
    assert "--fresh" in err


def test_ctrl_c_leaves_a_sweep_that_the_same_command_goes_on_with(folder: Path) -> None:
    process = start(folder, "run", "pairs.yaml", "--set", "backend.seconds_per_epoch=1.5")
    wait_until(lambda: (folder / ".sweep/sweeps/pairs/plan.json").exists() and bool(ended(folder)))
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err
    assert "the same command goes on where it stopped" in err
    before = {each["number"]: each["key"] for each in trials(folder)}
    assert any(each["state"] == "running" for each in trials(folder))
    shown = json.loads(sweep(folder, "status", "pairs", "--json")[1])
    assert not shown["running"]
    assert shown["states"]["interrupted"] >= 1

    code, _, err = sweep(folder, "run", "pairs.yaml", "--set", "backend.seconds_per_epoch=1.5")
    assert code == 0, err
    after = {each["number"]: each["key"] for each in trials(folder)}
    assert before.items() <= after.items()
    assert [each["state"] for each in trials(folder)] == ["complete"] * 6


def test_a_killed_sweep_is_resumed_without_a_trial_lost_or_doubled(folder: Path) -> None:
    process = start(folder, "run", "pairs.yaml")
    wait_until(lambda: (folder / ".sweep/sweeps/pairs/plan.json").exists() and len(ended(folder)) >= 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {each["number"]: each for each in trials(folder)}

    code, _, err = sweep(folder, "run", "pairs.yaml")
    assert code == 0, err
    after = {each["number"]: each for each in trials(folder)}
    assert len(after) == 6
    assert {each["state"] for each in after.values()} == {"complete"}
    for number, trial in before.items():
        assert after[number]["key"] == trial["key"]
        if trial["state"] == "complete":
            assert after[number] == {**trial, "model": after[number]["model"]}
    assert sum(each["model"] is not None for each in after.values()) == 3, "the best models are kept, the rest deleted"


def test_a_sweep_that_is_killed_after_its_trials_is_wound_up_and_can_go_on(folder: Path) -> None:
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
    assert [each.info.status for each in children] == ["FINISHED"] * (6 + 4)
    assert all("verdict" in each.data.tags for each in children)
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


def test_an_unreachable_tracking_server_is_known_before_anything_starts(folder: Path) -> None:
    code, _, err = sweep(folder, "run", "pairs.yaml", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert code == 1
    assert "127.0.0.1:9" in err
    assert "MLFLOW_TRACKING_URI" in err
    assert "starts:" not in err


def test_a_folder_that_cannot_be_written_is_known_before_anything_starts(folder: Path) -> None:
    (folder / "file").write_text("")
    code, _, err = sweep(folder, "--root", "file/below", "run", "pairs.yaml")
    assert code == 1
    assert "Traceback" not in err


def test_an_installed_plugin_is_swept(folder: Path, tmp_path: Path) -> None:
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
    found = json.loads(out)["trials"]
    assert len(found) == 6
    assert {each["state"] for each in found} == {"complete"}


def ended(folder: Path) -> list[str]:
    """The trials that the journal knows as ended, read as text: quick, and without disturbing anyone."""
    journal = (folder / ".sweep/sweeps/pairs/study.journal").read_text()
    return re.findall(r'\\"state\\": \\"complete\\"', journal)
