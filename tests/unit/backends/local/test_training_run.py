"""Whole runs on tiny models: memory, divergence, interruption, the kept model, and checks."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from backends import codec
from backends.contract import (
    BackendError,
    Charged,
    Checkpointed,
    DataFile,
    Dataset,
    EvaluationSettings,
    Event,
    Failed,
    FailureKind,
    Finished,
    Measured,
    Placement,
    PredictOptions,
    Scalar,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.local import LocalBackend, loss, model_evaluation, training
from backends.local.model import LoadedModel
from backends.local.model_cache import MODEL_CACHE
from backends.local.options import LocalOptions
from backends.testing import drain, evaluations, events_as_text
from tests.unit.backends.local.conftest import open_backend, run_in_parts

pytestmark = [pytest.mark.integration, pytest.mark.trains]

POINT: dict[str, Scalar] = {"n_epochs": 2, "batch_size": 4, "learning_rate": 0.01, "prompt_loss_weight": 0.1}
WriteFile = Callable[[Path, Sequence[Mapping[str, Any]]], DataFile]


def request_for(dataset: Dataset, key: str = "run", seed: int = 7, **changes: Any) -> TrainingRequest:
    fields: dict[str, Any] = {"hyperparameters": POINT, "evaluation": EvaluationSettings(train_examples=8)} | changes
    return TrainingRequest(key=key, base_model="", dataset=dataset, seed=seed, **fields)


def run(backend: LocalBackend, request: TrainingRequest) -> list[Event]:
    return drain(backend, backend.submit(request), timeout_s=60)


def measured(events: Sequence[Event]) -> list[Measured]:
    return [event for event in events if isinstance(event, Measured)]


def values(events: Sequence[Event]) -> list[float]:
    return [value for measurement in measured(events) for _, value in sorted(measurement.values.items())]


def resolved(events: Sequence[Event]) -> Mapping[str, Scalar]:
    (started,) = (event for event in events if isinstance(event, Started))
    return started.resolved


# ------------------------------------------------------------------------- micro-batches and memory
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_results_do_not_depend_on_the_micro_batch_size(
    name: str, dataset: Dataset, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = tmp_path / "model"
    shutil.copytree(request.getfixturevalue(name), model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    # Dropout would draw different numbers for different micro-batch sizes.
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    point = {key: value for key, value in POINT.items() if name == "llama" or key != "prompt_loss_weight"}
    runs = []
    for size in (1, 2, 4):
        backend = open_backend(tmp_path / str(size), model, micro_batch_size=size)
        events = run(backend, request_for(dataset, hyperparameters={**point, "learning_rate": 1e-3}))
        assert resolved(events)["micro_batch_size"] == size
        runs.append(values(events))
        backend.close()
    assert runs[0] == pytest.approx(runs[2], rel=1e-4, abs=1e-5)
    assert runs[1] == pytest.approx(runs[2], rel=1e-4, abs=1e-5)


def limit_examples(monkeypatch: pytest.MonkeyPatch, limit: int) -> list[int]:
    """Make memory run out above `limit` examples at once.

    Return the list that records the attempted sizes.
    """
    tried: list[int] = []
    summed = loss.summed_loss

    def limited(model: LoadedModel, data: Any, batch: Any, weight: float) -> torch.Tensor:
        tried.append(len(batch))
        if len(batch) > limit:
            raise torch.OutOfMemoryError("injected")
        return summed(model, data, batch, weight)

    monkeypatch.setattr(loss, "summed_loss", limited)
    return tried


def test_a_shortage_of_memory_halves_the_micro_batch_and_changes_nothing_else(
    llama: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = open_backend(tmp_path, llama)
    plenty = run(backend, request_for(dataset, "plenty", hyperparameters={**POINT, "learning_rate": 1e-3}))
    tried = limit_examples(monkeypatch, 1)
    scarce = run(backend, request_for(dataset, "scarce", hyperparameters={**POINT, "learning_rate": 1e-3}))
    backend.close()
    assert tried[:4] == [4, 2, 1, 1]
    assert set(tried[2:]) == {1}
    assert values(scarce) == pytest.approx(values(plenty), rel=1e-4, abs=1e-5)


def test_an_example_that_does_not_fit_fails_the_run(
    llama: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_examples(monkeypatch, 0)
    backend = open_backend(tmp_path, llama)
    end = run(backend, request_for(dataset))[-1]
    backend.close()
    assert isinstance(end, Failed)
    assert end.failure.kind is FailureKind.OUT_OF_MEMORY
    assert MODEL_CACHE.active_run is None


# --------------------------------------------------------------------------------------- divergence
def test_a_diverged_run_reports_the_non_finite_value(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, llama)
    point = {**POINT, "learning_rate": 1.0, "max_grad_norm": 0.0, "weight_decay": 10.0, "n_epochs": 200}
    events = run(backend, request_for(dataset, hyperparameters=point))
    backend.close()
    end = events[-1]
    assert isinstance(end, Failed)
    assert end.failure.kind is FailureKind.DIVERGED
    last = measured(events)[-1]
    assert any(not math.isfinite(value) for value in last.values.values())
    assert str(last.step) in end.failure.message


# ------------------------------------------------------------------------- repetition, interruption
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_interrupted_run_gives_the_events_of_an_uninterrupted_one(
    name: str, method: str, dataset: Dataset, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    point = {**POINT, "method": method, "lora_dropout": 0.2, "schedule": "linear"}
    training_request = request_for(
        dataset, hyperparameters=point, evaluation=EvaluationSettings(per_epoch=3, train_examples=8)
    )
    backend = open_backend(tmp_path / "whole", model)
    whole = run(backend, training_request)
    backend.close()
    events = run_in_parts(tmp_path / "parts", model, training_request, len(whole))
    assert events_as_text(measured(events)) == events_as_text(measured(whole))
    assert not (tmp_path / "parts" / "jobs" / "run" / "resume.pt").exists()


def test_the_run_of_a_dead_process_continues_from_its_last_epoch(
    llama: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training_request = request_for(dataset, hyperparameters={**POINT, "n_epochs": 3})
    backend = open_backend(tmp_path / "whole", llama)
    whole = run(backend, training_request)
    backend.close()
    (tmp_path / "request.json").write_text(json.dumps(codec.to_json(training_request)), encoding="utf-8")
    code = f"""
