"""Task metrics of hosted models: the trained model answers a sample of the validation set."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hosted_world import AZURE, HostedWorld, cut_connection, evaluations
from pydantic import BaseModel
from scripted_host import Response, change_behaviour, error_response

from backends.contract import (
    TERMINAL_EVENTS,
    BackendError,
    Charged,
    Decoding,
    EvaluationSettings,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Generated,
    GenerationSettings,
    Measured,
    MetricRequest,
    PredictOptions,
    TrainingRequest,
)
from backends.hosted import HostedBackend
from backends.hosted.journal import run_id
from backends.metrics import registry
from backends.metrics.contract import Answers, MetricDeclaration, Scores
from backends.metrics.requested_metric import prepared
from backends.metrics.sample import sampled_examples

pytestmark = pytest.mark.integration

EXACT = MetricRequest("exact_match", "exact_match")
RATIO = MetricRequest("length", "length_ratio")
DECODING = Decoding(max_tokens=9, stop=("###",))
ASKING = "POST chat/completions"


def completions_of(world: HostedWorld) -> list[str]:
    return [line["completion"].strip() for line in world.prompts]


@pytest.fixture(autouse=True)
def free_text(world: HostedWorld) -> None:
    """Let the task have no labels, and the models answer two of three prompts correctly."""
    world.dataset = dataclasses.replace(world.dataset, labels=())
    truth = {line["prompt"]: line["completion"].strip() for line in world.prompts}

    def write(model: str, request: dict[str, Any]) -> dict[str, Any]:
        correct = truth[request["messages"][-1]["content"]]
        return {"content": "purple" if correct == "blue" else correct}

    world.host.write = write


def request(world: HostedWorld, key: str = "k", **changes: Any) -> TrainingRequest:
    settings: dict[str, Any] = {
        "keep_metric": "valid_exact_match",
        "keep_maximum": True,
        "metrics": (EXACT,),
        "generation": GenerationSettings(examples=200, decoding=DECODING),
        **changes,
    }
    return dataclasses.replace(world.request(key), evaluation=EvaluationSettings(**settings))


def run(world: HostedWorld, backend: HostedBackend, key: str = "k", **changes: Any) -> list[Event]:
    return world.drain(backend, backend.submit(request(world, key, **changes)))


def generated(events: Sequence[Event]) -> Generated:
    (found,) = (event for event in events if isinstance(event, Generated))
    return found


def prompts_asked(world: HostedWorld) -> list[str]:
    return [body["messages"][-1]["content"] for body in world.host.prediction_requests]


# ------------------------------------------------------------------------------------------- values
def test_the_last_evaluation_has_the_metrics_and_the_texts_precede_it(world: HostedWorld) -> None:
    backend = world.open()
    assert backend.capabilities.task_metrics
    assert list(backend.check(request(world))) == []
    events = run(world, backend, metrics=(EXACT, RATIO))
    first, last = evaluations(events)
    assert "valid_exact_match" not in first.values, "there is no model of that epoch to ask"
    assert last.values["valid_exact_match"] == pytest.approx(4 / 6)
    assert last.values["valid_length"] > 0
    assert "valid_loss" in last.values
    shown = generated(events)
    assert events[events.index(shown) + 1] == last
    assert (shown.step, shown.epoch, shown.examples, shown.truncated) == (last.step, 2.0, 6, 0)
    assert [text.example for text in shown.texts] == list(range(6))
    assert [text.reference for text in shown.texts] == completions_of(world)
    assert [text.prompt for text in shown.texts] == [line["prompt"].strip() for line in world.prompts]
    right = [float(text.text == text.reference) for text in shown.texts]
    assert [text.scores["exact_match"] for text in shown.texts] == right
    assert sum(right) == 4
    assert isinstance(events[-1], Finished)
    (job,) = world.host.jobs.values()
    assert events[-1].model == world.host.final_model(job)


def test_the_model_is_asked_with_the_decoding_of_the_request_and_the_finals_ask_nothing_again(
    world: HostedWorld,
) -> None:
    backend = world.open()
    run(world, backend)
    (model,) = {body["model"] for body in world.host.prediction_requests}
    for body in world.host.prediction_requests:
        assert (body["max_tokens"], body["stop"], body["temperature"]) == (9, "###", 0.0)
        assert "seed" not in body
        assert "logprobs" not in body
    assert len(world.host.prediction_requests) == 6
    answers = backend.predict(model, world.prompts, PredictOptions.generate(DECODING, world.dataset.stop))
    assert [answer.text for answer in answers].count("purple") == 2
    assert len(world.host.prediction_requests) == 6, "the answers of the evaluation are used again"


def test_a_sample_is_asked_and_all_its_texts_are_on_disk(world: HostedWorld) -> None:
    backend = world.open()
    events = run(world, backend, generation=GenerationSettings(examples=3, decoding=DECODING))
    sample = sampled_examples(6, 3, world.dataset.valid.sha256)
    assert sorted(prompts_asked(world)) == sorted(world.prompts[n]["prompt"] for n in sample)
    assert tuple(text.example for text in generated(events).texts) == sample
    file = world.folder / "workspace" / "hosted" / "generated" / f"{run_id('k')}.jsonl"
    assert [json.loads(line)["example"] for line in file.read_text().splitlines()] == list(sample)


def test_a_text_that_was_cut_and_a_refusal_are_what_they_are(world: HostedWorld) -> None:
    def write(model: str, body: dict[str, Any]) -> dict[str, Any]:
        if body["messages"][-1]["content"] == world.prompts[0]["prompt"]:
            return {"content": "red and so on", "finish_reason": "length"}
        if body["messages"][-1]["content"] == world.prompts[1]["prompt"]:
            return {"refusal": "I'm sorry, but I can't help with that."}
        return {"content": "red ### and what the host should have left out", "finish_reason": "length"}

    world.host.write = write
    events = run(world, world.open(), metrics=(EXACT, MetricRequest("refusals", "refusal_rate")))
    shown = generated(events)
    assert [(text.text, text.truncated) for text in shown.texts[:3]] == [
        ("red and so on", True),
        ("I'm sorry, but I can't help with that.", False),
        ("red ", False),
    ]
    assert shown.truncated == 1
    assert evaluations(events)[-1].values["valid_refusals"] == pytest.approx(1 / 6)


def test_labels_and_texts_are_asked_for_independently(world: HostedWorld) -> None:
    world.dataset = dataclasses.replace(world.dataset, labels=(" red", " green", " blue"))
    events = run(world, world.open())
    values = evaluations(events)[-1].values
    assert {"valid_accuracy", "valid_macro_f1", "valid_exact_match", "valid_loss"} <= set(values)
    assert len(world.host.prediction_requests) == 12
    events = run(world, world.open("other", ask_labels=False), "other")
    assert "valid_accuracy" not in evaluations(events)[-1].values
    assert "valid_exact_match" in evaluations(events)[-1].values


def test_the_server_of_this_package_keeps_by_the_loss_and_answers_freely(world: HostedWorld) -> None:
    world.host.write = lambda model, body: {"content": "red"}
    world.dataset = dataclasses.replace(world.dataset, labels=(" red", " green", " blue"))
    backend = world.open(host="local", model="babbage-002", poll_s=0)
    backend.submit(dataclasses.replace(request(world), base_model="babbage-002"))
    (job,) = world.host.jobs.values()
    assert "keep_metric" not in job.body["task"]
    assert "keep_maximum" not in job.body["task"]
    assert "metrics" not in job.body["task"]
    kept_by_loss = dataclasses.replace(request(world, "loss", keep_metric="valid_loss"), base_model="babbage-002")
    backend.submit(kept_by_loss)
    assert list(world.host.jobs.values())[-1].body["task"]["keep_metric"] == "valid_loss"
    backend.predict("babbage-002", world.prompts, PredictOptions.generate(DECODING, "\n"))
    assert [(body["labels"], body["stop"]) for body in world.host.prediction_requests] == [([], ["\n", "###"])]


# ------------------------------------------------------------------------- interruptions, bad days
def test_a_killed_client_asks_no_prompt_twice(world: HostedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.hosted.model_evaluation.PROMPTS_PER_CALL", 4)
    backend = world.open()
    handle = backend.submit(request(world))
    while not world.host.prediction_requests:
        world.now += 5
        assert not any(isinstance(event, TERMINAL_EVENTS) for event in backend.events(handle, 0))
    assert len(world.host.prediction_requests) == 4, "the reader of the events gets its turn"
    events = world.drain(world.open(), handle)  # the first client is never heard of again
    assert evaluations(events)[-1].values["valid_exact_match"] == pytest.approx(4 / 6)
    assert sorted(prompts_asked(world)) == sorted(line["prompt"] for line in world.prompts)
    assert sum(isinstance(event, Generated) for event in events) == 1


def test_a_host_that_stops_answering_is_waited_for(world: HostedWorld) -> None:
    answers = [0]

    def fault(operation: str, moment: str) -> Response | None:
        if operation == ASKING and moment == "before":
            answers[0] += 1
            if answers[0] > 2 and world.now < back_at:
                cut_connection(operation, moment)
        return None

    world.host.fault = fault
    back_at = world.now + 3 * 3600
    backend = world.open(patience_s=60)
    handle = backend.submit(request(world))
    waited = False
    while world.now < back_at:
        assert not any(isinstance(event, TERMINAL_EVENTS) for event in backend.events(handle, 0))
        waiting = backend.waiting(handle)
        waited |= waiting is not None and "cannot be reached" in waiting.reason
        world.now += 60
    assert waited
    events = world.drain(backend, handle)
    assert evaluations(events)[-1].values["valid_exact_match"] == pytest.approx(4 / 6)
    assert sorted(prompts_asked(world)) == sorted(line["prompt"] for line in world.prompts)


def refuse(operation: str, moment: str) -> Response | None:
    return error_response(403, "no inference for you") if operation == ASKING else None


def test_a_refusal_costs_only_the_metrics_if_another_metric_is_the_objective(
    world: HostedWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.host.fault = refuse
    events = run(world, world.open(), keep_metric="valid_loss", keep_maximum=False)
    assert isinstance(events[-1], Finished)
    assert "valid_loss" in evaluations(events)[-1].values
    assert "valid_exact_match" not in evaluations(events)[-1].values
    assert not any(isinstance(event, Generated) for event in events)
    assert caplog.text.count("no inference for you") == 1


def test_a_refusal_of_the_objective_is_an_error_after_which_the_run_can_go_on(world: HostedWorld) -> None:
    world.host.fault = refuse
    backend = world.open()
    handle = backend.submit(request(world))
    with pytest.raises(BackendError) as raised:
        world.drain(backend, handle)
    assert raised.value.failure.kind is FailureKind.USER
    assert "cannot be asked, so valid_exact_match has no value" in raised.value.failure.message
    assert "no inference for you" in raised.value.failure.message
    assert "run the same command again" in raised.value.failure.detail
    backend.close()
    world.host.fault = lambda operation, moment: None
    again = world.open()
    assert again.submit(request(world)) == handle
    events = world.drain(again, handle)
    assert evaluations(events)[-1].values["valid_exact_match"] == pytest.approx(4 / 6)
    assert len(world.host.jobs) == 1, "the training is not paid twice"


def test_a_run_that_is_stopped_while_its_model_answers_ends_soon(
    world: HostedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backends.hosted.model_evaluation.PROMPTS_PER_CALL", 2)
    backend = world.open()
    handle = backend.submit(request(world))
    while not world.host.prediction_requests:
        world.now += 5
        backend.events(handle, 0)
    backend.stop(handle)
    events = world.drain(backend, handle)
    assert isinstance(events[-1], Finished), "the job had ended by itself"
    assert len(world.host.prediction_requests) == 2


# ------------------------------------------------------------------------------------------ metrics
def scorer(folder: Path, body: str) -> MetricRequest:
    (folder / "scoring.py").write_text(f"def score(predictions, references, rows):\n    {body}\n")
    return prepared(MetricRequest("own", "python", {"function": str(folder / "scoring.py:score")}), folder)


def test_a_metric_that_fails_spoils_no_other(
    world: HostedWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing = scorer(tmp_path, "raise ValueError('no such column')")
    events = run(world, world.open(), metrics=(failing, EXACT))
    values = evaluations(events)[-1].values
    assert values["valid_exact_match"] == pytest.approx(4 / 6)
    assert "valid_own" not in values
    assert isinstance(events[-1], Finished)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [("no such column" in record.getMessage()) for record in warnings] == [True]


def test_the_objective_that_fails_fails_the_trial_with_its_own_error(world: HostedWorld, tmp_path: Path) -> None:
    failing = scorer(tmp_path, "raise ValueError('no such column')")
    events = run(world, world.open(), metrics=(EXACT, failing), keep_metric="valid_own")
    assert isinstance(events[-1], Failed)
    assert events[-1].failure.kind is FailureKind.USER
    assert "metric 'own'" in events[-1].failure.message
    assert "no such column" in events[-1].failure.message + events[-1].failure.detail
    (charged,) = (event for event in events if isinstance(event, Charged))
    assert charged.tokens > 0, "the training was paid"
    assert evaluations(events)[-1].values["valid_exact_match"] == pytest.approx(4 / 6), "what is known stays known"


def test_a_further_number_that_no_metric_has_fails_the_trial(world: HostedWorld) -> None:
    events = run(world, world.open(), keep_metric="valid_exact_match_price")
    assert isinstance(events[-1], Failed)
    assert events[-1].failure.kind is FailureKind.USER
    assert "valid_exact_match_price" in events[-1].failure.message
    assert "choose one of: valid_exact_match" in events[-1].failure.detail


class NoOptions(BaseModel):
    pass


class PaidMetric:
    """Costs a quarter of a dollar. Its first measurement does not get through."""

    options_model: ClassVar[type[BaseModel]] = NoOptions
    calls: ClassVar[int] = 0

    @classmethod
    def prepare(cls, options: BaseModel, folder: Path) -> BaseModel:
        return options

    @classmethod
    def describe(cls, options: BaseModel) -> MetricDeclaration:
        return MetricDeclaration("maximize", is_free=False)

    @classmethod
    def open(cls, options: BaseModel, workspace: Path) -> PaidMetric:
        return cls()

    def problems(self, answers: Answers) -> Sequence[str]:
        return ()

    def score(self, answers: Answers) -> Scores:
        PaidMetric.calls += 1
        if PaidMetric.calls == 1:
            raise BackendError(Failure(FailureKind.TRANSIENT, "the judge is away"))
        return Scores(0.5, usd=0.25, tokens=7, further={"grade": 3.0})

    def close(self) -> None:
        pass


def test_a_metric_that_is_away_is_waited_for_and_its_cost_precedes_its_value(
    world: HostedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    load: Callable[[str], Any] = registry.load
    monkeypatch.setattr(registry, "load", lambda name: PaidMetric if name == "paid" else load(name))
    PaidMetric.calls = 0
    events = run(world, world.open(), metrics=(EXACT, MetricRequest("judged", "paid")), keep_metric="valid_judged")
    shown = events.index(generated(events))
    assert events[shown - 1] == Charged(0.25, 0)
    measured = events[shown + 1]
    assert isinstance(measured, Measured)
    assert measured.values["valid_judged"] == 0.5
    assert measured.values["valid_judged_grade"] == 3.0
    assert measured.values["valid_exact_match"] == pytest.approx(4 / 6)
    assert PaidMetric.calls == 2
    assert len(world.host.prediction_requests) == 6, "the model is not asked again"


def test_a_shared_job_is_no_result_for_the_metric_that_only_its_last_model_has(world: HostedWorld) -> None:
    backend = world.open(epoch_ladder=True)
    for key, epochs in (("long", 3), ("short", 2)):
        asked = request(world, key)
        asked = dataclasses.replace(asked, hyperparameters={**asked.hyperparameters, "n_epochs": epochs})
        events = world.drain(backend, backend.submit(asked))
        assert evaluations(events)[-1].values["valid_exact_match"] == pytest.approx(4 / 6)
        assert evaluations(events)[-1].epoch == epochs
    assert len(world.host.jobs) == 2


# -------------------------------------------------------------------------------------------- check
def test_what_cannot_be_measured_is_found_at_check(world: HostedWorld) -> None:
    backend = world.open()

    def problems(**changes: Any) -> str:
        return " ".join(f"{one.message} {one.detail}" for one in backend.check(request(world, **changes)))

    assert problems() == ""
    assert problems(keep_metric="valid_exact_match_price") == "", "only the measurement shows its further numbers"
    assert "metric 'x'" in problems(metrics=(EXACT, MetricRequest("x", "exact_macht")))
    assert "asked once" in problems(generation=GenerationSettings(per_epoch=2))
    assert "Did you mean valid_exact_match?" in problems(keep_metric="valid_exact_mtch")
    assert "keep_metric" in problems(metrics=())


def test_the_estimate_says_that_the_answers_are_not_in_it(world: HostedWorld) -> None:
    assert "without the price of 6 answers for the task metrics" in world.open().estimate(request(world)).basis
    assert "answers" not in world.open().estimate(world.request()).basis


def test_a_model_that_needs_a_deployment_is_deployed_once_for_all_its_answers(world: HostedWorld) -> None:
    change_behaviour(world.host, needs_deployment=True)
    azure = {"host": "azure", "base_url": "http://host/v1", "model": "gpt-4o-mini-2024-07-18"}
    without = world.open("without", **azure)
    assert not without.capabilities.task_metrics
    (failure,) = without.check(dataclasses.replace(request(world), base_model=azure["model"]))
    assert "deployed" in failure.message
    world.dataset = dataclasses.replace(world.dataset, labels=(" red", " green", " blue"))
    backend = world.open(**azure, deployment=AZURE)
    asked = dataclasses.replace(request(world), base_model=azure["model"])
    events = world.drain(backend, backend.submit(asked), hours=48)
    assert {"valid_accuracy", "valid_exact_match"} <= set(evaluations(events)[-1].values)
    assert sum(operation.startswith("PUT ") for operation in world.host.operations) == 1
    assert world.host.deployments == {}
