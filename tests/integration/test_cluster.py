"""A Ray cluster on this computer whose nodes have folders of their own, and a store between them.

The nodes are real; they share the host name and the network. `tests/chaos` separates those too.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray._raylet import AuthenticationMode, get_authentication_mode
from ray.cluster_utils import Cluster

from sweeps import api
from sweeps.api.running import CallbackObserver, SweepEvent, run_plan
from sweeps.errors import SweepError
from sweeps.execution import cluster as clusters
from sweeps.execution import ray_connection
from sweeps.execution.cleanup import open_cleanup
from sweeps.file_store.leftovers import STORED_DATA, STORED_MODEL, STORED_RUN
from sweeps.file_store.run_archive import RunArchive
from sweeps.file_store.store import FileStore
from sweeps.study.state import read_state
from sweeps.tracking import default_uri
from sweeps.trials.trial import Trial, TrialState
from sweeps.workspace import Workspace

pytestmark = [pytest.mark.integration, pytest.mark.trains, pytest.mark.filterwarnings("default")]

DATA = {
    "checks": "quick",
    "source": "builtin:nli",
    "prompt": "{premise} {hypothesis}",
    "completion": " {label}",
    "train_examples": 120,
    "valid_examples": 30,
    "test_examples": 30,
}


def sweep_file(trials: int, epochs: int = 4, concurrency: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "name": "pairs",
        "data": DATA,
        "backend": {"type": "local"},
        "space": {"n_epochs": epochs, "batch_size": 16, "learning_rate_multiplier": {"low": 0.02, "high": 0.05}},
        "search": {
            "sampler": "random",
            "scheduler": "none",
            "stop_by_verdict": False,
            "trials": trials,
            "concurrency": concurrency,
        },
        "resources": {"cpus_per_trial": 1},
        "objective": {"minimize": "valid_loss"},
        **more,
    }


@dataclass
class Machines:
    """The nodes of the cluster. `add` starts one with a cache folder of its own."""

    folder: Path
    cluster: Any = None
    nodes: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def add(self, name: str, **options: Any) -> None:
        os.environ["SWEEP_CACHE"] = str(self.folder / "caches" / name)
        settings = {"object_store_memory": 80 * 2**20, "num_cpus": 1, **options}
        if self.cluster is None:
            self.cluster = Cluster(
                initialize_head=True, head_node_args={**settings, "num_cpus": 0, "include_dashboard": False}
            )
        else:
            self.nodes[name] = self.cluster.add_node(**settings)

    def lose(self, name: str) -> None:
        """Kill the node. Its workers end with it."""
        self.cluster.remove_node(self.nodes.pop(name), allow_graceful=False)

    @property
    def store(self) -> str:
        return str(self.folder / "store")

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder / "driver")

    def run(
        self, document: dict[str, Any], on_event: Callable[[SweepEvent], None] = lambda event: None, files: bool = True
    ) -> list[Trial]:
        planned = api.plan(document, root=self.workspace.root, estimate=False, ray_address=self.cluster.address)
        run_plan(
            planned,
            self.workspace,
            CallbackObserver(on_event),
            self.said.append,
            ray_address=self.cluster.address,
            files=self.store if files else None,
        )
        return self.trials()

    def trials(self) -> list[Trial]:
        return list(read_state(self.workspace, "pairs", None).trials)


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    monkeypatch.setenv("SWEEP_CACHE", "")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    running = Machines(tmp_path)
    running.add("head")
    try:
        yield running
    finally:
        running.cluster.shutdown()
        shutil.rmtree(tmp_path / "caches", ignore_errors=True)


def evaluated(event: SweepEvent, number: int, epoch: int) -> bool:
    return (
        event.kind == "evaluated"
        and event.trial is not None
        and event.measured is not None
        and event.trial.number == number
        and event.measured.epoch >= epoch
    )


def test_a_lost_machine_is_replaced_and_its_trials_go_on_under_their_keys(machines: Machines) -> None:
    """The only worker is lost: one trial trains on it, and one waits for it."""
    machines.add("one")
    keys: dict[int, str] = {}

    def lose_once(event: SweepEvent) -> None:
        if event.trial is not None:
            keys.setdefault(event.trial.number, event.trial.key)
        if "one" in machines.nodes and evaluated(event, 0, 2):
            machines.add("two")
            machines.lose("one")

    trials = machines.run(sweep_file(trials=3, epochs=6, concurrency=2), lose_once)
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert [[round(measured.epoch) for measured in trial.curve] for trial in trials] == [list(range(7))] * 3
    assert {trial.number: trial.key for trial in trials} == keys
    assert all(trial.machine for trial in trials)
    said = "\n".join(machines.said)
    assert "trial 0 has lost machine" in said
    assert "trial 0 continues on machine" in said
    assert "from the last checkpoint of" in said
    assert "has joined" in said

    store = FileStore(machines.store)
    for trial in trials:
        assert trial.handle is not None
        latest = RunArchive(store, trial.handle.id).latest()
        assert latest is not None
        assert latest[1].ended
        assert latest[0].startswith("00002" if trial.number == 0 else "00001"), (
            "a trial was begun more often than needed"
        )
    jobs = list((machines.workspace.sweep_folder("pairs") / "jobs").iterdir())
    assert [folder.name for folder in jobs] == [min(trials, key=lambda trial: trial.values or (9.0,)).key]
    assert not list((machines.folder / "caches" / "two").glob("sweeps/*/jobs/*")), "the machine kept a run"
    assert_clean_empties_the_store(machines, trials)


def assert_clean_empties_the_store(machines: Machines, trials: list[Trial]) -> None:
    """`sweep clean` lists what the store has, keeps the best model, and with `--all` nothing."""
    workspace, uri = machines.workspace, default_uri(machines.workspace.root)
    store = FileStore(machines.store)
    best = min(trials, key=lambda trial: trial.values or (9.0,))
    before = store.sizes("")
    with open_cleanup("pairs", workspace, uri, None) as cleanup:
        stays = {item.leftover.kind for item in cleanup.items if item.kept_because}
        goes = {item.leftover.kind for item in cleanup.removable}
    assert store.sizes("") == before, "listing changes nothing"
    assert STORED_MODEL in stays
    assert {STORED_RUN, STORED_DATA} <= goes
    with open_cleanup("pairs", workspace, uri, None) as cleanup:
        assert cleanup.remove(print) == []
    assert best.handle is not None
    assert store.names("runs") == [best.handle.id], "more than the best model stayed"
    with open_cleanup("pairs", workspace, uri, None, everything=True) as cleanup:
        assert cleanup.remove(print) == []
    assert store.sizes("") == {}


def test_a_folder_that_is_not_shared_is_refused_before_any_trial(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All nodes see this computer's folders, so one look is told that its node does not."""
    machines.add("one")
    examine = clusters._examine

    def without_folder(*arguments: Any) -> Any:
        from dataclasses import replace

        return [replace(report, sees_folder=False) for report in examine(*arguments)]

    monkeypatch.setattr(clusters, "_examine", without_folder)
    with pytest.raises(SweepError, match=r"machine .* does not see the sweep's folder .*, and no store") as raised:
        machines.run(sweep_file(trials=2), files=False)
    assert "--files" in raised.value.hint
    assert machines.trials() == []


