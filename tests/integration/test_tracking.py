"""Tracking with the real MLflow: SQLite files, and a server that stops and starts again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_warnings import MLFLOW_WARNINGS

from backends.contract import Charged, Checkpointed, Event, Finished, Measured, Queued, Started
from sweeps.errors import SweepError
from sweeps.reports.plots import learning_curve_png
from sweeps.tracking import TrackedDataset, TrackedPart, Tracker, default_uri, serve_ui
from sweeps.tracking.projection import Projection
from sweeps.trials.trial import Spend, Trial, TrialState
from sweeps.verdicts.verdict import FitVerdict, VerdictKind

pytestmark = [
    pytest.mark.integration,
    # MLflow uses functions that newer versions of SQLAlchemy deprecate, and does not close its
    # connections.
    *MLFLOW_WARNINGS,
]

DATA = TrackedDataset(
    "builtin:nli",
    "builtin:nli, seed 7",
    {"training": TrackedPart("a" * 64, 2000), "validation": TrackedPart("b" * 64, 500)},
)
STEPS = 30


def new_trial(number: int) -> Trial:
    return Trial(
        number,
        f"key-{number}",
        "builtin:tiny-lm",
        {"n_epochs": 3, "learning_rate_multiplier": 0.0002, "method": "lora"},
        seed=11,
        started_at=1_700_000_000.0 + number,
    )


def evaluation(epoch: int, loss: float) -> Measured:
    values = {"train_loss": loss, "valid_loss": loss + 0.05, "valid_accuracy": 1 / (1 + loss)}
    return Measured(10 * epoch, float(epoch), values, "evaluation")


def events() -> list[Event]:
    reported: list[Event] = [
        Queued(),
        Started({"n_epochs": 3, "device": "cpu", "learning_rate": 3e-4}),
        evaluation(0, 3.0),
    ]
    for step in range(1, STEPS + 1):
        reported.append(Measured(step, step / 10, {"batch_loss": 3 / step, "learning_rate": 3e-4}, "step"))
        if step % 10 == 0:
            reported.append(evaluation(step // 10, 3 / step))
            reported.append(Checkpointed(step, step / 10, f"model-{step}"))
    return [*reported, Charged(None, 1000), Finished("model-30")]


def ended(trial: Trial, state: TrialState = TrialState.COMPLETE) -> Trial:
    return dataclasses.replace(
        trial,
        state=state,
        reason="trained to the end",
        curve=tuple(event for event in events() if isinstance(event, Measured) and event.scope == "evaluation"),
        values=(0.9,),
        best_epoch=3.0,
        verdict=FitVerdict(VerdictKind.OVERFIT, "validation loss rose", "lower n_epochs", onset_epoch=2.0),
        spend=Spend(12.5, 1000, None),
        ended_at=1_700_000_100.0,
    )


def begin(tracker: Tracker, sweep_id: str = "sweep-1") -> str:
    params, tags = {"sampler": "tpe"}, {"backend": "local", "model": "builtin:tiny-lm"}
    return tracker.start(sweep_id, "snli", params, tags, DATA, {"sweep.yaml": "name: snli\n"})


def track(tracker: Tracker, trial: Trial, reported: Sequence[Event], size: int = 7) -> None:
    tracker.trial_started(trial)
    for first in range(0, len(reported), size):
        tracker.events_received(trial.key, first, reported[first : first + size])


def finish(tracker: Tracker) -> None:
    tracker.finish("FINISHED", {"valid_accuracy": 0.9}, {"end": "all trials are done"}, {}, None)


def children(uri: str, parent: str) -> dict[str, Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("snli")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    return {run.info.run_name: run for run in runs}


def steps_of(uri: str, run: Run, key: str) -> list[int]:
    return sorted(point.step for point in MlflowClient(uri).get_metric_history(run.info.run_id, key))


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables, which take seconds to create."""
    root = tmp_path_factory.mktemp("empty")
    tracker = Tracker.connect(default_uri(root), "unused", root / "artifacts")
    tracker.start("none", "none", {}, {}, DATA, {})
    tracker.close()
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return root / "mlflow.db"


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path) -> str:
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    return default_uri(tmp_path)


