"""With `--faults` the server misbehaves as real services do, but finishes every accepted job."""

from __future__ import annotations

import base64
import functools
import json
import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.integration

FAST = ("--set", "seconds_per_epoch=0.05")


def raw(call: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    """Return the body of an answer, unchanged by the client's types."""
    body: dict[str, Any] = json.loads(call(*arguments, **options).content)
    return body


def outcome(call: Callable[[], Any]) -> str:
    """Make a request, and return its outcome in a few words."""
    try:
        call()
    except openai.APIConnectionError:
        return "cut"
    except openai.APIStatusError as error:
        return f"{error.status_code} {error.code} {error.response.headers.get('retry-after')}"
    return "answered"


def test_a_job_exists_once_although_the_answer_is_lost(serve: Any, make_client: Any, make_examples: Any) -> None:
    faults = "lost_answer=0.3,error_after_accept=0.3,daily_limit=0.3,seed=3"
    client = make_client(serve("--faults", faults).client())
    file = client.upload(make_examples(12))
    jobs, refused = client.api.fine_tuning.jobs, "429 daily_rate_limit_exceeded None"
    outcomes = []
    for number in range(20):
        metadata = {"trial": str(number)}
        create = functools.partial(jobs.create, model="fake-small", training_file=file, metadata=metadata)
        outcomes.append(outcome(create))
        created = list(jobs.list(metadata=metadata))
        assert len(created) == (0 if outcomes[-1] == refused else 1)
        assert all(client.wait(job.id).status == "succeeded" for job in created)
    assert set(outcomes) == {"answered", "cut", "500 server_error None", refused}


def test_a_client_that_repeats_a_slow_creation_makes_several_jobs(serve: Any, make_examples: Any) -> None:
    server = serve("--faults", "slow_create=1:1")
    file = server.client().files.create(file=("a", make_examples(12)), purpose="fine-tune").id
    for retries, jobs in ((0, 1), (2, 3)):
        metadata = {"retries": str(retries)}
        with pytest.raises(openai.APITimeoutError):
            server.client(max_retries=retries, timeout=0.3).fine_tuning.jobs.create(
                model="fake-small", training_file=file, metadata=metadata
            )
        assert len(list(server.client().fine_tuning.jobs.list(metadata=metadata))) == jobs


def test_any_request_may_fail(serve: Any) -> None:
    api = serve("--faults", "connection_cut=0.25,server_error=0.25,rate_limit=0.25:130,seed=5").client()
    outcomes = {outcome(api.models.list) for _ in range(40)}
    # 130 seconds are more than the client is willing to wait
    assert outcomes == {"answered", "cut", "503 server_error None", "429 rate_limit_exceeded 130"}


def test_training_is_not_available_although_the_server_accepts_files(
    serve: Any, make_client: Any, make_examples: Any
) -> None:
    client = make_client(serve("--faults", "training_not_available").client())
    file = client.upload(make_examples(12))
    with pytest.raises(openai.PermissionDeniedError) as raised:
        client.api.fine_tuning.jobs.create(model="fake-small", training_file=file)
    assert (raised.value.code, raised.value.param) == ("training_not_available", None)
    assert not list(client.api.fine_tuning.jobs.list())


def test_faults_change_how_objects_look(serve: Any, make_client: Any, make_examples: Any) -> None:
    faults = (
        "slow_files=1:0.5,pending,odd_status=1:moderating,empty_error,null_fields,late_model=1:1.5,late_events=1:1.5,"
        "late_checkpoints,moderation,base64_results"
    )
    server = serve("--set", "seconds_per_epoch=0.4", "--faults", faults)
    client = make_client(server.client(_strict_response_validation=False))
    api, content = client.api, make_examples(12)
    file = api.files.create(file=("a.jsonl", content), purpose="fine-tune")
    assert file.status == "pending"
    with pytest.raises(openai.BadRequestError, match="not ready") as raised:
        api.fine_tuning.jobs.create(model="fake-small", training_file=file.id)
    assert raised.value.code == "file_not_ready"
    assert api.files.wait_for_processing(file.id, poll_interval=0.05).status == "processed"

    jobs = api.fine_tuning.jobs
    job = jobs.create(model="fake-small", training_file=file.id, hyperparameters={"n_epochs": 3})
    assert job.status == "pending"
    assert raw(jobs.with_raw_response.retrieve, job.id)["error"] == {}
    assert job.error is not None, "the client reads the empty object as an error"
    assert job.error.code is None
    assert (job.organization_id, job.result_files) == (None, None)
    statuses = []
    while True:
        checkpoints = list(jobs.checkpoints.list(job.id))
        if (job := jobs.retrieve(job.id)).status == "succeeded":
            break
        statuses.append(job.status)
        assert checkpoints == []
        time.sleep(0.02)
    assert set(statuses) | {"pending"} == {"pending", "moderating"}
    assert job.fine_tuned_model is None
    assert len(list(jobs.checkpoints.list(job.id))) == 3
    assert "The job has successfully completed" not in client.messages(job.id)
    deadline = time.monotonic() + 10
    while jobs.retrieve(job.id).fine_tuned_model is None or len(client.messages(job.id)) < 12:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    types = {event.type for event in jobs.list_events(job.id)}
    assert types == {"message", "metrics", "moderation_checks"}
    (result,) = jobs.retrieve(job.id).result_files
    assert base64.b64decode(api.files.content(result).read()).startswith(b"step,train_loss,")
    assert api.files.content(file.id).read() == content, "only result files are encoded as base64"


def test_accepted_jobs_hang_or_fail(serve: Any, make_client: Any, make_examples: Any) -> None:
    faults = "stuck_validation=0.5,job_failure=0.5:invalid_n_examples,seed=2"
    client = make_client(serve(*FAST, "--faults", faults).client())
    file = client.upload(make_examples(12))
    jobs = client.api.fine_tuning.jobs
    made = [jobs.create(model="fake-small", training_file=file).id for _ in range(8)]
    deadline = time.monotonic() + 20
    while True:
        found = [jobs.retrieve(job_id) for job_id in made]
        if {job.status for job in found} == {"validating_files", "failed", "succeeded"}:
            break
        assert time.monotonic() < deadline, [job.status for job in found]
        time.sleep(0.05)
    for job in found:
        if job.status == "failed":
            assert job.error.code == "invalid_n_examples"
            assert "must have at least 10 examples" in job.error.message
        if job.status == "validating_files":
            assert jobs.cancel(job.id).status == "cancelled"