import json, os
from pathlib import Path
from backends import codec
from backends.contract import Measured, Placement, TrainingRequest
from backends.local import LocalBackend, training
request = codec.from_json(TrainingRequest, json.loads(Path({str(tmp_path / "request.json")!r}).read_text()))
options = LocalBackend.options_model(model={str(llama)!r}, device="cpu")
backend = LocalBackend.open(options, Path({str(tmp_path / "crashed")!r}), Placement())
handle, count = backend.submit(request), 0
step = training.TrainingLoop.step
def dying(self, batch, rate):
    if self.progress.step == 17:
        os._exit(9)
    return step(self, batch, rate)
training.TrainingLoop.step = dying
while True:
    count += len(backend.events(handle, count))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 9
    backend = open_backend(tmp_path / "crashed", llama)
    handle = backend.submit(training_request)
    before = list(backend.events(handle, 0))
    assert max(measurement.epoch for measurement in measured(before)) == 2.0
    steps, step = [], training.TrainingLoop.step
    monkeypatch.setattr(
        training.TrainingLoop, "step", lambda self, *rest: steps.append(self.progress.step) or step(self, *rest)
    )
    everything = drain(backend, handle, 60, before)
    backend.close()
    assert steps == list(range(14, 21))  # two of three epochs of seven steps were done
    assert events_as_text(measured(everything)) == events_as_text(measured(whole))


def test_runs_that_take_turns_do_not_affect_each_other(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, llama)
    alone = {seed: run(backend, request_for(dataset, f"alone-{seed}", seed)) for seed in (1, 2)}
    handles = {seed: backend.submit(request_for(dataset, f"turns-{seed}", seed)) for seed in (1, 2)}
    turns: dict[int, list[Event]] = {1: [], 2: []}
    while not all(events and isinstance(events[-1], Finished) for events in turns.values()):
        for seed, handle in handles.items():
            turns[seed] += backend.events(handle, len(turns[seed]))
    backend.close()
    assert {seed: events_as_text(measured(events)) for seed, events in turns.items()} == {
        seed: events_as_text(measured(events)) for seed, events in alone.items()
    }