def test_mlflow_shows_the_sweep_and_all_its_trials(uri: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "adapter.json").write_text("{}")
    tracker = Tracker.connect(uri, "snli", tmp_path / "artifacts")
    parent = begin(tracker)
    for number, state in enumerate((TrialState.COMPLETE, TrialState.STOPPED, TrialState.FAILED)):
        trial = new_trial(number)
        track(tracker, trial, events())
        done = ended(trial, state)
        tracker.trial_ended(done, {"learning_curve.png": lambda done=done: learning_curve_png(done, "trial")})
    tracker.finish("FINISHED", {"valid_accuracy": 0.9}, {"end": "done"}, {"report.txt": "good"}, model)

    assert tracker.problems == ()
    client = MlflowClient(uri)
    sweep = client.get_run(parent)
    assert sweep.info.status == "FINISHED"
    assert sweep.data.params == {"sampler": "tpe"}
    assert sweep.data.metrics == {"valid_accuracy": 0.9}
    assert {file.path for file in client.list_artifacts(parent)} == {"sweep.yaml", "report.txt", "best_model"}
    assert [file.path for file in client.list_artifacts(parent, "best_model")] == ["best_model/adapter.json"]

    runs = children(uri, parent)
    assert {name: run.info.status for name, run in runs.items()} == {
        "trial-00": "FINISHED",
        "trial-01": "FINISHED",
        "trial-02": "FAILED",
    }
    run = runs["trial-00"]
    assert run.data.params == {
        "n_epochs": "3",
        "learning_rate_multiplier": "0.0002",
        "method": "lora",
        "resolved.device": "cpu",
        "resolved.learning_rate": "0.0003",
    }
    assert run.data.metrics["objective"] == 0.9
    assert run.data.metrics["seconds"] == 12.5
    assert run.data.metrics["untrained/valid_loss"] == 3.05
    assert run.data.tags["verdict"] == "overfit"
    assert run.data.tags["verdict.advice"] == "lower n_epochs"
    assert "validation loss rose" in run.data.tags["mlflow.note.content"].lower()
    assert steps_of(uri, run, "batch_loss") == list(range(1, STEPS + 1))
    assert steps_of(uri, run, "valid_loss") == [0, 10, 20, 30]
    assert (run.info.start_time, run.info.end_time) == (1_700_000_000_000, 1_700_000_100_000)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["learning_curve.png"]
    for tracked_run in (sweep, run):
        assert tracked_run.inputs is not None
        contexts = {dataset.tags[0].value: dataset.dataset for dataset in tracked_run.inputs.dataset_inputs}
        assert json.loads(contexts["training"].profile) == {"num_rows": 2000, "sha256": "a" * 64}
        assert contexts["validation"].digest == "b" * 12


def test_the_run_table_opens_with_the_columns_of_a_sweep(uri: str, tmp_path: Path) -> None:
    tracker = Tracker.connect(uri, "snli", tmp_path / "artifacts")
    begin(tracker)
    track(tracker, new_trial(0), events())
    finish(tracker)
    experiment = MlflowClient(uri).get_experiment_by_name("snli")
    assert experiment is not None
    view = json.loads(experiment.tags["mlflow.sharedViewState.finesweep"])
    columns = {"metrics.`objective`", "tags.`verdict`", "params.`n_epochs`", "params.`learning_rate_multiplier`"}
    assert columns <= set(view["selectedColumns"])
    path = f"/#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=finesweep"
    assert tracker.table_path() == f"{path}&workflowType=machine_learning"
    assert (tmp_path / "artifacts").resolve().as_uri() in experiment.artifact_location


def test_a_resumed_sweep_finds_its_runs_and_doubles_no_point(uri: str, tmp_path: Path) -> None:
    reported = events()
    first = Tracker.connect(uri, "snli", tmp_path / "artifacts")
    parent = begin(first)
    done, open_ = new_trial(0), new_trial(1)
    track(first, done, reported)
    first.trial_ended(ended(done))
    track(first, open_, reported[:20])
    first.finish("KILLED", {}, {"end": "interrupted"}, {}, None)
    assert children(uri, parent)["trial-01"].info.status == "KILLED"

    second = Tracker.connect(uri, "snli", tmp_path / "artifacts")
    assert begin(second) == parent
    assert MlflowClient(uri).get_run(parent).data.params == {"sampler": "tpe"}
    track(second, open_, reported, size=9)  # all events again, from the first one
    second.trial_ended(ended(open_))
    finish(second)

    assert second.problems == ()
    runs = children(uri, parent)
    assert {name: run.info.status for name, run in runs.items()} == {"trial-00": "FINISHED", "trial-01": "FINISHED"}
    for run in runs.values():
        assert steps_of(uri, run, "batch_loss") == list(range(1, STEPS + 1))
        assert steps_of(uri, run, "valid_loss") == [0, 10, 20, 30]
        assert steps_of(uri, run, "untrained/valid_loss") == [0]
        assert run.data.tags["finesweep.cursor"] == str(len(reported))


