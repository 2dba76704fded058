"""Logs as the real libraries write them: a transformers TrainerState, and MLflow runs."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow_warnings import MLFLOW_WARNINGS
from transformers import TrainerState

from backends import codec
from backends.contract import Measured
from backends.training_logs import RunDetails, TrainingLogError, read
from sweeps.errors import SweepError, UserInputError
from sweeps.tracking import TrackedDataset, TrackedPart, Tracker, default_uri, run_curves
from sweeps.trials.trial import Trial, TrialState
from sweeps.verdicts.advice import Advice
from sweeps.verdicts.judge import judge
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = [
    pytest.mark.integration,
    # MLflow uses calls that newer SQLAlchemy deprecates, and leaves connections to the garbage
    # collector.
    *MLFLOW_WARNINGS,
]

VALID = (0.9, 0.7, 1.1, 1.4)


def test_a_trainer_state_of_transformers_is_judged(tmp_path: Path) -> None:
    state = TrainerState(epoch=4.0, global_step=40, max_steps=40, num_train_epochs=4, logging_steps=5)
    for step in range(5, 45, 5):
        state.log_history.append({"epoch": step / 10, "loss": 2 - step / 25, "grad_norm": 1.0, "step": step})
        if step % 10 == 0:
            loss = VALID[step // 10 - 1]
            state.log_history.append({"epoch": step / 10, "eval_loss": loss, "eval_runtime": 0.1, "step": step})
    state.log_history.append({"epoch": 4.0, "train_loss": 1.0, "train_runtime": 3.0, "total_flos": 1.0, "step": 40})
    file = tmp_path / "trainer_state.json"
    state.save_to_json(str(file))
    [imported] = read(file, RunDetails(valid_examples=5000))
    points = imported.curve.points
    assert [(point.epoch, point.step, point.valid_loss) for point in points] == [
        (n + 1.0, 10 * (n + 1), loss) for n, loss in enumerate(VALID)
    ]
    assert points[-1].train_loss == 2 - 40 / 25
    verdict = judge(imported.curve, Advice())
    assert (verdict.kind, verdict.onset_epoch, verdict.keep_epoch) == (VerdictKind.OVERFIT, 2.0, 2.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def client(root: Path) -> MlflowClient:
    return MlflowClient(default_uri(root))


def log(client: MlflowClient, values: dict[str, list[tuple[int, float]]], status: str = "FINISHED") -> str:
    existing = client.get_experiment_by_name("others")
    experiment = client.create_experiment("others") if existing is None else existing.experiment_id
    run = client.create_run(experiment).info.run_id
    for key, points in values.items():
        for step, value in points:
            client.log_metric(run, key, value, step=step)
    client.set_terminated(run, status)
    return str(run)


def test_a_run_of_the_transformers_callback_is_read(root: Path, client: MlflowClient) -> None:
    steps = [(10 * (n + 1), loss) for n, loss in enumerate(VALID)]
    run = log(
        client,
        {
            "epoch": [(step, step / 10) for step, _ in steps],
            "loss": [(step, 20 / step) for step, _ in steps],
            "eval_loss": steps,
            "train_loss": [(40, 1.0)],
        },
    )
    [imported] = run_curves.read(run, default_uri(root), RunDetails())
    assert (imported.axis, imported.curve.ended) == ("epoch", "complete")
    assert [(point.epoch, point.valid_loss, point.train_loss) for point in imported.curve.points] == [
        (step / 10, loss, 20 / step) for step, loss in steps
    ]


def test_nan_and_infinity_survive_the_database(root: Path, client: MlflowClient) -> None:
    for value in (math.nan, math.inf):
        run = log(client, {"loss": [(0, 1.0), (1, 2.0)], "val_loss": [(0, 1.0), (1, value)]}, "FAILED")
        [imported] = run_curves.read(run, default_uri(root), RunDetails())
        assert (imported.axis, imported.curve.baseline, imported.curve.ended) == ("step", None, "failed")
        assert repr(imported.curve.points[1].valid_loss) == repr(value)
        assert judge(imported.curve, Advice()).kind is VerdictKind.DIVERGED


def test_the_mlflow_run_of_a_trial_gives_the_curve_of_the_trial(root: Path) -> None:
    measured = [
        Measured(
            10 * n,
            float(n),
            {"train_loss": 3 - n / 2, "valid_loss": 3.1 - n / 2, "valid_accuracy": n / 4},
            "evaluation",
        )
        for n in range(4)
    ]
    steps = [Measured(s, s / 10, {"batch_loss": 9.0, "learning_rate": 1e-3}, "step") for s in range(1, 30)]
    trial = Trial(0, "key", "m", {"n_epochs": 3}, 1, started_at=1_700_000_000.0)
    part = TrackedPart("a" * 64, 10)
    tracker = Tracker.connect(default_uri(root), "ours", root / "artifacts")
    parent = tracker.start("s", "snli", {}, {}, TrackedDataset("d", "d", {"training": part}), {})
    tracker.trial_started(trial)
    tracker.events_received(trial.key, 0, sorted([*measured, *steps], key=lambda event: event.step))
    verdict = FitVerdict(VerdictKind.HEALTHY, "it learned")
    done = replace(trial, state=TrialState.COMPLETE, curve=tuple(measured), verdict=verdict)
    tracker.trial_ended(done)
    tracker.finish("FINISHED", {"valid_accuracy": 0.75}, {}, {}, None)
    client = MlflowClient(default_uri(root))
    experiment = client.get_experiment_by_name("ours")
    assert experiment is not None
    [child] = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    [imported] = run_curves.read(child.info.run_id, default_uri(root), RunDetails())
    [direct] = read(json.dumps([codec.to_json(done)]).encode())
    assert imported.curve == direct.curve
    with pytest.raises(TrainingLogError, match="only one evaluation"):
        run_curves.read(parent, default_uri(root), RunDetails())


def test_a_run_that_mlflow_does_not_have_is_an_error(root: Path, client: MlflowClient, tmp_path: Path) -> None:
    run = log(client, {})
    with pytest.raises(TrainingLogError, match="no metrics"):
        run_curves.read(run, default_uri(root), RunDetails())
    for run_id, message in (("0" * 32, "not found"), ("no/such run", "MLflow refused the request")):
        with pytest.raises(UserInputError, match=message):
            run_curves.read(run_id, default_uri(root), RunDetails())
    with pytest.raises(SweepError, match="no MLflow database"):
        run_curves.read(run, default_uri(tmp_path), RunDetails())
    assert not list(tmp_path.iterdir()), "reading creates no database"


def test_the_command_judges_an_mlflow_run_without_torch_and_ray(root: Path, client: MlflowClient) -> None:
    steps = [(10 * (n + 1), loss) for n, loss in enumerate(VALID)]
    run = log(client, {"loss": [(step, 20 / step) for step, _ in steps], "val_loss": steps})
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as database:
        before = database.execute("SELECT count(*) FROM runs").fetchone()
    script = (
        "import sys\nfrom sweeps.cli import main as cli\nsys.argv = ['sweep', *sys.argv[1:]]\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    code = end.code\n"
        "loaded = {'torch', 'ray', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {loaded}' if loaded else code)\n"
    )
    arguments = ["--root", str(root), "fit", f"mlflow:{run}", "--mlflow", run, "--valid-examples", "5000", "--json"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [judged["verdict"] for judged in json.loads(done.stdout)] == ["overfit", "overfit"]
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == before
