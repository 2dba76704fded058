"""Runs written in groups, into MLflow's tables, equal the runs that MLflow's client writes."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_warnings import MLFLOW_WARNINGS

from backends.contract import Charged, Event, Finished, Handle, Measured, Queued, Started
from sweeps.tracking import TrackedDataset, TrackedPart, Tracker, default_uri, group_writer, local_database
from sweeps.trials.trial import Spend, Trial, TrialState
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = [
    pytest.mark.integration,
    *MLFLOW_WARNINGS,
]

DATA = TrackedDataset(
    "builtin:nli",
    "builtin:nli, seed 7",
    {"training": TrackedPart("a" * 64, 2000), "validation": TrackedPart("b" * 64, 500)},
)


def trial_of(number: int) -> Trial:
    return Trial(
        number,
        f"key-{number}",
        "tiny",
        {"n_epochs": 3, "learning_rate": 2e-4, "method": "lora", "text": "x" * 9000},
        seed=11,
        started_at=1_700_000_000.0 + number,
        handle=Handle("fake", f"job-{number}"),
    )


def events_of(number: int) -> list[Event]:
    losses = (2.0, 1.5, math.nan, -math.inf, 1.0)
    measured = [
        Measured(10 * epoch, float(epoch), {"valid_loss": loss, "odd key=?": number / 3}, "evaluation")
        for epoch, loss in enumerate(losses)
    ]
    return [Queued(), Started({"n_epochs": 3, "device": "cpu"}), *measured, Charged(None, 1000), Finished("m")]


def ended(trial: Trial, state: TrialState) -> Trial:
    return dataclasses.replace(
        trial,
        state=state,
        reason="trained to the end",
        values=(0.25 + trial.number,),
        best_epoch=3.0,
        verdict=FitVerdict(VerdictKind.OVERFIT, "y" * 9000, "lower n_epochs", onset_epoch=2.0),
        spend=Spend(0.5, 1000, 0.125),
        ended_at=1_700_000_100.0,
    )


def track_sweep(root: Path, pause: bool) -> None:
    """Track three trials; with `pause`, each in several writes."""
    tracker = Tracker.connect(default_uri(root), "snli", root / "artifacts")
    tracker.start("sweep-1", "snli", {"sampler": "tpe"}, {"backend": "fake"}, DATA, {"sweep.yaml": "name: snli\n"})
    for number, state in enumerate((TrialState.COMPLETE, TrialState.STOPPED, TrialState.FAILED)):
        trial, events = trial_of(number), events_of(number)
        tracker.trial_started(trial)
        for first in range(0, len(events), 2):
            tracker.events_received(trial.key, first, events[first : first + 2])
            while pause and tracker.lacking:
                pass
        tracker.trial_ended(ended(trial, state), {"learning_curve.png": lambda: b"plot"})
    tracker.trial_started(trial_of(3))
    tracker.finish("FINISHED", {"valid_loss": 0.5}, {"end": "done"}, {}, None)
    assert (tracker.problems, tracker.lacking) == ((), ())


def shown(root: Path) -> dict[str, Any]:
    """Everything that MLflow shows, without what is drawn by chance or is the time of writing."""
    client = MlflowClient(default_uri(root))
    experiment = client.get_experiment_by_name("snli")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [run for run in runs if run.info.run_name == "snli"]
    return {run.info.run_name: _as_plain(client, run, parent) for run in runs}


def _as_plain(client: MlflowClient, run: Run, parent: Run) -> dict[str, Any]:
    is_parent = run is parent
    histories = {
        key: sorted((point.step, repr(point.value)) for point in client.get_metric_history(run.info.run_id, key))
        for key in run.data.metrics
    }
    assert run.inputs is not None
    interrupted = run.data.tags.get("state") == "interrupted"
    return {
        "status": run.info.status,
        "times": None if is_parent or interrupted else (run.info.start_time, run.info.end_time),
        "user": run.info.user_id,
        "stage": run.info.lifecycle_stage,
        "artifacts": run.info.artifact_uri.replace(run.info.run_id, "ID").partition("/artifacts/")[2],
        "files": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
        "params": dict(run.data.params),
        "latest": {key: repr(value) for key, value in run.data.metrics.items()},
        "histories": histories,
        "tags": {key: value.replace(parent.info.run_id, "PARENT") for key, value in run.data.tags.items()},
        "inputs": sorted(
            (
                entry.dataset.name,
                entry.dataset.digest,
                entry.dataset.profile,
                [(tag.key, tag.value) for tag in entry.tags],
            )
            for entry in run.inputs.dataset_inputs
        ),
    }


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    local_database.prepare(path)
    return path


@pytest.mark.parametrize("pause", [False, True], ids=["whole trials", "trials in parts"])
def test_both_ways_of_writing_show_the_same(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, pause: bool
) -> None:
    monkeypatch.setattr("sweeps.tracking.outbox.PAUSE_S", 0.0 if pause else 1.0)
    found = {}
    for way in ("group", "client"):
        root = tmp_path / way
        root.mkdir()
        (root / "mlflow.db").write_bytes(empty_database.read_bytes())
        if way == "client":
            monkeypatch.setattr(group_writer.GroupWriter, "write", lambda *_: None)
        track_sweep(root, pause)
        found[way] = shown(root)
    assert list(found["group"]) == list(found["client"])
    for name in found["client"]:
        assert found["group"][name] == found["client"][name], name


def test_a_group_reaches_the_database_in_one_transaction(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path
    (root / "mlflow.db").write_bytes(empty_database.read_bytes())
    created: list[str] = []
    create_run = MlflowClient.create_run

    def counted(client: MlflowClient, *arguments: Any, **options: Any) -> Run:
        created.append(str(options.get("run_name")))
        return create_run(client, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "create_run", counted)
    track_sweep(root, pause=False)
    assert created == ["snli"], "only the run of the sweep itself goes through MLflow's client"


def test_a_database_with_unknown_columns_is_left_to_the_client(tmp_path: Path, empty_database: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("ALTER TABLE runs ADD COLUMN of_a_later_mlflow TEXT")
        database.commit()
    track_sweep(tmp_path, pause=False)
    assert set(shown(tmp_path)) == {"snli", "trial-00", "trial-01", "trial-02", "trial-03"}