def test_a_crash_between_the_values_and_the_cursor_doubles_no_point(uri: str, tmp_path: Path) -> None:
    reported = events()
    first = Tracker.connect(uri, "snli", tmp_path / "artifacts")
    parent = begin(first)
    track(first, new_trial(0), reported[:25])
    first.finish("KILLED", {}, {}, {}, None)
    run_id = children(uri, parent)["trial-00"].info.run_id
    # as if the process had died before it moved the cursor
    MlflowClient(uri).set_tag(run_id, "finesweep.cursor", "5")

    second = Tracker.connect(uri, "snli", tmp_path / "artifacts")
    begin(second)
    track(second, new_trial(0), reported)
    finish(second)
    run = children(uri, parent)["trial-00"]
    assert steps_of(uri, run, "batch_loss") == list(range(1, STEPS + 1))
    assert steps_of(uri, run, "valid_loss") == [0, 10, 20, 30]


def test_another_process_continues_the_runs_of_a_killed_one(uri: str, tmp_path: Path) -> None:
    program = (
        "import os, sys, time; sys.path[:0] = sys.argv[3:]; import test_tracking as t; from pathlib import Path\n"
        "tracker = t.Tracker.connect(sys.argv[1], 'snli', Path(sys.argv[2])); t.begin(tracker)\n"
        "t.track(tracker, t.new_trial(0), t.events()[:25]); print('tracked', flush=True); time.sleep(60)"
    )
    here = Path(__file__).parent
    arguments = [uri, str(tmp_path / "artifacts"), str(here), str(here.parent / "support")]
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "tracked\n"
        time.sleep(1.0)
        killed.kill()
    second = Tracker.connect(uri, "snli", tmp_path / "artifacts")
    parent = begin(second)
    track(second, new_trial(0), events())
    second.trial_ended(ended(new_trial(0)))
    finish(second)
    runs = children(uri, parent)
    assert list(runs) == ["trial-00"]
    assert steps_of(uri, runs["trial-00"], "batch_loss") == list(range(1, STEPS + 1))


def test_a_missing_end_of_a_trial_is_shown_from_its_record(uri: str, tmp_path: Path) -> None:
    record = dataclasses.replace(
        ended(new_trial(0)), loop_reports=tuple(event for event in events() if isinstance(event, Measured))[1:8]
    )
    first = Tracker.connect(uri, "snli", tmp_path / "artifacts")
    begin(first)
    track(first, new_trial(0), events()[:25])
    first.close()  # as after a crash: the trial has ended since, and MLflow does not show it
    for already_shown in (False, True):
        again = Tracker.connect(uri, "snli", tmp_path / "artifacts")
        parent = begin(again)
        assert again.shows_end_of(record) is already_shown
        again.show_ended(record)
        finish(again)
    [run] = children(uri, parent).values()
    assert (run.info.status, run.data.tags["verdict"], run.data.metrics["objective"]) == ("FINISHED", "overfit", 0.9)
    assert steps_of(uri, run, "valid_loss") == [0, 10, 20, 30]


def ended_and_settled() -> tuple[Trial, Trial]:
    """Return an ended trial with a curve, and the same trial with its final cost."""
    record = dataclasses.replace(ended(new_trial(0)), curve=tuple(e for e in events() if _is_evaluation(e)))
    return record, dataclasses.replace(record, spend=dataclasses.replace(record.spend, tokens=record.spend.tokens + 77))


@pytest.mark.parametrize("written", ["all", "the start", "nothing"])
def test_a_cost_that_is_settled_later_changes_the_run_and_makes_no_second_one(
    uri: str, written: str, tmp_path: Path
) -> None:
    """Whatever MLflow has by then: everything, what came before the end, or nothing."""
    record, settled = ended_and_settled()
    tracker = Tracker.connect(uri, "snli", tmp_path / "artifacts")
    parent = begin(tracker)
    track(tracker, record, events())
    if written == "the start":
        await_writing(tracker)
    tracker.trial_ended(record)
    if written == "all":
        await_writing(tracker)
    tracker.show_ended(settled)
    finish(tracker)
    assert tracker.problems == ()
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("snli")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert run.data.metrics["tokens"] == settled.spend.tokens
    assert steps_of(uri, run, "valid_loss") == [0, 10, 20, 30]


