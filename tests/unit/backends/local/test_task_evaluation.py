"""Task metrics during training: what is generated when, events, the kept state, interruption."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from backends import codec
from backends.contract import (
    GENERATED_SAMPLE,
    BackendError,
    Charged,
    Checkpointed,
    DataFile,
    Dataset,
    Decoding,
    EvaluationSettings,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Generated,
    GeneratedText,
    GenerationSettings,
    Measured,
    MetricRequest,
    PredictOptions,
    Scalar,
    Started,
    TrainingRequest,
)
from backends.local import LocalBackend, task_evaluation
from backends.metrics import task_measurement
from backends.metrics.measurement import Measurement, MetricSet
from backends.testing import drain, evaluations, events_as_text
from tests.unit.backends.local.conftest import open_backend, run_in_parts

pytestmark = [pytest.mark.integration, pytest.mark.trains]

WriteFile = Callable[[Path, Sequence[Mapping[str, Any]]], DataFile]
EXACT = MetricRequest("exact_match", "exact_match")
POINT: dict[str, Scalar] = {"n_epochs": 3, "batch_size": 4, "learning_rate": 0.01}
EVALUATION = EvaluationSettings(
    per_epoch=4,
    train_examples=8,
    keep_metric="valid_exact_match",
    keep_maximum=True,
    metrics=(EXACT,),
    generation=GenerationSettings(examples=10, per_epoch=2, decoding=Decoding(max_tokens=8)),
)


def echoes(count: int, offset: int = 0) -> list[dict[str, Any]]:
    """Return lines whose answer is the letter of their prompt, three times."""
    letters = "abcdefgh"
    chosen = [letters[(n * 5 + n // 8) % 8] for n in range(offset, offset + count)]
    return [
        {"prompt": f"{letter}#", "completion": f"{letter * 3}|", "row": {"wanted": letter * 3}} for letter in chosen
    ]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory, write: WriteFile) -> Dataset:
    folder = tmp_path_factory.mktemp("echo")
    train, valid = write(folder / "train.jsonl", echoes(32)), write(folder / "valid.jsonl", echoes(24, 100))
    return Dataset(train, valid, "completion", (), "|")


def request_for(dataset: Dataset, key: str = "run", **changes: Any) -> TrainingRequest:
    fields: dict[str, Any] = {"hyperparameters": POINT, "evaluation": EVALUATION, "seed": 7} | changes
    return TrainingRequest(key=key, base_model="", dataset=dataset, **fields)


def run(backend: LocalBackend, request: TrainingRequest) -> list[Event]:
    return drain(backend, backend.submit(request), timeout_s=120)


def of(kind: type[Any], events: Sequence[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def kept_texts(model: str) -> list[GeneratedText]:
    lines = (Path(model) / "generated.jsonl").read_text(encoding="utf-8").splitlines()
    return [codec.from_json(GeneratedText, json.loads(line)) for line in lines]


# ------------------------------------------------------------------------------------------- events
def test_evaluations_generate_as_often_as_the_request_says(llama: Path, task: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, llama)
    events = run(backend, request_for(task))
    backend.close()
    assert isinstance(events[-1], Finished)
    measured = [event for event in of(Measured, events) if event.scope == "evaluation"]
    with_metric = [event.epoch for event in measured if "valid_exact_match" in event.values]
    assert len(measured) == 1 + 4 * 3
    assert with_metric == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert [event.epoch for event in of(Generated, events)] == with_metric
    for before, event in itertools.pairwise(events):
        if isinstance(event, Measured) and "valid_exact_match" in event.values:
            assert isinstance(before, Generated)
            assert (before.step, before.epoch) == (event.step, event.epoch)
    for generated in of(Generated, events):
        assert generated.examples == 10
        assert [text.example for text in generated.texts] == [text.example for text in of(Generated, events)[0].texts]
        assert len(generated.texts) == 10
        assert generated.truncated == sum(text.truncated for text in generated.texts)
    (started,) = of(Started, events)
    assert (started.resolved["generated_examples"], started.resolved["generated_max_tokens"]) == (10, 8)
    assert all(event.usd is None for event in of(Charged, events)), "the metric is free"


def test_the_metric_is_that_of_the_texts_and_rises_on_a_task_that_is_easy(
    llama: Path, task: Dataset, tmp_path: Path
) -> None:
    backend = open_backend(tmp_path, llama)
    events = run(backend, request_for(task, hyperparameters={**POINT, "n_epochs": 12}))
    values = {event.step: event.values for event in of(Measured, events) if "valid_exact_match" in event.values}
    for generated in of(Generated, events):
        right = [float(text.text.strip() == text.reference) for text in generated.texts]
        assert values[generated.step]["valid_exact_match"] == pytest.approx(sum(right) / 10)
        assert [text.scores["exact_match"] for text in generated.texts] == right
    scores = [value["valid_exact_match"] for value in values.values()]
    assert max(scores) == 1.0
    assert scores[0] < 0.5
    # The kept state is the first one with the best value, and predicts what it has generated.
    assert isinstance(events[-1], Finished)
    kept = of(Checkpointed, events)[-1]
    assert kept.step == next(step for step, value in values.items() if step and value["valid_exact_match"] == 1.0)
    texts = kept_texts(events[-1].model)
    assert [text.text.strip() for text in texts] == [text.reference for text in texts]
    lines = [json.loads(line) for line in Path(task.valid.path).read_text(encoding="utf-8").splitlines()]
    options = PredictOptions.generate(Decoding(max_tokens=8), task.stop)
    predictions = backend.predict(events[-1].model, [lines[text.example] for text in texts], options)
    assert [(answer.text, answer.truncated) for answer in predictions] == [(t.text, t.truncated) for t in texts]
    backend.close()


def test_a_state_without_the_metric_is_never_kept(llama: Path, task: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, llama)
    events = run(backend, request_for(task))
    backend.close()
    kept = {event.step for event in of(Checkpointed, events)}
    generated = {event.step for event in of(Generated, events)}
    assert kept
    assert kept <= generated
    best = max(event.values["valid_exact_match"] for event in evaluations(events) if event.step in generated)
    assert isinstance(events[-1], Finished)
    assert best == sum(text.scores["exact_match"] for text in kept_texts(events[-1].model)) / 10


def test_a_state_kept_by_its_loss_has_the_texts_of_its_own_evaluation(
    llama: Path, task: Dataset, tmp_path: Path
) -> None:
    by_loss = dataclasses.replace(EVALUATION, per_epoch=2, keep_metric="valid_loss", keep_maximum=False)
    by_loss = dataclasses.replace(by_loss, generation=dataclasses.replace(EVALUATION.generation, per_epoch=1))
    backend = open_backend(tmp_path, llama)
    handle = backend.submit(request_for(task, evaluation=by_loss))
    events: list[Event] = []
    while not events or not isinstance(events[-1], Finished):
        events += backend.events(handle, len(events))
        kept = of(Checkpointed, events)
        if isinstance(events[-1], Checkpointed):
            has_texts = kept[-1].step in {event.step for event in of(Generated, events)}
            assert (Path(kept[-1].model) / "generated.jsonl").is_file() == has_texts
    backend.close()
    assert {event.step for event in of(Checkpointed, events)} - {event.step for event in of(Generated, events)}


def test_long_texts_are_cut_in_events_but_not_on_disk(
    llama: Path, task: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_measurement, "_MAX_SHOWN_CHARACTERS", 2)
    generation = dataclasses.replace(EVALUATION.generation, examples=24)
    evaluation = dataclasses.replace(EVALUATION, generation=generation)
    backend = open_backend(tmp_path, llama)
    events = run(backend, request_for(task, evaluation=evaluation))
    backend.close()
    last = of(Generated, events)[-1]
    assert len(last.texts) == GENERATED_SAMPLE
    assert last.examples == 24
    assert all(len(part) <= 2 for text in last.texts for part in (text.prompt, text.reference, text.text))
    assert isinstance(events[-1], Finished)
    texts = kept_texts(events[-1].model)
    assert len(texts) == 24
    assert all(len(text.reference) == 3 for text in texts)


# -------------------------------------------------------------------------- the same for all trials
def test_all_trials_have_the_same_examples_and_one_base_model(
    llama: Path, task: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = open_backend(tmp_path, llama)
    first = run(backend, request_for(task, "first", seed=1))
    measured: list[int] = []
    measure = task_evaluation.TaskEvaluation.measure
    monkeypatch.setattr(task_evaluation.TaskEvaluation, "measure", lambda self: measured.append(1) or measure(self))
    second = run(backend, request_for(task, "second", seed=2))
    assert len(measured) == 2 * 3, "the base model is measured once per workspace"
    assert of(Generated, first)[0] == of(Generated, second)[0]
    other = dataclasses.replace(EVALUATION.generation, decoding=Decoding(max_tokens=3))
    third = run(backend, request_for(task, "third", evaluation=dataclasses.replace(EVALUATION, generation=other)))
    assert of(Generated, third)[0].texts != of(Generated, first)[0].texts, "but anew for another decoding"
    backend.close()
    examples = [[text.example for text in of(Generated, events)[0].texts] for events in (first, second, third)]
    assert examples[0] == examples[1] == examples[2]
    assert examples[0] == sorted(examples[0])
    assert examples[0] != list(range(10))


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_interrupted_run_gives_the_events_of_an_uninterrupted_one(
    method: str, temperature: float, llama: Path, task: Dataset, tmp_path: Path
) -> None:
    generation = dataclasses.replace(EVALUATION.generation, decoding=Decoding(8, temperature=temperature))
    evaluation = dataclasses.replace(EVALUATION, generation=generation)
    point = {**POINT, "method": method, "lora_dropout": 0.2, "schedule": "linear"}
    training_request = request_for(task, hyperparameters=point, evaluation=evaluation)
    backend = open_backend(tmp_path / "whole", llama)
    whole = run(backend, training_request)
    backend.close()
    events = run_in_parts(tmp_path / "parts", llama, training_request, len(whole))
    parts = [str(event).replace(str(tmp_path / "parts"), str(tmp_path / "whole")) for event in events]
    assert parts == [str(event) for event in whole]
    assert isinstance(whole[-1], Finished)
    assert isinstance(events[-1], Finished)
    assert kept_texts(events[-1].model) == kept_texts(whole[-1].model)


def test_generation_does_not_change_the_training(llama: Path, task: Dataset, tmp_path: Path) -> None:
    sampling = dataclasses.replace(EVALUATION.generation, decoding=Decoding(8, temperature=1.0))
    with_texts = dataclasses.replace(EVALUATION, keep_metric="valid_loss", keep_maximum=False, generation=sampling)
    without = dataclasses.replace(with_texts, metrics=(), generation=None)
    backend = open_backend(tmp_path, llama)
    point = {**POINT, "method": "lora", "lora_dropout": 0.2}
    both = [
        run(backend, request_for(task, key, hyperparameters=point, evaluation=evaluation))
        for key, evaluation in (("with", with_texts), ("without", without))
    ]
    backend.close()
    losses = [[event.values.get("valid_loss") for event in of(Measured, events)] for events in both]
    assert losses[0] == losses[1]


# ----------------------------------------------------------------------------------------- failures
def test_a_metric_that_fails_ends_the_run_with_its_own_error(
    llama: Path, task: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, calls = MetricSet.measure, []

    def failing(self: MetricSet, *arguments: Any) -> Measurement:
        calls.append(1)
        if len(calls) == 3:
            raise BackendError(Failure(FailureKind.USER, "metric 'exact_match': it returned nan", "mend it"))
        return measure(self, *arguments)

    monkeypatch.setattr(MetricSet, "measure", failing)
    backend = open_backend(tmp_path, llama)
    events = run(backend, request_for(task))
    backend.close()
    assert isinstance(events[-1], Failed)
    assert events[-1].failure == Failure(FailureKind.USER, "metric 'exact_match': it returned nan", "mend it")
    *_, charged, measured, _ = events
    assert isinstance(charged, Charged), "the tokens before the failure were spent"
    assert charged.tokens > 0
    assert isinstance(measured, Measured)
    assert "valid_loss" in measured.values


def test_the_cost_of_a_metric_is_charged_before_its_value(
    llama: Path, task: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = MetricSet.measure
    monkeypatch.setattr(
        MetricSet, "measure", lambda self, *rest: dataclasses.replace(measure(self, *rest), usd=0.25, tokens=9)
    )
    init = task_evaluation.TaskEvaluation.__init__

    def paid(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        self.is_paid = True

    monkeypatch.setattr(task_evaluation.TaskEvaluation, "__init__", paid)
    backend = open_backend(tmp_path, llama)
    runs = [run(backend, request_for(task, key)) for key in ("first", "second")]
    backend.close()
    for events, base_model_usd in zip(runs, (0.25, 0.0), strict=True):
        costs = [event for event in of(Charged, events) if event.usd is not None]
        assert [cost.usd for cost in costs] == [base_model_usd, *[0.25] * 6]
        for first, second, third in zip(events, events[1:], events[2:], strict=False):
            if isinstance(third, Measured) and "valid_exact_match" in third.values:
                assert isinstance(second, Generated)
                assert isinstance(first, Charged)
                assert first.usd is not None


def messages(backend: LocalBackend, request: TrainingRequest) -> str:
    return " ".join(f"{failure.message} {failure.detail}" for failure in backend.check(request))


def test_what_cannot_be_measured_is_found_at_check(llama: Path, bert: Path, task: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, llama, max_length=32)
    assert messages(backend, request_for(task)) == ""

    def changed(**changes: Any) -> TrainingRequest:
        return request_for(task, evaluation=dataclasses.replace(EVALUATION, **changes))

    def generating(**changes: Any) -> TrainingRequest:
        return changed(generation=dataclasses.replace(EVALUATION.generation, **changes))

    unknown = messages(backend, changed(metrics=(MetricRequest("x", "exact_macht"),), keep_metric="valid_loss"))
    assert "metric 'x'" in unknown
    assert "exact_match" in unknown, "the nearest name"
    assert "divides" in messages(backend, generating(per_epoch=3))
    assert "leave no room for a prompt" in messages(backend, generating(decoding=Decoding(max_tokens=32)))
    assert "does not measure valid_other" in messages(backend, changed(keep_metric="valid_other"))
    assert "valid_exact_match" in messages(backend, changed(keep_metric="valid_other"))
    several = generating(decoding=Decoding(max_tokens=32), per_epoch=3)
    assert "divides" in messages(backend, several)
    assert "leave no room" in messages(backend, several), "all problems at once"
    labelled = dataclasses.replace(task, labels=tuple(sorted({line["completion"] for line in echoes(64)})))
    encoder = open_backend(tmp_path / "encoder", bert)
    failures = messages(encoder, request_for(labelled))
    assert "encoder classifier generates no text" in failures
    assert not encoder.capabilities.task_metrics
    assert backend.capabilities.task_metrics


def test_a_further_value_that_the_metric_lacks_is_an_error_of_the_request(
    llama: Path, task: Dataset, tmp_path: Path
) -> None:
    backend = open_backend(tmp_path, llama)
    events = run(
        backend, request_for(task, evaluation=dataclasses.replace(EVALUATION, keep_metric="valid_exact_match_x"))
    )
    backend.close()
    assert isinstance(events[-1], Failed)
    assert "do not measure valid_exact_match_x" in events[-1].failure.message
    assert "valid_exact_match" in events[-1].failure.detail
    assert not of(Checkpointed, events)


# ---------------------------------------------------------------------------------- estimate, chat
def test_the_estimate_includes_the_time_of_generation_but_no_tokens(
    llama: Path, task: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backends.local import estimation

    monkeypatch.setattr(estimation, "_generation_s", lambda *_: 1000.0)
    backend = open_backend(tmp_path, llama)
    without = dataclasses.replace(EVALUATION, metrics=(), generation=None, keep_metric="valid_loss")
    plain, generating = (backend.estimate(request_for(task, evaluation=e)) for e in (without, EVALUATION))
    backend.close()
    assert generating.tokens == plain.tokens
    assert plain.seconds is not None
    assert plain.seconds < 1000
    assert generating.seconds == pytest.approx(7000, abs=500), "two in each of three epochs, and the base model"
    assert "generation" in generating.basis
    assert "generation" not in plain.basis


def test_the_time_of_generation_is_measured(llama: Path, task: Dataset, tmp_path: Path) -> None:
    backend = open_backend(tmp_path, llama)
    estimate = backend.estimate(request_for(task))
    backend.close()
    assert estimate.seconds is not None
    assert estimate.seconds > 0


def test_a_chat_task_is_measured(llama: Path, tmp_path: Path, write: WriteFile) -> None:
    chats = [
        {
            "messages": [
                {"role": "user", "content": line["prompt"]},
                {"role": "assistant", "content": line["row"]["wanted"]},
            ]
        }
        for line in echoes(16)
    ]
    data = Dataset(write(tmp_path / "t", chats), write(tmp_path / "v", chats[:6]), "chat")
    backend = open_backend(tmp_path / "w", llama)
    events = run(backend, request_for(data))
    backend.close()
    assert isinstance(events[-1], Finished)
    (first, *_) = of(Generated, events)
    assert first.texts[0].reference == chats[0]["messages"][1]["content"]
    assert first.texts[0].prompt.endswith("assistant:")
    assert events_as_text(of(Generated, events))
