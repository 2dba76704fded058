"""The Python API as a script or a notebook uses it: planning, running, loading and judging."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas
import pytest
from mlflow_warnings import MLFLOW_WARNINGS

import sweeps
from backends.training_logs import RunDetails
from sweeps.api.tables import TRIAL_COLUMNS, trials_table
from sweeps.errors import SweepError, UserInputError
from sweeps.trials.trial import Trial, TrialState
from sweeps.verdicts.verdict import VerdictKind

# MLflow and its libraries use deprecated functions, and leave connections to the interpreter.
pytestmark = [
    pytest.mark.integration,
    *MLFLOW_WARNINGS,
]

CHECKOUT = Path(sweeps.__file__).parents[1]

Finished = tuple[sweeps.Sweep, list[sweeps.SweepEvent], Path]
"""A sweep that `run` returned, what it reported, and its workspace."""

FILE: Mapping[str, Any] = {
    "name": "small",
    "data": {
        "checks": "quick",
        "source": "builtin:nli",
        "prompt": "{premise} {hypothesis}",
        "completion": " {label}",
        "train_examples": 60,
        "valid_examples": 30,
        "test_examples": 30,
    },
    "backend": {"type": "fake", "seconds_per_epoch": 0.0},
    "space": {"n_epochs": [2, 3], "batch_size": [4, 8]},
    "search": {"trials": 3, "sampler": "random", "scheduler": "none", "concurrency": 1, "seed": 1},
    "objective": {"maximize": "valid_accuracy"},
}


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("MLFLOW_TRACKING_URI", "SWEEP_STORAGE", "SWEEP_ROOT", "RAY_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("api") / ".sweep"
    events: list[sweeps.SweepEvent] = []
    return sweeps.run(FILE, on_event=events.append, root=root), events, root


def test_importing_the_package_loads_no_heavy_library() -> None:
    script = (
        "import sweeps, sys\n"
        "heavy = {'torch', 'ray', 'mlflow', 'transformers', 'pandas', 'optuna', 'openai'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sweeps.plan, sweeps.load, sweeps.judge, sweeps.run\n"
        "heavy = {'torch', 'ray', 'mlflow', 'transformers', 'openai'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        sweeps.nonsense  # noqa: B018
    assert set(sweeps.__all__) <= set(dir(sweeps))


def test_a_plan_from_a_mapping_is_the_plan_from_the_same_file(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(FILE))  # JSON is YAML
    of_file = sweeps.plan(file, overrides=["search.trials=5"])
    of_mapping = sweeps.plan(FILE, overrides={"search.trials": 5})
    assert of_file.fingerprint == of_mapping.fingerprint
    assert of_mapping.spec.search.trials == 5
    assert not list(tmp_path.rglob("study.journal")), "planning starts nothing"


def test_every_mistake_in_a_mapping_is_reported_at_once() -> None:
    with pytest.raises(UserInputError) as raised:
        sweeps.plan({**FILE, "serach": {}, "space": {"n_epochs": "many"}})
    messages = " ".join(f"{problem} {problem.hint}" for problem in raised.value.problems)
    assert "serach" in messages
    assert "search" in messages
    assert "n_epochs" in messages


def test_a_run_reports_its_events_and_returns_the_sweep(
    finished: Finished,
) -> None:
    sweep, events, root = finished
    assert [event.kind for event in events if event.kind.startswith("trial")] == ["trial_started", "trial_ended"] * 3
    evaluated = [event for event in events if event.kind == "evaluated"]
    assert all(event.trial is not None and event.measured is not None for event in evaluated)
    assert len(evaluated) == len(sweep.curves[sweep.curves["scope"] == "evaluation"])
    assert sweep.outcome is not None
    assert sweep.outcome.end == "all trials are done"
    assert sweep.report.is_relative_to(root)
    assert sweep.report.exists()


def test_a_loaded_sweep_is_the_one_that_run_returned(
    finished: Finished,
) -> None:
    sweep, _, root = finished
    loaded = sweeps.load("small", root=root)
    pandas.testing.assert_frame_equal(loaded.trials, sweep.trials)
    pandas.testing.assert_frame_equal(loaded.curves, sweep.curves)
    assert loaded.best == sweep.best
    assert loaded.verdicts == sweep.verdicts
    assert loaded.finals is None
    assert loaded.outcome is None
    assert loaded.plan["search"]["trials"] == 3


def test_the_tables_have_one_row_per_trial_and_per_measurement_with_typed_columns(
    finished: Finished,
) -> None:
    sweep, _, _ = finished
    trials, curves = sweep.trials, sweep.curves
    assert list(trials["trial"]) == [trial.number for trial in sweep.state.trials]
    assert len(trials) == 3
    for name, (dtype, _) in TRIAL_COLUMNS.items():
        assert str(trials[name].dtype) == dtype, name
    assert str(trials["n_epochs"].dtype) == "Int64"
    assert str(trials["valid_accuracy"].dtype) == "Float64"
    assert set(trials["verdict"]) <= {kind.value for kind in VerdictKind}
    assert sweep.best is not None
    assert trials["valid_accuracy"].max() == sweep.best.values[0]  # type: ignore[index]
    assert list(curves.columns[:4]) == ["trial", "scope", "epoch", "step"]
    assert curves.groupby("trial")["epoch"].max().tolist() == trials["trained_epochs"].tolist()


def test_mixed_hyperparameters_keep_their_types_and_a_taken_name_gets_a_prefix() -> None:
    points: list[dict[str, Any]] = [{"rank": 8, "rate": 1, "seed": 5, "method": "lora"}, {"rate": 0.5, "fast": True}]
    trials = [
        Trial(number, "k", "m", point, 1, state=TrialState.COMPLETE, values=(0.5, 3.0))
        for number, point in enumerate(points)
    ]
    table = trials_table(trials, ["valid_accuracy", "usd"], lambda trial: trial.state.value)
    types = {str(name): str(dtype) for name, dtype in table.dtypes.items()}
    assert types["rank"] == "Int64"
    assert types["rate"] == "Float64"
    assert types["fast"] == "boolean"
    assert types["method"] == "string"
    assert table["hyperparameters.seed"].tolist() == [5, pandas.NA]
    assert table["seed"].tolist() == [1, 1]
    assert list(table.columns).count("usd") == 1
    assert trials_table([], ["valid_accuracy"], str).empty


def test_an_unknown_sweep_is_an_error_with_the_nearest_name(
    finished: Finished,
) -> None:
    _, _, root = finished
    with pytest.raises(UserInputError) as raised:
        sweeps.load("smal", root=root)
    assert "small" in raised.value.problems[0].hint


HISTORY = {"train_loss": [1.0, 0.6, 0.3, 0.2, 0.1], "valid_loss": [1.1, 0.8, 0.9, 1.3, 1.8]}


def test_judging_takes_files_bytes_tables_and_json_values_and_agrees(tmp_path: Path) -> None:
    table = pandas.DataFrame({"epoch": [1, 2, 3, 4, 5], **HISTORY})
    table.to_csv(tmp_path / "history.csv", index=False)
    verdict = sweeps.judge(tmp_path / "history.csv")
    assert verdict.kind is VerdictKind.OVERFIT
    assert verdict.evidence
    content = (tmp_path / "history.csv").read_bytes()
    for history in (str(tmp_path / "history.csv"), content, table, {"epoch": [1, 2, 3, 4, 5], **HISTORY}):
        assert sweeps.judge(history) == verdict
    assert sweeps.judge(content, details=RunDetails(valid_examples=10)).confidence <= verdict.confidence


def test_judging_several_curves_asks_for_judge_all(
    finished: Finished,
) -> None:
    sweep, _, _ = finished
    output = sweep.state.to_json()
    with pytest.raises(UserInputError) as raised:
        sweeps.judge(output)
    assert "judge_all" in raised.value.problems[0].hint
    verdicts = sweeps.judge_all(output)
    assert len(verdicts) == 3


def test_what_cannot_be_judged_is_an_error_with_its_place(tmp_path: Path) -> None:
    for history in (b"nonsense", tmp_path / "absent.csv", []):
        with pytest.raises(SweepError):
            sweeps.judge(history)


def test_the_notebook_in_the_documentation_runs(tmp_path: Path) -> None:
    notebook = json.loads((CHECKOUT / "docs" / "examples" / "notebook.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert any("sweeps.run(" in cell for cell in cells)
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join(cells), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr


def test_a_sweep_can_run_outside_the_main_thread(tmp_path: Path) -> None:
    script = (
        "import json, sys, threading, sweeps\n"
        "done = []\n"
        "worker = threading.Thread(target=lambda: done.append(sweeps.run(json.loads(sys.argv[1]), root=sys.argv[2])))\n"
        "worker.start(); worker.join()\n"
        "assert len(done[0].trials) == 1\n"
    )
    content = json.dumps({**FILE, "search": {**FILE["search"], "trials": 1}})
    arguments = [sys.executable, "-c", script, content, str(tmp_path / "root")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