def await_writing(tracker: Tracker) -> None:
    deadline = time.monotonic() + 60
    while tracker.lacking and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_cost_that_is_settled_while_the_end_is_written_is_not_lost(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, settled = ended_and_settled()
    tracker = Tracker.connect(uri, "snli", tmp_path / "artifacts")
    parent = begin(tracker)
    track(tracker, record, events())
    await_writing(tracker)
    write_one = tracker._outbox._write_one

    def settle_meanwhile(key: str, projection: Projection) -> bool:
        if projection.completes:
            monkeypatch.setattr(tracker._outbox, "_write_one", write_one)
            tracker.show_ended(settled)
        return write_one(key, projection)

    monkeypatch.setattr(tracker._outbox, "_write_one", settle_meanwhile)
    tracker.trial_ended(record)
    finish(tracker)
    assert tracker.problems == ()
    [run] = children(uri, parent).values()
    assert run.data.metrics["tokens"] == settled.spend.tokens
    assert steps_of(uri, run, "valid_loss") == [0, 10, 20, 30]


def _is_evaluation(event: Event) -> bool:
    return isinstance(event, Measured) and event.scope == "evaluation"


def test_non_finite_values_long_texts_and_odd_names_are_accepted(uri: str, tmp_path: Path) -> None:
    tracker = Tracker.connect(uri, "snli", tmp_path / "artifacts")
    parent = begin(tracker)
    trial = dataclasses.replace(
        new_trial(0), hyperparameters={"targets=all?": "q" * 9000, **{f"many_{n}": n for n in range(250)}}
    )
    odd_events: list[Event] = [
        Measured(1, 0.1, {"batch_loss": math.nan, "grad_norm": math.inf}, "step"),
        Measured(2, 0.2, {"batch_loss": 1.0, "grad_norm": -math.inf}, "step"),
        *(Measured(n, n / 10, {"batch_loss": 1.0, "learning_rate": 0.1}, "step") for n in range(3, 1503)),
    ]
    track(tracker, trial, odd_events, size=5000)
    long_verdict = FitVerdict(VerdictKind.DIVERGED, "x" * 20_000)
    tracker.trial_ended(dataclasses.replace(ended(trial), verdict=long_verdict, values=None))
    finish(tracker)
    assert tracker.problems == ()
    run = children(uri, parent)["trial-00"]
    history = MlflowClient(uri).get_metric_history(run.info.run_id, "batch_loss")
    assert len(history) == 1502
    in_order = sorted(history, key=lambda point: point.step)
    assert [math.isnan(point.value) for point in in_order[:2]] == [True, False]
    norms = MlflowClient(uri).get_metric_history(run.info.run_id, "grad_norm")
    assert [math.isnan(norm.value) for norm in norms] == [True, True]
    assert len(run.data.params) == 251
    assert len(run.data.params["targets_all_"]) == 6000
    assert run.data.tags["verdict.reason"].endswith("x…")
    assert "objective" not in run.data.metrics


def test_a_failed_write_is_a_problem_and_everything_else_is_written(uri: str, tmp_path: Path) -> None:
    tracker = Tracker.connect(uri, "snli", tmp_path / "artifacts")
    parent = begin(tracker)
    trial = new_trial(0)
    track(tracker, trial, events())

    def draw() -> bytes:
        raise ValueError("the plot failed")

    tracker.trial_ended(ended(trial), {"learning_curve.png": draw})
    other = new_trial(1)
    track(tracker, other, events())
    tracker.trial_ended(ended(other), {"learning_curve.png": tmp_path / "no-such-file.png"})
    finish(tracker)
    assert len(tracker.problems) == 2
    assert any("the plot failed" in problem for problem in tracker.problems)
    assert any("no-such-file" in problem for problem in tracker.problems)
    assert tracker.lacking == ("trial-01",), "a plot that cannot be drawn is not MLflow's fault; a lost file is"
    assert {run.info.status for run in children(uri, parent).values()} == {"FINISHED"}


def test_a_sweep_that_is_not_finished_counts_as_killed(uri: str, tmp_path: Path) -> None:
    tracker = Tracker.connect(uri, "snli", tmp_path / "artifacts")
    parent = begin(tracker)
    track(tracker, new_trial(0), events()[:5])
    tracker.close()
    tracker.close()
    assert MlflowClient(uri).get_run(parent).info.status == "KILLED"
    assert children(uri, parent)["trial-00"].info.status == "KILLED"


def test_a_new_database_and_its_folder_are_created_without_any_output(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from sweeps.tracking import Tracker, TrackedDataset, default_uri\n"
        "root = Path(sys.argv[1]); tracker = Tracker.connect(default_uri(root), 'e', root / 'artifacts')\n"
        "tracker.start('s', 'n', {}, {}, TrackedDataset('d', 'd', {}), {}); tracker.close()\n"
        "from mlflow.telemetry import get_telemetry_client; assert get_telemetry_client() is None\n"
        "import logging; assert not logging.getLogger().handlers"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "PYTEST_CURRENT_TEST")}
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "not" / "yet")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert (tmp_path / "not" / "yet" / "mlflow.db").exists()