def test_a_second_trial_loads_and_encodes_nothing(
    llama: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backends.local import encoding
    from backends.local import model as models

    backend = open_backend(tmp_path, llama)
    run(backend, request_for(dataset, "first"))
    for module, name in ((models, "load_model"), (models, "load_tokenizer"), (encoding, "encode_causal")):
        monkeypatch.delattr(module, name)
    scored: list[str] = []
    evaluate = model_evaluation.evaluate
    monkeypatch.setattr(
        model_evaluation, "evaluate", lambda m, d, prefix: scored.append(prefix) or evaluate(m, d, prefix)
    )
    events = run(backend, request_for(dataset, "second", seed=8, hyperparameters={**POINT, "n_epochs": 1}))
    assert isinstance(events[-1], Finished)
    assert scored == ["valid", "train"]  # the base model's own score comes from the cache
    assert measured(events)[0].epoch == 0
    backend.close()


# --------------------------------------------------------------------------------- what is measured
def test_training_improves_accuracy_and_the_best_state_is_kept(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, llama)
    evaluation = EvaluationSettings(per_epoch=2, train_examples=8, keep_metric="valid_accuracy", keep_maximum=True)
    events = run(backend, request_for(dataset, hyperparameters={**POINT, "n_epochs": 8}, evaluation=evaluation))
    scores = [evaluation.values["valid_accuracy"] for evaluation in evaluations(events)]
    assert max(scores) > measured(events)[0].values["valid_accuracy"]
    kept = [event for event in events if isinstance(event, Checkpointed)]
    improvements = [
        evaluation.step for n, evaluation in enumerate(evaluations(events)) if n == 0 or scores[n] > max(scores[:n])
    ]
    assert [event.step for event in kept] == improvements
    assert isinstance(events[-1], Finished)
    lines = [json.loads(line) for line in Path(dataset.valid.path).read_text(encoding="utf-8").splitlines()]
    answers = backend.predict(events[-1].model, lines, PredictOptions(labels=dataset.labels))
    right = sum(answer.text == line["completion"] for answer, line in zip(answers, lines, strict=True))
    assert right / len(lines) == max(scores)
    (text,) = backend.predict(events[-1].model, lines[:1], PredictOptions(max_tokens=12, stop=dataset.stop))
    assert dataset.stop not in text.text
    backend.close()


def test_a_kept_model_is_a_plain_transformers_model(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    backend = open_backend(tmp_path, llama)
    for method, load in (("full", AutoModelForCausalLM), ("lora", AutoPeftModelForCausalLM)):
        end = run(backend, request_for(dataset, method, hyperparameters={**POINT, "method": method}))[-1]
        assert isinstance(end, Finished)
        with warnings.catch_warnings():
            # peft uses what transformers is about to drop
            warnings.simplefilter("ignore", FutureWarning)
            model = load.from_pretrained(end.model)
        assert model(torch.tensor([[4, 5]])).logits.shape[:2] == (1, 2)
        assert AutoTokenizer.from_pretrained(end.model)("ab")["input_ids"] == [4, 5]
    backend.close()


def test_training_tokens_are_charged_before_the_evaluation_they_led_to(
    llama: Path, dataset: Dataset, tmp_path: Path
) -> None:
    events = run(
        open_backend(tmp_path, llama),
        request_for(dataset, evaluation=EvaluationSettings(per_epoch=2, train_examples=8)),
    )
    assert [event.tokens > 0 for event in events if isinstance(event, Charged)] == [True] * 4
    at = [index for index, event in enumerate(events) if isinstance(event, Measured) and event.scope == "evaluation"]
    assert all(any(isinstance(event, Charged) for event in events[one:other]) for one, other in itertools.pairwise(at))
    assert not any(isinstance(event, Charged) for event in events[at[-1] :])


def test_a_run_can_continue_from_a_kept_model(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, llama)
    for method in ("full", "lora"):
        point = {**POINT, "method": method}
        first = run(backend, request_for(dataset, f"{method}-1", hyperparameters=point))
        assert isinstance(first[-1], Finished)
        again = run(backend, request_for(dataset, f"{method}-2", hyperparameters=point, resume_from=first[-1].model))
        best = min(evaluation.values["valid_loss"] for evaluation in evaluations(first))
        assert measured(again)[0].values["valid_loss"] == pytest.approx(best, rel=1e-4)
    end = run(backend, request_for(dataset, "mixed", resume_from=first[-1].model))[-1]
    assert isinstance(end, Failed)
    assert end.failure.kind is FailureKind.USER
    backend.close()


def test_without_labels_the_loss_replaces_a_label_metric(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, llama)
    unlabelled = dataclasses.replace(dataset, labels=())
    evaluation = EvaluationSettings(train_examples=8, keep_metric="valid_accuracy", keep_maximum=True)
    events = run(backend, request_for(unlabelled, evaluation=evaluation))
    backend.close()
    assert resolved(events)["keep_metric"] == "valid_loss"
    assert "valid_accuracy" in str(resolved(events)["keep_metric_note"])


def test_a_chat_data_set_is_trained_and_predicted(llama: Path, tmp_path: Path, write: WriteFile) -> None:
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"is {n} odd"},
                {"role": "assistant", "content": "yes" if n % 2 else "no"},
            ]
        }
        for n in range(16)
    ]
    data = Dataset(write(tmp_path / "t", chats), write(tmp_path / "v", chats[:4]), "chat", ("no", "yes"))
    backend = open_backend(tmp_path / "w", llama)
    end = run(backend, request_for(data))[-1]
    assert isinstance(end, Finished)
    answers = backend.predict(end.model, chats[:3], PredictOptions(labels=("no", "yes")))
    prompts = [{"messages": chat["messages"][:1]} for chat in chats[:3]]
    again = backend.predict(end.model, prompts, PredictOptions(labels=("no", "yes")))
    assert [answer.text for answer in answers] == [answer.text for answer in again]
    backend.close()


