"""Every call of the protocol that the server offers, made by the real client in strict mode."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.integration

LABELS = [" red", " green", " blue"]
TASK = {"task": {"labels": LABELS}}


def test_files_are_uploaded_listed_read_and_deleted(client: Any, make_examples: Any) -> None:
    api, content = client.api, make_examples(12)
    made = [
        api.files.create(file=(f"{number}.jsonl", content), purpose="fine-tune", expires_after=expiry)
        for number, expiry in enumerate([openai.omit, {"anchor": "created_at", "seconds": 3600}, openai.omit])
    ]
    assert [file.bytes for file in made] == [len(content)] * 3
    assert [file.status for file in made] == ["processed"] * 3
    assert made[0].expires_at is None
    assert made[1].expires_at == made[1].created_at + 3600
    assert api.files.retrieve(made[1].id) == made[1]
    assert api.files.content(made[2].id).read() == content
    assert [file.id for file in api.files.list(limit=1)] == [file.id for file in reversed(made)]
    assert [file.id for file in api.files.list(limit=2, order="asc")] == [file.id for file in made]
    assert list(api.files.list(purpose="fine-tune-results")) == []
    assert api.files.delete(made[0].id).deleted
    with pytest.raises(openai.NotFoundError):
        api.files.retrieve(made[0].id)
    assert api.files.wait_for_processing(made[1].id).status == "processed"


def test_a_file_is_uploaded_in_parts(shared: Any, make_examples: Any) -> None:
    api, content = shared.api, make_examples(40)
    whole = api.uploads.upload_file_chunked(
        file=content,
        filename="parts.jsonl",
        bytes=len(content),
        mime_type="application/jsonl",
        purpose="fine-tune",
        part_size=500,
    )
    assert whole.status == "completed"
    assert whole.file is not None
    assert api.files.content(whole.file.id).read() == content

    upload = api.uploads.create(bytes=4, filename="b", mime_type="text/plain", purpose="fine-tune")
    second = api.uploads.parts.create(upload.id, data=b"cd")
    first = api.uploads.parts.create(upload.id, data=b"ab")
    with pytest.raises(openai.BadRequestError, match="5 bytes"):
        api.uploads.parts.create(upload.id, data=b"e")
    with pytest.raises(openai.BadRequestError, match="2 bytes, 4 were announced"):
        api.uploads.complete(upload.id, part_ids=[first.id])
    with pytest.raises(openai.BadRequestError, match="md5"):
        api.uploads.complete(upload.id, part_ids=[first.id, second.id], md5="0" * 32)
    done = api.uploads.complete(upload.id, part_ids=[first.id, second.id])
    assert api.files.content(done.file.id).read() == b"abcd"
    with pytest.raises(openai.BadRequestError, match="completed"):
        api.uploads.cancel(upload.id)
    other = api.uploads.create(bytes=4, filename="b", mime_type="text/plain", purpose="fine-tune")
    assert api.uploads.cancel(other.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        api.uploads.parts.create(other.id, data=b"ab")


def test_a_job_from_file_to_model(shared: Any) -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 5, "batch_size": "auto"}}}
    job = shared.create(method=method, suffix="My Colours!", metadata={"sweep": "a"}, extra_body=TASK)
    assert job.status in ("validating_files", "queued", "running", "succeeded")
    job = shared.wait(job.id)
    assert job.status == "succeeded", job.error
    assert job.error is None
    assert job.hyperparameters.n_epochs == 5
    assert job.hyperparameters.batch_size == 8, "the job shows the value in place of auto"
    assert job.method.supervised.hyperparameters.batch_size == 8
    assert job.fine_tuned_model == f"ft:fake-small:local:my-colours-:{job.id[6:16]}"
    assert job.trained_tokens > 0
    assert job.finished_at >= job.created_at
    assert job.metadata == {"sweep": "a"}
    assert job.seed == 7

    log = shared.messages(job.id)
    assert log[0] == f"Created fine-tuning job: {job.id}"
    assert "Files validated, moving job to queued state" in log
    assert log[-2:] == [
        f"New fine-tuned model created: {job.fine_tuned_model}",
        "The job has successfully completed",
    ]
    assert sum(message.startswith("Checkpoint created at step") for message in log) == 5

    events = list(shared.api.fine_tuning.jobs.list_events(job.id))[::-1]
    assert len(events) == len(log) == len({event.id for event in events})
    measured = [event.data for event in events if event.type == "metrics"]
    assert [data["step"] for data in measured if "full_valid_loss" in data] == [0, 4, 8, 12, 16, 20]
    assert all(data["total_steps"] == 20 for data in measured)
    assert all("train_loss" in data for data in measured if data["step"])

    checkpoints = list(shared.api.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [20, 16, 12], (
        "the last three checkpoints, the newest first"
    )
    assert checkpoints[0].metrics.full_valid_loss == measured[-1]["full_valid_loss"]

    (result,) = job.result_files
    rows = list(csv.DictReader(io.StringIO(shared.api.files.content(result).text)))
    assert [int(row["step"]) for row in rows] == [0, 4, 8, 12, 16, 20]
    assert float(rows[-1]["full_valid_loss"]) == measured[-1]["full_valid_loss"]
    assert rows[0]["train_loss"] == ""
    assert shared.api.files.retrieve(result).purpose == "fine-tune-results"


def test_a_queued_job_does_not_need_its_uploaded_files(shared: Any) -> None:
    job = shared.create()
    shared.wait(job.id, "queued", "running", "succeeded")
    shared.api.files.delete(job.training_file)
    shared.api.files.delete(job.validation_file)
    assert shared.wait(job.id).status == "succeeded"


def test_hyperparameters_in_the_deprecated_place_and_of_the_backend_are_accepted(shared: Any) -> None:
    job = shared.create(hyperparameters={"n_epochs": 1, "prompt_loss_weight": 0.1, "method": "lora", "lora_rank": 4})
    job = shared.wait(job.id)
    assert job.hyperparameters.model_extra == {"prompt_loss_weight": 0.1, "method": "lora", "lora_rank": 4}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"hyperparameters": {"lora_rnk": 3}}, "hyperparameters.lora_rnk", "lora_rank"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "below 1"),
        ({"hyperparameters": {"n_epochs": 1.5}}, "hyperparameters.n_epochs", ""),
        ({"hyperparameters": {"base_model": "/etc"}}, "hyperparameters.base_model", "model"),
        ({"hyperparameters": {"learning_rate": 1e-3, "learning_rate_multiplier": 1.0}}, None, "together"),
        ({"method": {"type": "dpo"}}, "method.type", "supervised"),
        ({"model": "gpt-4o"}, "model", "fake-small, fake-large"),
        ({"model": "../../etc/passwd"}, "model", "does not exist"),
        ({"training_file": "file-nothing"}, "training_file", "file-nothing"),
        ({"training_file": "../../etc/passwd"}, "training_file", "No such File"),
        ({"seed": -1}, "seed", "greater than"),
        ({"suffix": "x" * 65}, "suffix", "64"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "16"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "512"),
        ({"metadata": {"k" * 65: "v"}}, "metadata", "64"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations", ""),
        ({"extra_body": {"trainingTipe": 1}}, "trainingTipe", "Unrecognized request argument"),
        ({"extra_body": {"task": {"labels": "some"}}}, "task.labels", ""),
    ],
)
def test_a_wrong_request_for_a_job_is_refused_at_once(
    shared: Any, body: dict[str, Any], param: str | None, message: str
) -> None:
    before = [job.id for job in shared.api.fine_tuning.jobs.list()]
    with pytest.raises(openai.BadRequestError) as raised:
        shared.create(**body)
    assert raised.value.type == "invalid_request_error"
    assert message in raised.value.body["message"]  # type: ignore[index]
    if param is not None:
        assert raised.value.param is not None
        assert raised.value.param.startswith(param)
    assert [job.id for job in shared.api.fine_tuning.jobs.list()] == before


@pytest.mark.parametrize(
    ("training", "valid", "code", "param", "message"),
    [
        (b"{broken\n" * 20, None, "invalid_training_file", "training_file", "line 1"),
        (b'{"prompt": "a", "completion": "b"}\n' * 7, None, "invalid_n_examples", "training_file", "has 7 example(s)"),
        (
            b'{"messages": [{"role": "user", "content": "a"}]}\n' * 12,
            None,
            "invalid_training_file",
            "training_file",
            "",
        ),
        (None, b"[]\n", "invalid_validation_file", "validation_file", "not a JSON object"),
        (b"\xff\xfe" * 100, None, "invalid_training_file", "training_file", "UTF-8"),
    ],
)
def test_the_job_reports_what_is_wrong_with_its_files(
    shared: Any, training: bytes | None, valid: bytes | None, code: str, param: str, message: str
) -> None:
    job = shared.wait(shared.create(training, valid).id, "failed")
    assert (job.error.code, job.error.param) == (code, param)
    assert message in job.error.message
    assert any(job.error.message in line for line in shared.messages(job.id))


def test_without_a_validation_file_there_are_no_validation_metrics(shared: Any) -> None:
    job = shared.wait(shared.create(valid=None).id)
    assert job.status == "succeeded"
    events = shared.api.fine_tuning.jobs.list_events(job.id)
    names = {name for event in events if event.type == "metrics" for name in event.data}
    assert "full_train_loss" in names
    assert not any("valid" in name for name in names)


def test_jobs_are_listed_and_filtered(client: Any) -> None:
    made = [client.create(metadata=metadata) for metadata in ({"a": "1"}, {"a": "1", "b": "2"}, None, {"a": ""})]
    jobs = client.api.fine_tuning.jobs

    def listed(**query: Any) -> list[str]:
        return [job.id for job in jobs.list(limit=1, **query)]

    assert listed() == [job.id for job in reversed(made)]
    assert listed(metadata={"a": "1"}) == [made[1].id, made[0].id]
    assert listed(metadata={"a": "1", "b": "2"}) == [made[1].id]
    assert listed(metadata={"a": ""}) == [made[3].id]
    assert listed(metadata={"c": "1"}) == []
    assert [job.id for job in jobs.list(extra_query={"metadata": "null"})] == [made[2].id]
    assert [job.id for job in jobs.list(after=made[2].id)] == [made[1].id, made[0].id]
    with pytest.raises(openai.BadRequestError, match="after"):
        jobs.list(after="ftjob-nothing")


def test_jobs_are_cancelled_paused_and_resumed(serve: Any, make_client: Any) -> None:
    client = make_client(serve("--set", "seconds_per_epoch=0.5", "--max-jobs", "1").client())
    jobs = client.api.fine_tuning.jobs
    running = client.create(hyperparameters={"n_epochs": 40})
    waiting = client.create(hyperparameters={"n_epochs": 1})
    client.wait(running.id, "running")
    assert client.wait(waiting.id, "queued").status == "queued"
    raw = client.api  # the strict client refuses `paused`, because its own types lack it
    paused = json.loads(raw.fine_tuning.jobs.with_raw_response.pause(waiting.id).content)
    assert paused["status"] == "paused"
    with pytest.raises(openai.BadRequestError, match="cannot be paused"):
        jobs.pause(running.id)
    cancelled = jobs.cancel(running.id)
    assert cancelled.status == "cancelled"
    assert jobs.resume(waiting.id).status in ("queued", "running")
    assert client.wait(waiting.id).status == "succeeded"
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        jobs.cancel(running.id)
    with pytest.raises(openai.BadRequestError, match="succeeded"):
        jobs.resume(waiting.id)
    assert client.messages(running.id)[-1] == "Fine-tuning job cancelled"
    assert jobs.retrieve(running.id).fine_tuned_model is None


def test_models_are_listed_answer_prompts_and_are_deleted(client: Any) -> None:
    api = client.api
    job = client.wait(client.create(hyperparameters={"n_epochs": 2}, extra_body=TASK).id)
    name = job.fine_tuned_model
    checkpoints = api.fine_tuning.jobs.checkpoints.list(job.id)
    (last, first) = (checkpoint.fine_tuned_model_checkpoint for checkpoint in checkpoints)
    assert last == f"{name}:ckpt-step-8"
    assert {model.id for model in api.models.list()} == {"fake-small", "fake-large", name, first, last}
    assert api.models.retrieve(last).owned_by == "org-local"

    prompts = ["apple ->", "sea ->"]
    answer = api.completions.create(model=name, prompt=prompts, logprobs=5, max_tokens=1, temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        (top,) = choice.logprobs.top_logprobs
        assert set(top) == set(LABELS)
        assert choice.text == max(top, key=top.__getitem__) == choice.logprobs.tokens[0]
        assert choice.logprobs.token_logprobs == [max(top.values())]
    again = api.completions.create(model=name, prompt=prompts[1], logprobs=1)
    assert again.choices[0].text == answer.choices[1].text
    assert len(again.choices[0].logprobs.top_logprobs[0]) == 1

    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "apple"}]}]
    chat = api.chat.completions.create(model=first, messages=messages, logprobs=True, top_logprobs=2)
    (token,) = chat.choices[0].logprobs.content
    assert token.token == chat.choices[0].message.content
    logprobs = [top_logprob.logprob for top_logprob in token.top_logprobs]
    assert logprobs == sorted(logprobs, reverse=True)
    other = api.chat.completions.create(model="fake-small", messages=messages, extra_body={"labels": ["yes", "no"]})
    assert other.choices[0].message.content in ("yes", "no")
    free = api.chat.completions.create(model=name, messages=messages, extra_body={"labels": []}, stop=[" "])
    assert free.choices[0].message.content.startswith("pretence")
    assert " " not in free.choices[0].message.content

    assert api.models.delete(first).deleted
    with pytest.raises(openai.NotFoundError):
        api.completions.create(model=first, prompt="a")
    assert api.models.delete(name).deleted
    assert {model.id for model in api.models.list()} == {"fake-small", "fake-large"}
    assert api.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    with pytest.raises(openai.PermissionDeniedError):
        api.models.delete("fake-small")


@pytest.mark.parametrize(
    "body",
    [{"temperature": 2.5}, {"n": 2}, {"stream": True}, {"tools": []}, {"logprobs": True}, {"top_logprobs": 2}],
)
def test_a_feature_that_the_server_does_not_offer_is_refused(shared: Any, body: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(openai.BadRequestError):
        shared.api.chat.completions.create(model="fake-small", messages=messages, **body)


def test_a_label_is_not_drawn(shared: Any) -> None:
    messages, labels = [{"role": "user", "content": "a"}], {"labels": ["yes", "no"]}
    create = shared.api.chat.completions.create
    with pytest.raises(openai.BadRequestError, match="a label is never drawn"):
        create(model="fake-small", messages=messages, temperature=0.7, extra_body=labels)
    assert create(model="fake-small", messages=messages, temperature=0, extra_body=labels).choices
    assert create(model="fake-small", messages=messages, temperature=0.7, extra_body={"labels": []}).choices


def test_unknown_objects_are_not_found(shared: Any) -> None:
    api = shared.api
    for call in (
        lambda: api.files.retrieve("file-nothing"),
        lambda: api.files.content("file-nothing"),
        lambda: api.files.delete("file-nothing"),
        lambda: api.uploads.cancel("upload_nothing"),
        lambda: api.fine_tuning.jobs.retrieve("ftjob-nothing"),
        lambda: api.fine_tuning.jobs.cancel("ftjob-nothing"),
        lambda: list(api.fine_tuning.jobs.list_events("ftjob-nothing")),
        lambda: list(api.fine_tuning.jobs.checkpoints.list("ftjob-nothing")),
        lambda: api.models.retrieve("ft:nothing"),
        lambda: api.models.delete("ft:nothing"),
    ):
        with pytest.raises(openai.NotFoundError) as raised:
            call()
        assert set(raised.value.body) == {"message", "type", "param", "code"}  # type: ignore[arg-type]