def test_a_shared_folder_needs_no_store(machines: Machines) -> None:
    machines.add("one")
    trials = machines.run(sweep_file(trials=2, epochs=1), files=False)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert not (machines.folder / "store").exists()


def test_a_process_whose_own_ray_had_a_token_joins_a_cluster_without_one(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray keeps the token, and a driver that has one demands it from the cluster."""
    machines.add("one")
    monkeypatch.delenv("RAY_AUTH_MODE")
    ray_connection.connect(None, logging.NullHandler())
    assert get_authentication_mode() == AuthenticationMode.TOKEN
    ray_connection.disconnect()
    assert "RAY_AUTH_MODE" not in os.environ
    trials = machines.run(sweep_file(trials=1, epochs=1), files=False)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE]


def test_a_service_runs_on_the_drivers_machine_without_a_store(machines: Machines) -> None:
    """Nothing trains here; the head has no CPU for trials, and the backend's journal is there."""
    machines.add("one")
    document = sweep_file(trials=3, epochs=2) | {"backend": {"type": "fake", "model": "fake-small"}}
    del document["resources"]
    trials = machines.run(document, files=False)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3


def test_trials_share_a_gpu_by_their_declared_resources(machines: Machines) -> None:
    """The nodes declare GPUs that they do not have, and the backend trains on the CPU."""
    machines.add("one", num_cpus=2, num_gpus=1)
    together = []
    running: set[int] = set()

    def count(event: SweepEvent) -> None:
        if event.trial is not None and event.kind in ("trial_started", "trial_ended"):
            (running.add if event.kind == "trial_started" else running.discard)(event.trial.number)
            together.append(len(running))

    document = sweep_file(trials=3, epochs=1, concurrency=3) | {"backend": {"type": "local", "device": "cpu"}}
    document["resources"] = {"cpus_per_trial": 0.5, "gpus_per_trial": 0.5}
    trials = machines.run(document, count)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert max(together) == 2, "half a GPU for each of three trials, and one GPU"