@pytest.mark.parametrize(("train_on", "trained"), [("all", 16), ("last", 8)])
def test_a_run_says_how_many_answers_it_trains(
    train_on: Literal["all", "last"], trained: int, llama: Path, tmp_path: Path, write: WriteFile
) -> None:
    talks = [
        {"messages": [{"role": role, "content": f"{n} {turn}"} for turn in "ab" for role in ("user", "assistant")]}
        for n in range(8)
    ]
    file = write(tmp_path / "talks.jsonl", talks)
    data = Dataset(file, file, "chat", train_on=train_on)
    backend = open_backend(tmp_path / "w", llama)
    facts = resolved(run(backend, request_for(data)))
    assert (facts["trained_answers"], facts["lost_answers"]) == (trained, 0)
    backend.close()


def test_each_choice_of_answers_has_its_own_baseline(llama: Path, tmp_path: Path, write: WriteFile) -> None:
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "the second answer"},
    ]
    file = write(tmp_path / "talks.jsonl", [{"messages": messages}] * 4)
    backend = open_backend(tmp_path, llama)
    losses = {}
    for key, train_on in (("last", "last"), ("all", "all"), ("again", "last")):
        events = run(backend, request_for(Dataset(file, file, "chat", train_on=train_on), key))
        losses[key] = measured(events)[0].values["valid_loss"]
    backend.close()
    assert losses["last"] == losses["again"]
    assert losses["last"] != losses["all"]


