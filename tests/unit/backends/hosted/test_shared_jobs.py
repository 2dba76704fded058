"""Shared jobs: which runs are the first part of a longer run, and their results."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from backends.contract import (
    Charged,
    Checkpointed,
    DataFile,
    Dataset,
    EvaluationSettings,
    Event,
    Finished,
    Measured,
    Queued,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.hosted.shared_jobs import is_first_part_of, shared_result

pytestmark = pytest.mark.unit

FILE = DataFile("/data/train.jsonl", 40, "sha")


def request(key: str = "k", **hyperparameters: Any) -> TrainingRequest:
    return TrainingRequest(key, "m", Dataset(FILE, FILE, "completion"), {"n_epochs": 4, **hyperparameters}, 1)


def run_events(*losses: float) -> list[Event]:
    """The events of a run with two steps per epoch and a checkpoint after each epoch."""
    events: list[Event] = [Queued(), Started({"n_epochs": len(losses), "job": "j"})]
    for epoch, loss in enumerate(losses, start=1):
        events += [Measured(2 * epoch - 1, epoch - 0.5, {"batch_loss": 1.0}, "step")]
        events += [Measured(2 * epoch, float(epoch), {"valid_loss": loss}, "evaluation")]
        events += [Checkpointed(2 * epoch, float(epoch), f"m{epoch}")]
    return [*events, Charged(1.0, 100), Finished(f"m{len(losses)}")]


def models(*epochs: int) -> dict[int, str]:
    return {2 * epoch: f"m{epoch}" for epoch in epochs}


def test_a_run_is_part_of_a_longer_run_only_if_nothing_else_differs() -> None:
    assert is_first_part_of(request("a", n_epochs=2), request("b", n_epochs=3))
    assert not is_first_part_of(request("a", n_epochs=3), request("b", n_epochs=3))
    assert not is_first_part_of(request("a", n_epochs=4), request("b", n_epochs=3))
    assert not is_first_part_of(request("a", n_epochs=2, batch_size=8), request("b", n_epochs=3))
    for change in (
        {"seed": 2},
        {"base_model": "n"},
        {"evaluation": EvaluationSettings(keep_metric="valid_token_accuracy")},
    ):
        assert not is_first_part_of(dataclasses.replace(request("a", n_epochs=2), **change), request("b", n_epochs=3))


def test_a_run_without_n_epochs_is_never_part_of_another() -> None:
    without_epochs = dataclasses.replace(request("a"), hyperparameters={})
    assert not is_first_part_of(without_epochs, request("b"))
    assert not is_first_part_of(request("b"), without_epochs)


def test_a_shared_result_is_labelled_and_costs_nothing() -> None:
    result = shared_result(request(n_epochs=2), "long", run_events(0.5, 0.4, 0.3), models(1, 2, 3))
    assert result is not None
    assert result.events[0] == Started({"n_epochs": 2, "job": "j", "approximate": True, "part_of": "long"})
    assert [event.epoch for event in result.events if isinstance(event, Measured)] == [0.5, 1.0, 1.5, 2.0]
    assert result.events[-2:] == (Charged(0.0, 0), Finished("m2"))


def test_a_shared_result_keeps_the_best_model_that_the_host_still_has() -> None:
    events = run_events(0.3, 0.4, 0.1)
    assert shared_result(request(n_epochs=2), "long", events, models(1, 2, 3)).model == "m1"  # type: ignore[union-attr]
    result = shared_result(request(n_epochs=2), "long", events, models(2, 3))
    assert result is not None
    assert result.model == "m2"
    assert [event.model for event in result.events if isinstance(event, Checkpointed)] == ["m2"]
    assert shared_result(request(n_epochs=2), "long", events, models(3)) is None


def test_a_stopped_run_can_share_its_complete_epochs() -> None:
    events = [*run_events(0.5, 0.4)[:-1], Stopped(None)]
    assert shared_result(request(n_epochs=2), "long", events, models(1, 2)) is not None
    assert shared_result(request(n_epochs=3), "long", events, models(1, 2)) is None


def test_without_a_price_the_charge_of_a_shared_result_is_unknown() -> None:
    events = [event for event in run_events(0.5, 0.4) if not isinstance(event, Charged)]
    result = shared_result(request(n_epochs=1), "long", events, models(1))
    assert result is not None
    assert result.events[-2] == Charged(None, 0)
