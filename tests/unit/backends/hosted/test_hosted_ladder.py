"""Which runs are part of others, and what becomes of them; the scores of answers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from backends.contract import (
    Charged,
    Checkpointed,
    DataFile,
    Dataset,
    Evaluation,
    Event,
    Finished,
    Measured,
    Queued,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.hosted.model_evaluation import label_scores
from backends.hosted.shared_jobs import is_part_of, part

pytestmark = pytest.mark.unit

FILE = DataFile("/data/train.jsonl", 40, "sha")


def request(key: str = "k", **hyperparameters: Any) -> TrainingRequest:
    return TrainingRequest(key, "m", Dataset(FILE, FILE, "completion"), {"n_epochs": 4, **hyperparameters}, 1)


def course(*losses: float) -> list[Event]:
    """A run of two steps an epoch with a checkpoint after each."""
    events: list[Event] = [Queued(), Started({"n_epochs": len(losses), "job": "j"})]
    for epoch, loss in enumerate(losses, start=1):
        events += [Measured(2 * epoch - 1, epoch - 0.5, {"batch_loss": 1.0}, "step")]
        events += [Measured(2 * epoch, float(epoch), {"valid_loss": loss}, "evaluation")]
        events += [Checkpointed(2 * epoch, float(epoch), f"m{epoch}")]
    return [*events, Charged(1.0, 100), Finished(f"m{len(losses)}")]


def models(*epochs: int) -> dict[int, str]:
    return {2 * each: f"m{each}" for each in epochs}


def test_a_run_is_part_of_a_longer_one_that_is_otherwise_the_same() -> None:
    assert is_part_of(request("a", n_epochs=2), request("b", n_epochs=3))
    assert not is_part_of(request("a", n_epochs=3), request("b", n_epochs=3))
    assert not is_part_of(request("a", n_epochs=4), request("b", n_epochs=3))
    assert not is_part_of(request("a", n_epochs=2, batch_size=8), request("b", n_epochs=3))
    for change in ({"seed": 2}, {"base_model": "n"}, {"evaluation": Evaluation(keep_metric="valid_token_accuracy")}):
        assert not is_part_of(dataclasses.replace(request("a", n_epochs=2), **change), request("b", n_epochs=3))


def test_what_the_host_chooses_is_no_number_to_compare() -> None:
    unsaid = dataclasses.replace(request("a"), hyperparameters={})
    assert not is_part_of(unsaid, request("b"))
    assert not is_part_of(request("b"), unsaid)


def test_the_part_is_labelled_and_costs_nothing() -> None:
    rung = part(request(n_epochs=2), "long", course(0.5, 0.4, 0.3), models(1, 2, 3))
    assert rung is not None
    assert rung.events[0] == Started({"n_epochs": 2, "job": "j", "approximate": True, "part_of": "long"})
    assert [each.epoch for each in rung.events if isinstance(each, Measured)] == [0.5, 1.0, 1.5, 2.0]
    assert rung.events[-2:] == (Charged(0.0, 0), Finished("m2"))


def test_the_best_state_of_the_part_is_kept_of_those_that_are_left() -> None:
    told = course(0.3, 0.4, 0.1)
    assert part(request(n_epochs=2), "long", told, models(1, 2, 3)).model == "m1"  # type: ignore[union-attr]
    rung = part(request(n_epochs=2), "long", told, models(2, 3))
    assert rung is not None
    assert rung.model == "m2"
    assert [each.model for each in rung.events if isinstance(each, Checkpointed)] == ["m2"]
    assert part(request(n_epochs=2), "long", told, models(3)) is None


def test_a_run_that_was_stopped_serves_as_far_as_it_came() -> None:
    told = [*course(0.5, 0.4)[:-1], Stopped(None)]
    assert part(request(n_epochs=2), "long", told, models(1, 2)) is not None
    assert part(request(n_epochs=3), "long", told, models(1, 2)) is None


def test_an_unknown_price_stays_unknown() -> None:
    told = [each for each in course(0.5, 0.4) if not isinstance(each, Charged)]
    rung = part(request(n_epochs=1), "long", told, models(1))
    assert rung is not None
    assert rung.events[-2] == Charged(None, 0)


def test_right_answers_and_their_f1() -> None:
    scores = label_scores([" a", " a", " b", " b"], [" a", " b", " b", "what?"])
    assert scores["valid_accuracy"] == 0.5
    assert scores["valid_macro_f1"] == pytest.approx((2 / 3 + 2 / 4 + 0.0) / 3)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1))
def test_scores_are_those_of_a_library(pairs: list[tuple[str, str]]) -> None:
    truth, answers = [one for one, _ in pairs], [other for _, other in pairs]
    scores = label_scores(truth, answers)
    assert scores["valid_accuracy"] == pytest.approx(accuracy_score(truth, answers))
    assert scores["valid_macro_f1"] == pytest.approx(f1_score(truth, answers, average="macro", zero_division=0))