def test_a_trial_prints_and_logs_nothing(
    llama: Path, dataset: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    with warnings.catch_warnings(), caplog.at_level(logging.INFO):
        warnings.simplefilter("error")
        backend = open_backend(tmp_path, llama)
        for method in ("full", "lora"):
            end = run(backend, request_for(dataset, method, hyperparameters={**POINT, "method": method}))[-1]
            assert isinstance(end, Finished)
            backend.predict(end.model, [{"prompt": "ab"}], PredictOptions(max_tokens=2))
        backend.close()
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.get_verbosity() == verbosity


# -------------------------------------------------------------------------------------------- check
def messages(backend: LocalBackend, request: TrainingRequest) -> str:
    check_failures = backend.check(request)
    assert all(failure.kind is FailureKind.USER for failure in check_failures)
    return " ".join(failure.message for failure in check_failures)


def test_an_unknown_pretraining_rate_is_reported_with_a_remedy(gpt2: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, gpt2)
    relative = request_for(dataset, hyperparameters={"n_epochs": 1, "learning_rate_multiplier": 0.1})
    (failure,) = backend.check(relative)
    assert "pre-training" in failure.message
    assert "pretraining_learning_rate" in failure.detail
    assert not backend.check(request_for(dataset))
    assert not open_backend(tmp_path, gpt2, pretraining_learning_rate=1e-3).check(relative)


def test_the_multiplier_multiplies_the_rate_of_training_json(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, llama)
    point = {"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 0.05}
    used = resolved(run(backend, request_for(dataset, hyperparameters=point)))
    backend.close()
    assert used["learning_rate"] == pytest.approx(0.05 * 0.01)
    assert used["pretraining_learning_rate_source"] == "made for a test"


def test_bad_data_is_reported(llama: Path, bert: Path, dataset: Dataset, tmp_path: Path, write: WriteFile) -> None:
    causal, encoder = open_backend(tmp_path, llama), open_backend(tmp_path, bert)
    line = {"prompt": "a", "completion": " yes|", "segments": ["a"]}
    one_class = dataclasses.replace(dataset, train=write(tmp_path / "one", [line] * 4))
    assert "same label" in messages(causal, request_for(one_class))
    broken = dataclasses.replace(dataset, valid=write(tmp_path / "broken", [{"prompt": "a"}]))
    assert "completion" in messages(causal, request_for(broken))
    plain = {name: value for name, value in POINT.items() if name != "prompt_loss_weight"}
    assert "labels" in messages(encoder, request_for(dataclasses.replace(dataset, labels=()), hyperparameters=plain))
    assert "prompt_loss_weight" in messages(encoder, request_for(dataset))


def test_a_full_disk_is_reported(
    llama: Path, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))  # type: ignore[attr-defined]
    assert "disk" in messages(open_backend(tmp_path, llama), request_for(dataset))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_reported(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = LocalBackend.open(LocalOptions(model=str(llama), device="cuda"), tmp_path, Placement())
    assert "cuda" in messages(backend, request_for(dataset))


# -------------------------------------------------------------------------------- estimate and disk
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_estimate_bounds_the_size_of_the_kept_model(
    llama: Path, dataset: Dataset, tmp_path: Path, method: str
) -> None:
    backend = open_backend(tmp_path, llama)
    request = request_for(dataset, hyperparameters={**POINT, "method": method})
    estimate = backend.estimate(request)
    events = run(backend, request)
    backend.close()
    assert estimate.tokens == resolved(events)["training_tokens"]
    assert estimate.seconds is not None
    assert estimate.seconds > 0
    weights = sum(file.stat().st_size for file in (tmp_path / "jobs" / "run" / "model").glob("*.safetensors"))
    assert estimate.disk_bytes is not None
    assert 0.3 * weights < estimate.disk_bytes
    if method == "full":
        assert estimate.disk_bytes == pytest.approx(weights, rel=0.5)


def test_an_ended_run_leaves_only_its_journal_and_its_model(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, llama)
    run(backend, request_for(dataset))
    backend.close()
    assert {path.name for path in (tmp_path / "jobs" / "run").iterdir()} == {
        "request.json", "events.jsonl", "model", "lock",
    }  # fmt: skip


def test_a_stop_request_from_another_backend_ends_the_run(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend, other = open_backend(tmp_path, llama), open_backend(tmp_path, llama)
    handle = backend.submit(request_for(dataset, hyperparameters={**POINT, "n_epochs": 100}))
    seen = list(backend.events(handle, 0))
    other.stop(handle)  # the first backend trains the run and will see the request
    seen = drain(backend, handle, 60, seen)
    assert isinstance(seen[-1], Stopped)
    assert isinstance(other.events(handle, 0)[-1], Stopped)
    backend.close()
    other.close()


def test_a_discarded_model_cannot_predict(llama: Path, dataset: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, llama)
    end = run(backend, request_for(dataset))[-1]
    assert isinstance(end, Finished)
    backend.predict(end.model, [{"prompt": "a"}], PredictOptions(max_tokens=1))
    backend.discard(backend.submit(request_for(dataset)))
    with pytest.raises(BackendError):
        backend.predict(end.model, [{"prompt": "a"}], PredictOptions(max_tokens=1))
    backend.close()