# -------------------------------------------------------------------------- places that do not work
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_missing_server_is_reported_at_once_and_without_its_password(scheme: str) -> None:
    began = time.monotonic()
    with pytest.raises(SweepError, match="does not answer") as raised:
        Tracker.connect(f"{scheme}://me:secret@127.0.0.1:{free_port()}/x", "snli", None)
    assert time.monotonic() - began < 10
    assert "secret" not in raised.value.message + raised.value.hint
    assert raised.value.hint


def test_a_file_that_is_not_a_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database\n" * 200)
    with pytest.raises(SweepError, match="cannot be used"):
        Tracker.connect(default_uri(tmp_path), "snli", tmp_path / "artifacts")


def test_a_deleted_experiment_is_an_error_with_the_remedy(uri: str, tmp_path: Path) -> None:
    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("snli"))
    with pytest.raises(SweepError, match="was deleted") as raised:
        begin(Tracker.connect(uri, "snli", tmp_path / "artifacts"))
    assert "mlflow experiments restore" in raised.value.hint


# ----------------------------------------------------------------------------------------- a server
@contextlib.contextmanager
def server(database: str, port: int) -> Iterator[None]:
    """The MLflow server as `sweep ui` starts it, in its own process group."""
    process = subprocess.Popen(
        serve_ui(database, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 90
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                break
            assert process.poll() is None, "the server did not start"
            assert time.monotonic() < deadline, "the server did not answer"
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_server_may_stop_and_start_again_in_the_middle_of_a_sweep(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # the server stores artifacts in the current folder
    port, reported = free_port(), events()
    address = f"http://127.0.0.1:{port}"
    with server(uri, port):
        tracker = Tracker.connect(address, "snli", tmp_path / "artifacts")
        parent = begin(tracker)
        assert tracker.run_url(parent) == f"{address}/#/experiments/1/runs/{parent}".replace("/1/", "/2/")
        trial = new_trial(0)
        track(tracker, trial, reported[:15])
        time.sleep(2.5)  # long enough for the first events to be written
    tracker.events_received(trial.key, 15, reported[15:])
    done = ended(trial)
    began = time.monotonic()
    tracker.trial_ended(done, {"learning_curve.png": lambda: learning_curve_png(done, "trial")})
    track(tracker, new_trial(1), reported)
    assert time.monotonic() - began < 10, (
        "training waited for the missing server, which the tracker tries for half a minute"
    )
    deadline = time.monotonic() + 30
    while not tracker.problems and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "does not answer" in tracker.problems[0]
    with server(uri, port):
        finish(tracker)
        assert tracker.problems == ()
    assert capsys.readouterr().out == "", "MLflow printed to stdout, which belongs to the commands"
    assert len(list(Path(tmp_path / "mlartifacts").rglob("learning_curve.png"))) == 1
    runs = children(uri, parent)
    assert {name: run.info.status for name, run in runs.items()} == {"trial-00": "FINISHED", "trial-01": "KILLED"}
    for run in runs.values():
        assert steps_of(uri, run, "batch_loss") == list(range(1, STEPS + 1))
        assert steps_of(uri, run, "valid_loss") == [0, 10, 20, 30]
