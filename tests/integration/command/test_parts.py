"""Trials of several processes: on one machine with DDP and FSDP, and on two nodes of a Ray cluster.

One trial is one trial: every process prints its numbers, and each number counts once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from sweeps import api
from sweeps.api.running import CallbackObserver, run_plan
from sweeps.study.state import read_state
from sweeps.trials.trial import Trial, TrialState
from sweeps.workspace import Workspace

pytestmark = [pytest.mark.integration, pytest.mark.trains, pytest.mark.filterwarnings("default")]

SCRIPT = Path(__file__).resolve().parents[2] / "support" / "programs" / "train_in_parts.py"
EPOCHS = 2


def sweep_file(processes: int, trials: int = 2, more: str = "", **resources: Any) -> dict[str, Any]:
    launcher = f"{sys.executable} -m torch.distributed.run --nproc_per_node {processes}"
    options = f"--learning-rate {{learning_rate}} --epochs {EPOCHS} --output {{output}} {more}"
    return {
        "name": "parts",
        "backend": {
            "type": "command",
            "run": f"{launcher} {SCRIPT} {options}",
            "hyperparameters": {"learning_rate": {"low": 0.01, "high": 0.1, "log": True}},
        },
        "search": {"sampler": "random", "scheduler": "none", "stop_by_verdict": False, "trials": trials, "retries": 0},
        "resources": {"cpus_per_trial": 1, **resources},
        "objective": {"minimize": "valid_loss"},
    }


def run(document: dict[str, Any], root: Path, address: str | None = None) -> list[Trial]:
    workspace, observer = Workspace(root), CallbackObserver(lambda event: None)
    planned = api.plan(document, root=root, estimate=False, ray_address=address)
    run_plan(planned, workspace, observer, lambda text: None, ray_address=address)
    return list(read_state(workspace, "parts", None).trials)


def evaluations(trial: Trial) -> list[tuple[int, float]]:
    return [(measured.step, measured.values["valid_loss"]) for measured in trial.curve]


def folder_of(trial: Trial, root: Path, part: str = "") -> Path:
    return Workspace(root).sweep_folder("parts") / "programs" / part / trial.key


@pytest.mark.slow
def test_two_processes_a_trial_report_once_and_trials_do_not_share_a_port(tmp_path: Path) -> None:
    """Two trials train at the same time, each with two processes."""
    trials = run(sweep_file(processes=2), tmp_path)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    ports = set()
    for trial in trials:
        folder = folder_of(trial, tmp_path)
        assert [step for step, _ in evaluations(trial)] == [1, 2]
        assert (folder / "output.log").read_text().count("'eval_loss'") == 2 * EPOCHS, "both processes printed"
        written = {(folder / "output" / f"rank-{rank}.txt").read_text() for rank in (0, 1)}
        assert len(written) == 1, "both processes met at the same port"
        ports |= written
    assert len(ports) == 2


@pytest.mark.slow
def test_fsdp_gives_the_losses_of_ddp(tmp_path: Path) -> None:
    losses = {}
    for way in ("ddp", "fsdp"):
        (trial,) = run(sweep_file(2, trials=1, more=f"--way {way}"), tmp_path / way)
        losses[way] = [loss for _, loss in evaluations(trial)]
    assert len(losses["ddp"]) == EPOCHS
    assert losses["fsdp"] == pytest.approx(losses["ddp"], rel=1e-4)


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray cluster of two nodes on this machine, with one CPU each."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    memory = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**memory, "num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1, **memory)
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_a_trial_spans_two_nodes_and_only_the_first_reports(two_nodes: str, tmp_path: Path) -> None:
    (trial,) = run(sweep_file(1, trials=1, nodes_per_trial=2), tmp_path, two_nodes)
    assert trial.state is TrialState.COMPLETE, trial.reason
    assert [step for step, _ in evaluations(trial)] == [1, 2]
    first, second = folder_of(trial, tmp_path), folder_of(trial, tmp_path, "node-1")
    for rank, folder in enumerate((first, second)):
        assert (folder / "output.log").read_text().count(f"'rank': {rank}") == EPOCHS
        assert (folder / "output" / f"rank-{rank}.txt").read_text().endswith(" 2"), "it knows both processes"


@pytest.mark.slow
def test_a_trial_fails_as_soon_as_one_of_its_parts_does(two_nodes: str, tmp_path: Path) -> None:
    """The other part would wait for it, for half an hour by default."""
    (trial,) = run(sweep_file(1, trials=1, more="--fail-on 1", nodes_per_trial=2), tmp_path, two_nodes)
    assert trial.state is TrialState.FAILED
    assert trial.reason.startswith("on machine 1 of the trial: the program failed")
    with pytest.raises(ProcessLookupError):
        os.kill(json.loads((folder_of(trial, tmp_path) / "started.json").read_text())["pid"], 0)
