"""What a sweep learns about its machines, and says: joined, refused, lost, and no machine left."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from sweeps.execution import cluster as clusters
from sweeps.execution.cluster import MAX_LOSSES, Cluster
from sweeps.execution.machines import MachineNeeds, MachineReport
from sweeps.execution.worker_files import FilesSettings

pytestmark = pytest.mark.unit

NEEDS = MachineNeeds("0.2.0", "abc", "/work", "s3://b", trains=True, driver_node="head", cpus=1.0)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def node(name: str, port: int = 1) -> dict[str, Any]:
    return {"NodeID": name, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port, "Alive": True}


class Situation:
    """A cluster with the nodes `alive`; their names tell what an examination finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.said: list[str] = []
        self.alive = [node(name) for name in names]
        monkeypatch.setattr(clusters, "_alive_nodes", lambda: self.alive)
        monkeypatch.setattr(clusters, "_examine", self._examine)
        files = FilesSettings("s3://b", "sweep", "/work")
        self.cluster = Cluster(None, NEEDS, files, self.said.append)  # type: ignore[arg-type]
        self.look()

    def _examine(self, nodes: Sequence[dict[str, Any]], plan: object, needs: object) -> list[MachineReport]:
        return [
            MachineReport(
                found["NodeID"],
                found["NodeID"],
                "10.0.0.1",
                "0.1.9" if "old" in found["NodeID"] else "0.2.0",
                "abc",
                cpus=2,
            )
            for found in nodes
        ]

    def look(self, *names: str) -> None:
        self.alive = [node(name) for name in names] or self.alive
        self.cluster.observe_nodes(self.alive)


def test_a_machine_that_joins_gets_trials_once_it_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    situation = Situation(monkeypatch, "one")
    assert situation.cluster.usable_nodes == ("one",)
    situation.look("one", "two", "old")
    situation.look("one", "two", "old")
    assert situation.cluster.usable_nodes == ("one", "two")
    assert situation.said == [
        "machine one (10.0.0.1) has joined",
        "machine old (10.0.0.1) has finesweep 0.1.9, but this sweep runs with 0.2.0; it gets no trials:"
        " install finesweep 0.2.0 there: pip install finesweep==0.2.0",
        "machine two (10.0.0.1) has joined",
    ]


def test_a_machine_that_leaves_gets_no_more_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    situation = Situation(monkeypatch, "one", "two")
    situation.look("two")
    assert situation.cluster.usable_nodes == ("two",)
    assert situation.said[-1] == "machine one (10.0.0.1) is gone"
    assert situation.cluster.is_stranded(["one"])
    assert not situation.cluster.is_stranded(["one", "two"])
    situation.alive = []
    situation.cluster.observe_nodes([])
    assert "no machine is left" in situation.said[-1]
    assert not situation.cluster.is_stranded(["one"]), "there is no other place for the trial"


def test_a_trial_goes_on_elsewhere_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    situation = Situation(monkeypatch, "one", "two")
    cluster = situation.cluster
    for _ in range(MAX_LOSSES):
        cluster.trial_is_on(7, "one", None)
        situation.alive = [node("two")]
        assert cluster.is_lost(7, "")
        assert "trial 7 has lost machine one (10.0.0.1); it goes on from its last checkpoint" in situation.said[-1]
    assert not cluster.is_lost(7, ""), "it seems to be the cause"


def test_a_crash_on_a_machine_that_answers_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    situation = Situation(monkeypatch, "one")
    situation.cluster.trial_is_on(7, "one", None)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        situation.alive = [node("one", server.getsockname()[1])]
        assert not situation.cluster.is_lost(7, "")


def test_a_machine_whose_ray_has_ended_is_lost_before_ray_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    situation = Situation(monkeypatch, "one")
    situation.cluster.trial_is_on(7, "one", None)
    situation.alive = [node("one", free_port())]
    assert situation.cluster.is_lost(7, "")


def test_the_error_names_the_machine_of_a_trial_that_never_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    situation = Situation(monkeypatch, "node-a1b2", "two")
    situation.look("two")
    assert situation.cluster.is_lost(3, "The actor died because its node has died. Node Id: node-a1b2")
    assert not situation.cluster.is_lost(3, "no machine is named here")


def test_a_silent_machine_is_lost_once_its_workers_must_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray believes it alive. Its workers end themselves when they are cut off, not before."""
    now = [0.0]
    monkeypatch.setattr(clusters.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(clusters.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(clusters, "_contact", lambda node: clusters.Contact.SILENT)
    situation = Situation(monkeypatch, "one")
    situation.cluster.trial_is_on(7, "one", None)
    assert situation.cluster.is_lost(7, "")
    assert now[0] > clusters.CUT_OFF_S


def test_the_place_of_a_resumed_trial_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    situation = Situation(monkeypatch, "one")
    for _ in range(3):
        situation.cluster.trial_is_on(7, "one", "gpu-9")
    words = "trial 7 continues on machine one (10.0.0.1), from the last checkpoint of gpu-9"
    assert situation.said.count(words) == 1


def test_a_trial_of_a_service_needs_no_cpu_of_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    situation = Situation(monkeypatch, "one")
    assert situation.cluster.resources({"CPU": 2.0}) == {"CPU": 2.0}
    waiting = Cluster(None, MachineNeeds("", "", "", None, trains=False, driver_node=""), None, print)  # type: ignore[arg-type]
    assert "CPU" not in waiting.resources({"CPU": 0.01})


def test_the_look_at_a_machine_finds_this_one() -> None:
    found = clusters.look_at_machine()("/no/such/marker", "x")
    assert found["version"]
    assert len(found["source"]) == 64
    assert found["sees_folder"] is False
    assert clusters.look_at_machine()("", "")["source"] == found["source"]
