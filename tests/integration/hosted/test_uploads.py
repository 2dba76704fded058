"""Uploads of data files: each file once per account, large files in parts."""

from __future__ import annotations

import hashlib
import json

import pytest
from hosted_world import CREATE, HostedWorld
from scripted_host import ConnectionCutError, Response, change_behaviour

from backends.contract import BackendError, FailureKind, Finished
from backends.hosted import host_client, profile

pytestmark = pytest.mark.integration


def test_a_file_is_uploaded_once_for_all_trials_and_sweeps(world: HostedWorld) -> None:
    first = world.open("one")
    world.complete(first, key="a")
    world.complete(first, key="b", n_epochs=1)
    world.complete(world.open("two"), key="c")
    assert world.host.operations.count("POST files") == 2
    assert {job.body["training_file"] for job in world.host.jobs.values()} == {"file-000001"}


def test_a_file_that_the_host_no_longer_has_is_uploaded_again(world: HostedWorld) -> None:
    backend = world.open()
    world.complete(backend, key="a")
    world.host.files.clear()
    world.complete(backend, key="b")
    assert world.host.operations.count("POST files") == 4


@pytest.fixture
def uploads_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upload files above 1,000 bytes in parts of 700 bytes."""
    openai = profile.load("openai")
    files = openai.files.model_copy(update={"multipart_above_bytes": 1000, "max_bytes": 100_000})
    monkeypatch.setattr(profile, "load", lambda name: openai.model_copy(update={"files": files}))
    monkeypatch.setattr(host_client, "PART_BYTES", 700)


@pytest.mark.usefixtures("uploads_in_parts")
def test_a_large_file_is_uploaded_in_parts_and_a_small_one_in_one_request(world: HostedWorld) -> None:
    world.complete(world.open("one"), key="a")
    world.complete(world.open("two"), key="b")
    sizes = sorted(file["bytes"] for file in world.data_files())
    assert len(sizes) == 2, "a file that was uploaded in parts is found and used again, too"
    assert sizes[0] < 1000 < sizes[1]
    assert world.host.operations.count("POST files") == world.host.operations.count("POST uploads") == 1
    assert world.host.operations.count("POST uploads/*/parts") == -(-sizes[1] // 700) > 2
    (job, _) = world.host.jobs.values()
    sent = world.host.contents[job.body["training_file"]]
    assert hashlib.sha256(sent).hexdigest() in world.host.files[job.body["training_file"]]["filename"]
    assert len(sent.splitlines()) == 24


@pytest.mark.usefixtures("uploads_in_parts")
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("operation", ["POST uploads", "POST uploads/*/parts", "POST uploads/*/complete"])
def test_an_interrupted_upload_in_parts_is_repeated(world: HostedWorld, operation: str, moment: str) -> None:
    faults_left = [1]

    def fault(current_operation: str, current_moment: str) -> Response | None:
        if (current_operation, current_moment) == (operation, moment) and faults_left:
            faults_left.pop()
            raise ConnectionCutError("cut")
        return None

    world.host.fault = fault
    assert isinstance(world.complete(world.open())[-1], Finished)
    assert not faults_left
    assert len(world.host.jobs) == 1
    assert len(world.data_files()) == 2, "a file whose upload lost only its answer is found by its name"


def test_a_job_waits_for_the_file_check(world: HostedWorld) -> None:
    change_behaviour(world.host, file_polls=4)
    assert isinstance(world.complete(world.open())[-1], Finished)
    assert world.host.operations.count(CREATE) == 1


def test_a_rejected_file_is_a_user_error(world: HostedWorld) -> None:
    def fault(operation: str, moment: str) -> Response | None:
        if (operation, moment) != ("POST files", "after"):
            return None
        (*_, id_) = world.host.files
        return Response(
            200, json.dumps({**world.host.files[id_], "status": "error", "status_details": "line 3"}).encode()
        )

    world.host.fault = fault
    backend = world.open()
    with pytest.raises(BackendError, match="line 3") as raised:
        backend.submit(world.request())
    assert raised.value.failure.kind is FailureKind.USER
    world.host.fault = lambda operation, moment: None
    assert isinstance(world.complete(backend)[-1], Finished), "the corrected request may be submitted with the same key"


def test_uploaded_examples_have_the_documented_format(world: HostedWorld) -> None:
    world.complete(world.open(system_message="Name the colour."))
    content = world.host.contents["file-000001"].decode().splitlines()
    assert json.loads(content[1]) == {
        "messages": [
            {"role": "system", "content": "Name the colour."},
            {"role": "user", "content": "thing 1\n\n###\n\n"},
            {"role": "assistant", "content": "green"},
        ]
    }
    world.complete(world.open("text", model="babbage-002"), key="t", model="babbage-002")
    content = world.host.contents["file-000003" if "file-000003" in world.host.contents else "file-000004"].decode()
    assert json.loads(content.splitlines()[1]) == {"prompt": "thing 1\n\n###\n\n", "completion": " green"}
