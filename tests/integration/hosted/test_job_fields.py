"""The requests to each kind of host: fields, headers, files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hosted_world import LABELS, HostedWorld
from scripted_host import HostBehaviour, ScriptedHost

from backends.contract import Finished, PredictOptions

pytestmark = pytest.mark.integration


def test_azure_by_api_version(tmp_path: Path) -> None:
    world = HostedWorld(tmp_path)
    world.host = ScriptedHost(lambda: world.now, HostBehaviour(waiting="pending"), base="/openai")
    backend = world.open(host="azure-legacy", base_url="http://host")
    assert isinstance(world.complete(backend)[-1], Finished)
    assert all("api-key" in headers for headers in world.host.request_headers)
    (job,) = world.host.jobs.values()
    assert job.body["trainingType"] == "GlobalStandard"
    assert "." not in job.body["suffix"]
    assert world.host.contents[job.body["training_file"]].startswith(b"\xef\xbb\xbf")
    backend.close()


def test_a_job_carries_key_seed_and_hyperparameters_of_its_trial(world: HostedWorld) -> None:
    world.complete(world.open(extra_body={"tier": "x"}))
    (job,) = world.host.jobs.values()
    assert job.body["metadata"]["sweep_key"] == "k"
    assert job.body["seed"] == 7
    assert job.body["tier"] == "x"
    assert job.body["method"] == {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 8}},
    }


def test_our_server_gets_the_labels_as_the_data_files_contain_them(world: HostedWorld) -> None:
    world.complete(world.open("chat", host="local", format="chat"), key="chat")
    (job,) = world.host.jobs.values()
    assert job.body["task"]["labels"] == ["red", "green", "blue"]
    assert '"content": "red"' in world.host.contents[job.body["training_file"]].decode()
    world.host.jobs.clear()
    backend = world.open(host="local", model="babbage-002")
    backend.predict("babbage-002", world.prompts, PredictOptions(labels=LABELS))
    assert world.host.prediction_requests[-1]["labels"] == list(LABELS)


def test_our_server_gets_the_labels_of_completions(world: HostedWorld) -> None:
    world.complete(world.open(host="local", model="babbage-002"), model="babbage-002")
    (job,) = world.host.jobs.values()
    assert job.body["task"]["labels"] == list(LABELS)
    assert job.body["task"]["keep_metric"] == "valid_loss"
