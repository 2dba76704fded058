"""The server with the real trainer: the same numbers as without it, interrupted or not."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.trains]

LABELS = [" red", " green", " blue"]
TASK = {"task": {"labels": LABELS, "per_epoch": 2, "train_examples": 20}}
LOCAL = ("--backend", "local", "--set", "device=cpu", "--max-jobs", "2")
"""Two jobs at once, so that each of them has half of the cores."""

SLOW = {"n_epochs": 6, "batch_size": 8}

KNOWN = ("apple", "rose", "sheep")
"""Words that the embedded model knows, so that an answer is one token."""

NAMES = {
    "full_valid_loss": "valid_loss",
    "full_valid_mean_token_accuracy": "valid_token_accuracy",
    "full_valid_accuracy": "valid_accuracy",
    "full_valid_macro_f1": "valid_macro_f1",
    "full_train_loss": "train_loss",
    "full_train_mean_token_accuracy": "train_token_accuracy",
    "full_train_accuracy": "train_accuracy",
    "full_train_macro_f1": "train_macro_f1",
}
"""The server's names of a complete evaluation -> the trainer's."""


@pytest.fixture(scope="module")
def local_server(serve_module: Any) -> Any:
    """A server with the local trainer."""
    return serve_module(*LOCAL)


@pytest.fixture(scope="module")
def local(local_server: Any, make_client: Any) -> Any:
    """The client of that server."""
    return make_client(local_server.client(timeout=120), "tiny-lm")


def evaluations(client: Any, job_id: str) -> list[Mapping[str, Any]]:
    """Return the data of the evaluations of the whole files, the oldest first."""
    events = list(client.api.fine_tuning.jobs.list_events(job_id))[::-1]
    return [event.data for event in events if event.type == "metrics" and "full_train_loss" in event.data]


def assert_alike(found: list[Mapping[str, Any]], expected: list[Mapping[str, Any]]) -> None:
    assert [evaluation["step"] for evaluation in found] == [evaluation["step"] for evaluation in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6), (name, one["step"])


def trained_directly(folder: Path, training: bytes, validation: bytes, values: Mapping[str, Any]) -> tuple[Any, Any]:
    """Train the same run without any server. Return the backend and the events."""
    from backends.contract import DataFile, Dataset, EvaluationSettings, Placement, TrainingRequest
    from backends.local import LocalBackend
    from backends.local.options import LocalOptions

    files = []
    for name, content in (("train", training), ("valid", validation)):
        path = folder / f"{name}.jsonl"
        path.write_bytes(content)
        files.append(DataFile(str(path), content.count(b"\n"), hashlib.sha256(content).hexdigest()))
    backend = LocalBackend.open(LocalOptions(device="cpu"), folder / "work", Placement(cpus=1))
    request = TrainingRequest(
        key="the-same",
        base_model="builtin:tiny-lm",
        dataset=Dataset(files[0], files[1], "completion", tuple(LABELS), ""),
        hyperparameters=dict(values),
        seed=7,
        evaluation=EvaluationSettings(2, 20, "valid_loss", False),
    )
    handle, events = backend.submit(request), []
    while not events or type(events[-1]).__name__ not in ("Finished", "Failed", "Stopped"):
        events += backend.events(handle, len(events))
    return backend, events


@pytest.mark.parametrize(
    ("written", "used"),
    [
        ({"n_epochs": 2, "batch_size": 6, "learning_rate_multiplier": 0.3, "prompt_loss_weight": 0.1}, None),
        ({"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}, {}),
        ({"n_epochs": 1, "method": "lora", "lora_rank": 4, "learning_rate": 0.003}, None),
    ],
)
def test_the_numbers_are_those_of_the_trainer(
    local: Any, make_examples: Any, tmp_path: Path, written: dict[str, Any], used: dict[str, Any] | None
) -> None:
    from backends.contract import Charged, Finished, Measured, PredictOptions, Started

    training, validation = make_examples(50), make_examples(21)
    method = {"type": "supervised", "supervised": {"hyperparameters": written}}
    job = local.wait(local.create(training, validation, method=method, extra_body=TASK).id)
    assert job.status == "succeeded", job.error
    backend, events = trained_directly(tmp_path, training, validation, written if used is None else used)
    try:
        measured = [event for event in events if isinstance(event, Measured) and event.scope == "evaluation"]
        expected = [{"step": event.step, "epoch": event.epoch, **event.values} for event in measured]
        assert len(expected) > 2
        assert all(math.isfinite(value) for evaluation in expected for value in evaluation.values())
        found = [
            {NAMES.get(name, name): value for name, value in evaluation.items() if name in {*NAMES, "step", "epoch"}}
            for evaluation in evaluations(local, job.id)
        ]
        assert_alike(found, expected)

        (start,) = (event for event in events if isinstance(event, Started))
        shown = job.hyperparameters.to_dict()
        assert shown.keys() >= {"n_epochs", "batch_size"}, "the job shows the values in place of auto"
        assert {name: shown[name] for name in shown} == {name: start.resolved.get(name) for name in shown}
        assert job.trained_tokens == sum(event.tokens for event in events if isinstance(event, Charged))

        prompts = [json.loads(line)["prompt"] for line in validation.splitlines()]
        end = events[-1]
        assert isinstance(end, Finished)
        expected_answers = backend.predict(
            end.model,
            [{"prompt": prompt, "segments": [prompt]} for prompt in prompts],
            PredictOptions(labels=tuple(LABELS)),
        )
    finally:
        backend.close()
    answers = local.api.completions.create(model=job.fine_tuned_model, prompt=prompts, logprobs=3)
    for choice, wanted in zip(answers.choices, expected_answers, strict=True):
        assert choice.text == wanted.text
        (top,) = choice.logprobs.top_logprobs
        assert [top[label] for label in LABELS] == pytest.approx(wanted.label_logprobs, rel=1e-4)


def echoes(count: int) -> bytes:
    """Return a chat file that a run learns with any seed and rounding: the answer is the word in
    the question.
    """
    lines = []
    for number in range(count):
        word = KNOWN[number % len(KNOWN)]
        lines.append([{"role": "user", "content": f"{word} {word} ->"}, {"role": "assistant", "content": word}])
    return "".join(json.dumps({"messages": messages}) + "\n" for messages in lines).encode()


def test_a_chat_file_makes_a_model_that_answers(local: Any) -> None:
    values = {"n_epochs": 8, "batch_size": 8, "learning_rate_multiplier": 0.5}
    training, validation = echoes(120), echoes(9)
    task = {"labels": "auto", "keep_metric": "valid_accuracy", "keep_maximum": True}
    job = local.create(training, validation, hyperparameters=values, extra_body={"task": task})
    job = local.wait(job.id)
    assert job.status == "succeeded", job.error
    api, right = local.api, 0
    lines = [json.loads(line)["messages"] for line in validation.splitlines()]
    for question, answer in lines:
        chat = api.chat.completions.create(
            model=job.fine_tuned_model, messages=[question], logprobs=True, top_logprobs=3, max_tokens=1, temperature=0
        )
        (token,) = chat.choices[0].logprobs.content
        assert {top_logprob.token for top_logprob in token.top_logprobs} == set(KNOWN)
        assert chat.choices[0].message.content == token.token == token.top_logprobs[0].token
        right += token.token == answer["content"]
    best = max(evaluation["full_valid_accuracy"] for evaluation in evaluations(local, job.id))
    assert right / len(lines) == pytest.approx(best)
    assert best > 0.9, "the model has learned the task"
    free = api.chat.completions.create(
        model=job.fine_tuned_model, messages=[lines[0][0]], max_tokens=8, extra_body={"labels": []}
    )
    assert free.choices[0].message.content.strip()
    assert free.choices[0].logprobs is None
    assert free.choices[0].finish_reason == "stop", "the model has learned when to end"
    (base,) = api.completions.create(model="tiny-lm", prompt="a dog", max_tokens=3).choices
    assert (base.finish_reason, base.logprobs) == ("length", None)


def test_answers_are_drawn_if_the_request_says_so(local: Any) -> None:
    def text(**fields: Any) -> str:
        answer = local.api.completions.create(model="tiny-lm", prompt="a dog", max_tokens=12, **fields)
        return str(answer.choices[0].text)

    assert text(temperature=1.5, seed=1) == text(temperature=1.5, seed=1)
    assert len({text(temperature=1.5, seed=seed) for seed in range(6)}) > 1
    greedy = text()
    assert text(temperature=0, seed=7, top_p=0.5) == greedy, "without temperature nothing is drawn"
    assert text(temperature=1.5, top_p=1e-9, seed=3) == greedy, "only the most probable token is left"
    first, second = greedy[3], greedy[6]
    ends = min(greedy.index(first), greedy.index(second))
    assert text(stop=[second, first]) == greedy[:ends]


def test_a_fine_tuned_model_can_be_fine_tuned_further(local: Any, make_examples: Any) -> None:
    first = local.wait(local.create(make_examples(50), make_examples(21), extra_body=TASK).id)
    second = local.create(
        make_examples(50),
        make_examples(21),
        model=first.fine_tuned_model,
        hyperparameters={"n_epochs": 1},
        extra_body=TASK,
    )
    second = local.wait(second.id)
    assert second.status == "succeeded", second.error
    best = min(evaluations(local, first.id), key=lambda evaluation: evaluation["full_valid_loss"])
    begin = evaluations(local, second.id)[0]
    assert begin["step"] == 0
    assert begin["full_valid_loss"] == pytest.approx(best["full_valid_loss"], rel=1e-4)
    assert second.fine_tuned_model.startswith("ft:tiny-lm:local::")


def test_a_deleted_model_leaves_the_disk(local: Any, make_examples: Any, module_root: Path) -> None:
    job = local.wait(local.create(make_examples(50), make_examples(21), hyperparameters={"n_epochs": 1}).id)
    names = [model.id for model in local.api.models.list() if model.id.startswith(job.fine_tuned_model)]
    assert len(names) == 2, "the model, and its one checkpoint"
    weights = [path for path in module_root.rglob("*.safetensors") if job.id in str(path)]
    assert weights
    for name in names:
        assert local.api.models.delete(name).deleted
    deadline = time.monotonic() + 60  # the server answers before the backend has deleted the files
    while any(weight.exists() for weight in weights):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def uninterrupted(local: Any, make_examples: Any) -> list[Mapping[str, Any]]:
    """The evaluations of a run without any interruption."""
    job = local.create(make_examples(240), make_examples(30), hyperparameters=SLOW)
    assert local.wait(job.id).status == "succeeded"
    return evaluations(local, job.id)


def past(client: Any, job_id: str, step: int) -> None:
    """Wait until the server has evaluated a job at a step."""
    deadline = time.monotonic() + 60
    while not any(evaluation["step"] >= step for evaluation in evaluations(client, job_id)):
        assert time.monotonic() < deadline
        assert client.api.fine_tuning.jobs.retrieve(job_id).status not in ("succeeded", "failed"), "too late"
        time.sleep(0.02)


def test_a_paused_run_resumes_where_it_was(
    local: Any, make_examples: Any, uninterrupted: list[Mapping[str, Any]]
) -> None:
    job = local.create(make_examples(240), make_examples(30), hyperparameters=SLOW)
    past(local, job.id, 60)
    raw = local.api.fine_tuning.jobs.with_raw_response.pause(job.id)
    assert json.loads(raw.content)["status"] == "paused"
    time.sleep(0.5)
    before = len(evaluations(local, job.id))
    time.sleep(0.5)
    assert len(evaluations(local, job.id)) == before < len(uninterrupted)
    assert local.api.fine_tuning.jobs.resume(job.id).status == "queued"
    assert local.wait(job.id).status == "succeeded"
    assert_alike(evaluations(local, job.id), uninterrupted)
    assert {"Fine-tuning job paused", "Fine-tuning job resumed"} <= set(local.messages(job.id))


def workers_of(server: Any) -> list[int]:
    """Return the ids of the worker processes of a server."""
    listed = subprocess.run(
        ["pgrep", "-P", str(server.process.pid), "-f", "sweeps.server.worker_process"],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(number) for number in listed.stdout.split()]


def is_alive(process_id: int) -> bool:
    """Return whether a process runs. A zombie waits only for its parent."""
    state = subprocess.run(["ps", "-o", "state=", "-p", str(process_id)], capture_output=True, text=True, check=False)
    return state.stdout.strip() not in ("", "Z")


def kill_workers(server: Any) -> int:
    """Kill the worker processes of a server. Return how many there were."""
    workers = workers_of(server)
    for process_id in workers:
        os.kill(process_id, signal.SIGKILL)
    return len(workers)


@pytest.mark.slow
def test_a_run_outlives_its_process(
    local: Any, local_server: Any, make_examples: Any, uninterrupted: list[Mapping[str, Any]]
) -> None:
    asked = {"model": "tiny-lm", "prompt": "a dog", "max_tokens": 3}
    answer = local.api.completions.create(**asked).choices
    job = local.create(make_examples(240), make_examples(30), hyperparameters=SLOW)
    past(local, job.id, 60)
    assert kill_workers(local_server) == 2, "one trains, and one predicts"
    assert local.wait(job.id).status == "succeeded"
    assert_alike(evaluations(local, job.id), uninterrupted)
    assert "The training process was killed by signal 9; it is started again" in local.messages(job.id)
    assert local.api.completions.create(**asked).choices == answer


@pytest.mark.slow
def test_a_run_whose_process_dies_repeatedly_fails(local: Any, local_server: Any, make_examples: Any) -> None:
    values = {"n_epochs": 200, "batch_size": 4}
    job = local.create(make_examples(240), make_examples(30), hyperparameters=values)
    for number in range(3):
        past(local, job.id, 60 * (number + 1))
        assert kill_workers(local_server)
    found = local.wait(job.id)
    assert found.status == "failed"
    assert found.error.code == "worker_died"
    assert "was killed by signal 9, 3 times" in found.error.message


def test_a_cancelled_job_keeps_its_checkpoints(local: Any, make_examples: Any) -> None:
    job = local.create(make_examples(240), make_examples(30), hyperparameters=SLOW, extra_body=TASK)
    past(local, job.id, 60)
    assert local.api.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    checkpoints = local.api.fine_tuning.jobs.checkpoints.list(job.id)
    model, *_ = (checkpoint.fine_tuned_model_checkpoint for checkpoint in checkpoints)
    answer = local.api.completions.create(model=model, prompt="sea sky ->", logprobs=1)
    assert answer.choices[0].text in LABELS
    assert local.api.fine_tuning.jobs.retrieve(job.id).fine_tuned_model is None
    assert len(local.api.files.list(purpose="fine-tune-results").data) == len(
        [listed for listed in local.api.fine_tuning.jobs.list() if listed.status == "succeeded"]
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_run_outlives_its_server(
    serve: Any, make_client: Any, make_examples: Any, uninterrupted: list[Mapping[str, Any]], number: int
) -> None:
    server = serve(*LOCAL)
    client = make_client(server.client(timeout=120), "tiny-lm")
    job = client.create(make_examples(240), make_examples(30), hyperparameters=SLOW)
    past(client, job.id, 60)
    workers = workers_of(server)
    assert len(workers) == 1
    code = server.stop(number)
    assert code == (0 if number == signal.SIGTERM else -number)
    deadline = time.monotonic() + 60
    while any(is_alive(process_id) for process_id in workers):
        assert time.monotonic() < deadline, "the process that trains has outlived its server"
        time.sleep(0.02)
    client = make_client(serve(*LOCAL).client(timeout=120), "tiny-lm")
    assert client.wait(job.id).status == "succeeded"
    assert_alike(evaluations(client, job.id), uninterrupted)
    steps = [message for message in client.messages(job.id) if message.startswith("Step ")]
    assert len(steps) == len(set(steps)), "each step has one line"


def test_prompts_that_wait_for_a_model_do_not_delay_other_requests(serve: Any, make_client: Any) -> None:
    """The first answer takes seconds, until the model is loaded.

    There are more prompts than request threads.
    """
    client = make_client(serve(*LOCAL).client(timeout=120), "tiny-lm")
    answered: list[Any] = []

    def ask(number: int) -> None:
        answered.append(client.api.completions.create(model="tiny-lm", prompt=f"a {number}", max_tokens=2))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    assert not list(client.api.fine_tuning.jobs.list())
    meanwhile = len(answered)
    for thread in threads:
        thread.join()
    assert meanwhile == 0
    assert len(answered) == 60


def test_a_stop_does_not_wait_for_prompts_that_wait_for_a_model(serve: Any, make_client: Any) -> None:
    """They are refused, so that a client repeats them; nobody hangs."""
    server = serve(*LOCAL)
    client = make_client(server.client(timeout=120), "tiny-lm")
    ends: list[str] = []

    def ask(number: int) -> None:
        try:
            # different stops, so that no two of them share a batch
            client.api.completions.create(model="tiny-lm", prompt="a", max_tokens=500, stop=f"stop {number}")
            ends.append("answered")
        except openai.APIStatusError as error:
            ends.append(str(error.status_code))
        except openai.APIConnectionError:
            ends.append("cut")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while not workers_of(server):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(server.process.pid, signal.SIGTERM)
    for thread in threads:
        thread.join(120)
    assert server.process.wait(60) == 0
    assert len(ends) == 20
    assert ends.count("503") >= 10, ends
    assert not any("Traceback" in line for line in server.log), server.log
