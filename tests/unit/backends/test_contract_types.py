"""Requests, handles, events and errors survive JSON and pickling, and old JSON loads."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import codec
from backends.contract import (
    TERMINAL_EVENTS,
    BackendError,
    Capabilities,
    Charged,
    Checkpointed,
    DataFile,
    Dataset,
    Estimate,
    EvaluationSettings,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Generated,
    GeneratedText,
    Handle,
    Hyperparameter,
    Measured,
    Placement,
    Prediction,
    PredictOptions,
    Queued,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.waiting import Waiting

pytestmark = pytest.mark.unit

texts = st.text(max_size=12)
any_float = st.floats(allow_nan=True, allow_infinity=True)
scalars = st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
steps = st.integers(min_value=0, max_value=10**9)
epochs = st.floats(min_value=0, max_value=1e6)
failures = st.builds(Failure, st.sampled_from(FailureKind), texts, texts)
files = st.builds(DataFile, texts, steps, texts)
datasets = st.builds(
    Dataset, files, files, st.sampled_from(["completion", "chat"]), st.lists(texts, max_size=4).map(tuple), texts
)
requests = st.builds(
    TrainingRequest,
    key=texts,
    base_model=texts,
    dataset=datasets,
    hyperparameters=st.dictionaries(texts, scalars, max_size=5),
    seed=st.integers(),
    evaluation=st.builds(EvaluationSettings, st.integers(1, 9), st.integers(0, 999), texts, st.booleans()),
    resume_from=st.none() | texts,
)
generated_texts = st.builds(
    GeneratedText, steps, texts, texts, texts, st.booleans(), st.dictionaries(texts, any_float, max_size=2)
)
EVENTS: dict[type[Event], st.SearchStrategy[Any]] = {
    Queued: st.builds(Queued),
    Started: st.builds(Started, st.dictionaries(texts, scalars, max_size=5)),
    Measured: st.builds(
        Measured, steps, epochs, st.dictionaries(texts, any_float, max_size=5), st.sampled_from(["step", "evaluation"])
    ),
    Generated: st.builds(
        Generated,
        step=steps,
        epoch=epochs,
        texts=st.lists(generated_texts, max_size=3).map(tuple),
        examples=steps,
        truncated=steps,
    ),
    Checkpointed: st.builds(Checkpointed, steps, epochs, texts),
    Charged: st.builds(Charged, st.none() | epochs, steps),
    Finished: st.builds(Finished, texts),
    Failed: st.builds(Failed, failures),
    Stopped: st.builds(Stopped, st.none() | texts),
}


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def same(one: object, other: object) -> bool:
    """Return whether two values are equal, where NaN equals NaN, and 1, 1.0 and True differ."""
    if type(one) is not type(other):
        return False
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return one == other


@given(requests)
def test_requests_survive_json(request: TrainingRequest) -> None:
    copy = codec.from_json(TrainingRequest, through_json(codec.to_json(request)))
    assert same(copy, request)


@pytest.mark.parametrize("event_type", EVENTS, ids=lambda event_type: event_type.__name__)
@given(data=st.data())
def test_events_survive_json(event_type: type[Event], data: st.DataObject) -> None:
    event = data.draw(EVENTS[event_type])
    assert same(codec.from_json(Event, through_json(codec.to_json(event))), event)


REQUEST = TrainingRequest(
    key="k",
    base_model="gpt2",
    dataset=Dataset(
        DataFile("/t.jsonl", 40, "ab"), DataFile("/v.jsonl", 8, "cd"), "completion", labels=(" yes", " no"), stop="\n"
    ),
    hyperparameters={"n_epochs": 2, "learning_rate": 1e-4, "method": "lora", "packed": False},
    seed=7,
    evaluation=EvaluationSettings(2, 0, "valid_accuracy", keep_maximum=True),
    resume_from="m0",
)
BUSY = Failure(FailureKind.QUOTA, "busy", "wait")
STORED = [
    (Queued(), '{"kind": "queued"}'),
    (
        Started({"n": 2, "lr": 0.5, "m": "lora", "x": True}),
        '{"kind": "started", "resolved": {"n": 2, "lr": 0.5, "m": "lora", "x": true}}',
    ),
    (
        Measured(3, 1.5, {"valid_loss": 0.25, "train_loss": math.nan}, "evaluation"),
        '{"kind": "measured", "step": 3, "epoch": 1.5, "values": {"valid_loss": 0.25, "train_loss": NaN}, '
        '"scope": "evaluation"}',
    ),
    (Checkpointed(8, 2.0, "m@2"), '{"kind": "checkpointed", "step": 8, "epoch": 2.0, "model": "m@2"}'),
    (Charged(None, 640), '{"kind": "charged", "usd": null, "tokens": 640, "estimated": false}'),
    (Charged(0.5, 640, estimated=True), '{"kind": "charged", "usd": 0.5, "tokens": 640, "estimated": true}'),
    (Finished("m"), '{"kind": "finished", "model": "m"}'),
    (Failed(BUSY), '{"kind": "failed", "failure": {"kind": "quota", "message": "busy", "detail": "wait"}}'),
    (Stopped(), '{"kind": "stopped", "model": null}'),
    (Stopped("m"), '{"kind": "stopped", "model": "m"}'),
    (
        REQUEST,
        '{"key": "k", "base_model": "gpt2", "dataset": {"train": {"path": "/t.jsonl", "examples": 40, "sha256": "ab"}, '
        '"valid": {"path": "/v.jsonl", "examples": 8, "sha256": "cd"}, "layout": "completion", '
        '"labels": [" yes", " no"], "stop": "\\n"}, "hyperparameters": {"n_epochs": 2, "learning_rate": 0.0001, '
        '"method": "lora", "packed": false}, "seed": 7, "evaluation": {"per_epoch": 2, "train_examples": 0, '
        '"keep_metric": "valid_accuracy", "keep_maximum": true}, "resume_from": "m0"}',
    ),
    (Handle("fake", "j1"), '{"backend": "fake", "id": "j1"}'),
    (BUSY, '{"kind": "quota", "message": "busy", "detail": "wait"}'),
    (Waiting("the daily limit", 1.75e9), '{"reason": "the daily limit", "until": 1750000000.0}'),
    (Placement(2.0, 0.5), '{"cpus": 2.0, "gpus": 0.5}'),
    (PredictOptions((" a", " b"), 8, "!"), '{"labels": [" a", " b"], "max_tokens": 8, "stop": "!"}'),
    (
        Prediction(" a", (-0.1, -math.inf), truncated=True),
        '{"text": " a", "label_logprobs": [-0.1, -Infinity], "cut": true}',
    ),
    (
        Estimate(10, 2.5, 0.01, 0, "a guess", max_tokens=20, max_usd=0.02),
        '{"tokens": 10, "seconds": 2.5, "usd": 0.01, "disk_bytes": 0, "basis": "a guess", "tokens_at_most": 20, '
        '"usd_at_most": 0.02}',
    ),
]
"""Values, and their JSON as the hand-written functions of version 0.1 wrote it."""

RECORDED = json.loads((Path(__file__).parents[2] / "data/version_0_1/expected/codec.json").read_text(encoding="utf-8"))
"""By type name, values as version 0.1 encoded them."""


def known_to_0_1(written: Any) -> Any:
    """Leave out the fields that version 0.1 did not have, with the values of its behaviour."""
    if "dataset" in written:
        assert written["dataset"].pop("train_on") == "last"
        assert (written["evaluation"].pop("metrics"), written["evaluation"].pop("generation")) == ([], None)
    if "max_tokens" in written:
        added = {name: written.pop(name) for name in ("more_stops", "temperature", "top_p", "seed")}
        assert added == {"more_stops": [], "temperature": 0.0, "top_p": 1.0, "seed": 0}
    if "cpus" in written:
        added = {name: written.pop(name) for name in ("nodes", "node", "address", "port")}
        assert added == {"nodes": 1, "node": 0, "address": "127.0.0.1", "port": 0}
    if "label_logprobs" in written:
        assert written.pop("prompt_cut") is False
    return written


@pytest.mark.parametrize(("value", "text"), STORED, ids=[type(value).__name__ for value, _ in STORED])
def test_the_json_of_version_0_1_loads_and_is_still_written(value: object, text: str) -> None:
    declared: Any = Event if type(value) in EVENTS else type(value)
    assert same(codec.from_json(declared, json.loads(text)), value)
    assert json.dumps(known_to_0_1(codec.to_json(value))) == text


@pytest.mark.parametrize(
    ("name", "declared_type"),
    [
        ("TrainingRequest", TrainingRequest),
        ("Event", Event),
        ("Handle", Handle),
        ("Failure", Failure),
        ("Prediction", Prediction),
        ("Estimate", Estimate),
    ],
)
def test_values_that_version_0_1_recorded_are_written_as_they_were(name: str, declared_type: Any) -> None:
    for value in RECORDED[name]["values"]:
        written = known_to_0_1(codec.to_json(codec.from_json(declared_type, value), declared_type))
        assert json.dumps(written, sort_keys=True) == json.dumps(value, sort_keys=True)


def test_a_field_that_old_json_lacks_takes_its_default() -> None:
    assert codec.from_json(Event, {"kind": "charged", "usd": 0.5, "tokens": 3}) == Charged(0.5, 3)


def test_an_unknown_field_of_newer_json_is_ignored() -> None:
    assert codec.from_json(Event, {"kind": "finished", "model": "m", "colour": "red"}) == Finished("m")


def test_there_is_a_test_for_every_event() -> None:
    (union, _) = get_args(Event)
    assert set(EVENTS) == set(get_args(union))
    assert len({event_type.kind for event_type in EVENTS}) == len(EVENTS)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_survives_json(value: float) -> None:
    event = Measured(3, 1.5, {"valid_loss": value}, "evaluation")
    copy = codec.from_json(Event, through_json(codec.to_json(event)))
    assert isinstance(copy, Measured)
    assert repr(copy.values["valid_loss"]) == repr(value)


def test_an_unknown_event_is_an_error() -> None:
    with pytest.raises(ValueError, match="no-such-kind"):
        codec.from_json(Event, {"kind": "no-such-kind"})


@given(texts, texts)
def test_handles_survive_json(backend: str, id_: str) -> None:
    handle = Handle(backend, id_)
    assert codec.from_json(Handle, through_json(codec.to_json(handle))) == handle


@given(failures)
def test_backend_errors_survive_pickling(failure: Failure) -> None:
    copy = pickle.loads(pickle.dumps(BackendError(failure)))
    assert type(copy) is BackendError
    assert copy.failure == failure
    assert str(copy) == failure.message


@given(requests)
def test_requests_survive_pickling(request: TrainingRequest) -> None:
    assert pickle.loads(pickle.dumps(request)) == request


def test_the_kind_of_a_failure_decides_whether_it_is_retryable() -> None:
    assert {kind for kind in FailureKind if kind.retryable} == {
        FailureKind.TRANSIENT,
        FailureKind.QUOTA,
        FailureKind.LOST,
    }


def test_runs_end_finished_failed_or_stopped() -> None:
    assert {event_type.kind for event_type in TERMINAL_EVENTS} == {"finished", "failed", "stopped"}


def test_values_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Handle("fake", "1").id = "2"  # type: ignore[misc]


def test_capabilities_find_a_hyperparameter_by_name() -> None:
    rank = Hyperparameter("lora_rank", "int", "rank", low=1)
    capabilities = Capabilities((rank,), ("valid_loss",), (), "any", in_process=True)
    assert capabilities.hyperparameter("lora_rank") is rank
    assert capabilities.hyperparameter("rank") is None


def test_a_non_finite_float_inside_an_untyped_field_stays_a_float() -> None:
    @dataclasses.dataclass(frozen=True)
    class Untyped:
        content: Mapping[str, Any]

    written = codec.to_json(Untyped({"loss": math.nan, "steps": [math.inf]}))
    assert math.isnan(written["content"]["loss"])
    assert written["content"]["steps"] == [math.inf]
    assert json.loads(json.dumps(written))["content"]["steps"] == [math.inf]
