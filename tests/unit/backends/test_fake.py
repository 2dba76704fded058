"""The fake backend: its faults happen as configured, and its curves have the promised shape."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backends import codec
from backends.contract import (
    BackendError,
    Charged,
    DataFile,
    Dataset,
    EvaluationSettings,
    Event,
    Failed,
    FailureKind,
    Finished,
    Measured,
    MetricRequest,
    Placement,
    PredictOptions,
    Queued,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.fake import FakeBackend, FakeOptions, simulated_run
from backends.fake_curve import Breakdown, RunTerms, simulated_events
from backends.fake_service import FakeService

pytestmark = pytest.mark.unit

LABELS = (" a", " b", " c")


@dataclasses.dataclass
class Clock:
    """A clock that a test moves."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    for name in ("train", "valid"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "p", "completion": " a"}\n' * 200)
    train, valid = (DataFile(str(tmp_path / f"{name}.jsonl"), 200, f"sha-of-{name}") for name in ("train", "valid"))
    return Dataset(train, valid, "completion", LABELS)


@pytest.fixture
def build_request(dataset: Dataset) -> Callable[..., TrainingRequest]:
    def build(key: str = "k", seed: int = 1, **hyperparameters: Any) -> TrainingRequest:
        return TrainingRequest(key, "fake-small", dataset, hyperparameters, seed)

    return build


@pytest.fixture
def open_fake(tmp_path: Path) -> Iterator[Callable[..., FakeBackend]]:
    opened: list[FakeBackend] = []

    def open_(clock: Callable[[], float] | None = None, **options: Any) -> FakeBackend:
        service = FakeService(tmp_path / "workspace" / "service.sqlite")
        fake_options = FakeOptions.model_validate(options)
        opened.append(FakeBackend(fake_options, service, clock) if clock else FakeBackend(fake_options, service))
        return opened[-1]

    yield open_
    for fake in opened:
        fake.close()


def failure_kind(error: pytest.ExceptionInfo[BackendError]) -> FailureKind:
    return error.value.failure.kind


def evaluations(events: Iterable[Event]) -> list[Measured]:
    """Return all evaluations, including that of the base model."""
    return [event for event in events if isinstance(event, Measured) and event.scope == "evaluation"]


def curve(request: TrainingRequest) -> list[Measured]:
    return evaluations(timed.event for timed in simulated_events(RunTerms(request, tokens_per_epoch=100)))


def last_epoch(events: Iterable[Event]) -> float:
    """Return the last epoch at which something was measured."""
    return max(event.epoch for event in events if isinstance(event, Measured))


def charges_in(events: Iterable[Event]) -> list[Charged]:
    return [event for event in events if isinstance(event, Charged)]


# ------------------------------------------------------------------------------------------- faults
def test_a_fault_happens_as_often_as_configured(open_fake: Any, build_request: Any) -> None:
    fake = open_fake(faults=[{"on": "submit", "kind": "transient", "times": 2}])
    for _ in range(2):
        with pytest.raises(BackendError) as raised:
            fake.submit(build_request())
        assert failure_kind(raised) is FailureKind.TRANSIENT
    handle = fake.submit(build_request())
    assert isinstance(fake.events(handle, 0)[-1], Finished)


def test_two_equal_faults_both_happen(open_fake: Any, build_request: Any) -> None:
    fault = {"on": "submit", "kind": "quota"}
    fake = open_fake(faults=[fault, fault])
    for _ in range(2):
        with pytest.raises(BackendError, match="injected fault: quota on submit"):
            fake.submit(build_request())
    fake.submit(build_request())


def test_a_new_client_remembers_the_fired_faults(open_fake: Any, build_request: Any) -> None:
    faults = [{"on": "submit", "kind": "transient"}]
    with pytest.raises(BackendError, match="injected"):
        open_fake(faults=faults).submit(build_request())
    assert open_fake(faults=faults).submit(build_request())


def test_a_lost_answer_leaves_an_accepted_run(open_fake: Any, build_request: Any) -> None:
    fake = open_fake(faults=[{"on": "submit", "kind": "lost_answer"}], max_concurrent=1)
    with pytest.raises(BackendError) as raised:
        fake.submit(build_request())
    assert failure_kind(raised) is FailureKind.TRANSIENT
    with pytest.raises(BackendError) as raised:
        fake.submit(build_request("another"))
    assert failure_kind(raised) is FailureKind.QUOTA, "the run whose answer was lost exists and counts"
    handle = fake.submit(build_request())
    assert isinstance(fake.events(handle, 0)[-1], Finished)


def test_a_fault_may_depend_on_hyperparameters(open_fake: Any, build_request: Any) -> None:
    fake = open_fake(faults=[{"on": "train", "kind": "out_of_memory", "times": None, "match": {"batch_size": 64}}])
    ends = {
        size: fake.events(fake.submit(build_request(f"batch-{size}-{n}", batch_size=size)), 0)[-1]
        for size in (32, 64)
        for n in range(2)
    }
    assert isinstance(ends[32], Finished)
    assert isinstance(ends[64], Failed)
    assert ends[64].failure.kind is FailureKind.OUT_OF_MEMORY


def test_a_run_can_fail_after_an_epoch(open_fake: Any, build_request: Any) -> None:
    fake = open_fake(faults=[{"on": "train", "kind": "lost", "after_epoch": 2}])
    events = fake.events(fake.submit(build_request()), 0)
    assert [evaluation.epoch for evaluation in evaluations(events)] == [0, 1, 2]
    assert isinstance(events[-1], Failed)
    assert events[-1].failure.kind is FailureKind.LOST
    again = fake.submit(build_request("another key"))
    assert isinstance(fake.events(again, 0)[-1], Finished), "the fault happens once, as configured"


def test_a_fault_after_the_last_epoch_replaces_the_end(open_fake: Any, build_request: Any) -> None:
    fake = open_fake(faults=[{"on": "train", "kind": "bug", "after_epoch": 9}])
    events = fake.events(fake.submit(build_request(n_epochs=2)), 0)
    assert isinstance(events[-1], Failed)
    assert last_epoch(events) == 2


@pytest.mark.parametrize("options", [{}, {"events_per_poll": 3}, {"seconds_per_epoch": 10}])
def test_a_hanging_run_gives_no_event_until_it_is_stopped(
    open_fake: Any, build_request: Any, options: dict[str, Any]
) -> None:
    clock = Clock()
    fake = open_fake(clock, faults=[{"on": "train", "kind": "hang", "after_epoch": 1}], **options)
    handle = fake.submit(build_request())
    clock.now += 1000
    for _ in range(30):
        seen = fake.events(handle, 0)
    assert fake.events(handle, len(seen)) == []
    assert last_epoch(seen) == 1
    fake.stop(handle)
    assert fake.events(handle, 0) == [*seen, Stopped("fake:k")]


def test_an_events_fault_may_start_after_an_epoch(open_fake: Any, build_request: Any) -> None:
    fake = open_fake(faults=[{"on": "events", "kind": "transient", "times": 2, "after_epoch": 1}], events_per_poll=1)
    handle, seen, failures = fake.submit(build_request()), list[Event](), list[FailureKind]()
    while not (seen and isinstance(seen[-1], Finished)):
        try:
            seen += fake.events(handle, len(seen))
        except BackendError as error:
            failures.append(error.failure.kind)
            assert last_epoch(seen) == 1, "the fault happens directly after the first epoch"
    assert failures == [FailureKind.TRANSIENT] * 2
    assert seen == list(fake.events(handle, 0)), "the failed calls lose no event"


def test_a_fault_without_a_limit_always_happens(open_fake: Any, build_request: Any) -> None:
    fake = open_fake(faults=[{"on": "events", "kind": "lost", "times": None}])
    handle = fake.submit(build_request())
    for _ in range(3):
        with pytest.raises(BackendError) as raised:
            fake.events(handle, 0)
        assert failure_kind(raised) is FailureKind.LOST


@pytest.mark.parametrize(
    "options",
    [
        {"faults": [{"on": "events", "kind": "lost_answer"}]},
        {"faults": [{"on": "submit", "kind": "hang"}]},
        {"faults": [{"on": "submit", "kind": "earthquake"}]},
        {"faults": [{"on": "submit", "kind": "quota", "time": 2}]},
        {"seconds_per_epoch": 1, "events_per_poll": 1},
        {"seconds_per_epoch": -1},
        {"events_per_poll": 0},
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FakeOptions.model_validate(options)


@pytest.mark.parametrize(
    ("metric", "is_measured"),
    [("valid_exact_match", True), ("valid_exact_match_further", True), ("valid_exact_matches", False)],
)
def test_a_name_that_only_begins_like_a_metric_is_not_measured(
    metric: str, is_measured: bool, open_fake: Any, build_request: Any
) -> None:
    evaluation = EvaluationSettings(keep_metric=metric, metrics=(MetricRequest("exact_match", "exact_match"),))
    failures = open_fake().check(dataclasses.replace(build_request(), evaluation=evaluation))
    assert [failure.message.split(":")[0] for failure in failures] == ([] if is_measured else ["keep_metric"])


# --------------------------------------------------------------------------------- time and storage
def test_real_time_reveals_events_as_it_passes(open_fake: Any, build_request: Any) -> None:
    clock = Clock()
    fake = open_fake(clock, seconds_per_epoch=10)
    handle = fake.submit(build_request(n_epochs=3))
    assert [type(event) for event in fake.events(handle, 0)] == [Queued, Started, Measured]
    clock.now += 9.9
    assert len(fake.events(handle, 0)) == 3
    clock.now += 10
    assert last_epoch(fake.events(handle, 3)) == 1
    seen = fake.events(handle, 0)
    clock.now -= 15
    assert fake.events(handle, 0) == seen, "revealed events remain, even if the clock goes back"
    clock.now += 100
    assert isinstance(fake.events(handle, 0)[-1], Finished)


def test_a_stop_takes_effect_at_its_time_even_if_no_client_has_polled(open_fake: Any, build_request: Any) -> None:
    clock = Clock()
    fake = open_fake(clock, seconds_per_epoch=10)
    stopped, ended = fake.submit(build_request("stopped", n_epochs=4)), fake.submit(build_request("ended", n_epochs=2))
    clock.now += 25
    for handle in (stopped, ended):
        fake.stop(handle)
    clock.now += 100
    events = fake.events(stopped, 0)
    assert last_epoch(events) == 2
    assert events[-1] == Stopped("fake:stopped")
    assert isinstance(fake.events(ended, 0)[-1], Finished), "the run had ended before the stop"


def test_a_stop_before_the_first_checkpoint_leaves_no_model(open_fake: Any, build_request: Any) -> None:
    fake = open_fake()
    handle = fake.submit(build_request())
    fake.stop(handle)
    assert fake.events(handle, 0) == [Stopped(None)]


def test_max_concurrent_limits_the_active_runs(open_fake: Any, build_request: Any) -> None:
    clock = Clock()
    fake = open_fake(clock, seconds_per_epoch=1, max_concurrent=2)
    first, _ = fake.submit(build_request("a")), fake.submit(build_request("b"))
    with pytest.raises(BackendError) as raised:
        fake.submit(build_request("c"))
    assert failure_kind(raised) is FailureKind.QUOTA
    assert fake.submit(build_request("a")) == first, "a known key is adopted"
    fake.stop(first)
    third = fake.submit(build_request("c"))
    clock.now += 100
    for key in "de":
        fake.submit(build_request(key))
    assert isinstance(fake.events(third, 0)[-1], Finished)


def test_a_run_refused_for_its_quota_uses_up_no_fault(open_fake: Any, build_request: Any) -> None:
    fake = open_fake(max_concurrent=1, faults=[{"on": "train", "kind": "bug", "match": {"batch_size": 64}}])
    first = fake.submit(build_request("a"))
    with pytest.raises(BackendError, match="accepts no more than 1 runs at once"):
        fake.submit(build_request("b", batch_size=64))
    fake.stop(first)
    assert isinstance(fake.events(fake.submit(build_request("b", batch_size=64)), 0)[-1], Failed)


CLIENT = """
import json, sys
order = json.load(sys.stdin)
sys.path[:] = order["path"]
from pathlib import Path
from backends import codec
from backends.contract import Handle, Placement
from backends.fake import FakeBackend, FakeOptions
# These options differ from those at submission, but the terms belong to the run.
fake = FakeBackend.open(FakeOptions(price_usd_per_token=5.0), Path(order["workspace"]), Placement())
handle = codec.from_json(Handle, order["handle"])
print(json.dumps([codec.to_json(event) for event in fake.events(handle, 0)]))
"""


def test_another_process_sees_the_same_events(tmp_path: Path, build_request: Any) -> None:
    fake = FakeBackend.open(FakeOptions(price_usd_per_token=1e-3), tmp_path, Placement())
    handle = fake.submit(build_request())
    order = {"path": sys.path, "workspace": str(tmp_path), "handle": codec.to_json(handle)}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert codec.from_json(list[Event], json.loads(done.stdout)) == list(fake.events(handle, 0))
    fake.close()


STORED_TERMS = (
    '{"request": {"key": "k", "base_model": "fake-small", "dataset": {"train": {"path": "nowhere", "examples": 2000, '
    '"sha256": "sha"}, "valid": {"path": "nowhere", "examples": 2000, "sha256": "sha"}, "layout": "completion", '
    '"labels": [" a", " b", " c"], "stop": ""}, "hyperparameters": {"n_epochs": 2}, "seed": 1, "evaluation": '
    '{"per_epoch": 1, "train_examples": 256, "keep_metric": "valid_loss", "keep_maximum": false}, '
    '"resume_from": null}, '
    '"tokens_per_epoch": 100, "usd_per_token": 1e-06, "breakdown": BREAKDOWN, "seconds_per_epoch": 2.0, '
    '"events_per_poll": null}'
)
"""The terms of a run, as version 0.1 stored them."""


@pytest.mark.parametrize(
    ("text", "breakdown"),
    [
        ("null", None),
        ('{"kind": "lost", "after_epoch": 1.0}', Breakdown(FailureKind.LOST, 1.0)),
        ('{"kind": null, "after_epoch": 0.0}', Breakdown(None, 0.0)),
    ],
)
def test_the_terms_that_version_0_1_stored_are_read_and_written_as_before(
    text: str, breakdown: Breakdown | None
) -> None:
    stored = STORED_TERMS.replace("BREAKDOWN", text)
    terms = simulated_run(stored).terms
    assert terms == RunTerms(a_request(n_epochs=2), 100, 1e-6, breakdown, seconds_per_epoch=2.0)
    written = codec.to_json(terms)
    request = written["request"]
    # added since: which messages are trained, and the task metrics with their texts
    assert (request["dataset"].pop("train_on"), written.pop("texts")) == ("last", [])
    assert (request["evaluation"].pop("metrics"), request["evaluation"].pop("generation")) == ([], None)
    assert json.dumps(written) == stored


def test_a_file_that_is_not_a_database_is_a_backend_error(tmp_path: Path) -> None:
    (tmp_path / "fake-service.sqlite").write_text("this is not a database, " * 100)
    with pytest.raises(BackendError, match="not a database"):
        FakeBackend.open(FakeOptions(), tmp_path, Placement())


# -------------------------------------------------------------------------------------------- costs
def test_the_charges_equal_the_estimate(open_fake: Any, build_request: Any) -> None:
    fake = open_fake(price_usd_per_token=2e-6)
    request = build_request(n_epochs=3)
    estimate = fake.estimate(request)
    charges = charges_in(fake.events(fake.submit(request), 0))
    size = Path(request.dataset.train.path).stat().st_size
    assert estimate.tokens == sum(charge.tokens for charge in charges) == size // 4 * 3
    assert estimate.usd == pytest.approx(sum(charge.usd or math.nan for charge in charges))
    assert estimate.usd == pytest.approx(size // 4 * 3 * 2e-6)


def test_an_invalid_request_has_no_estimate(open_fake: Any, build_request: Any) -> None:
    with pytest.raises(BackendError, match="n_epochs"):
        open_fake().estimate(build_request(n_epochs="many"))


def test_an_epoch_is_charged_before_its_evaluation(open_fake: Any, build_request: Any) -> None:
    fake = open_fake()
    events = fake.events(fake.submit(build_request(n_epochs=2)), 0)
    kinds = [event.kind for event in events if isinstance(event, Charged) or event in evaluations(events)]
    assert kinds == ["measured", *["charged", "measured"] * 2]


def test_without_a_price_the_cost_is_unknown(open_fake: Any, build_request: Any) -> None:
    fake = open_fake()
    assert fake.estimate(build_request()).usd is None
    charges = charges_in(fake.events(fake.submit(build_request()), 0))
    assert [charge.usd for charge in charges] == [None] * 4


# ------------------------------------------------------------------------------------------- curves
@given(
    st.integers(1, 6),
    st.floats(1e-4, 0.3),
    st.sampled_from([1, 4, 16, 64]),
    st.integers(0, 5),
)
def test_a_longer_run_passes_through_a_shorter_one(n_epochs: int, rate: float, batch_size: int, seed: int) -> None:
    def run(epochs: int) -> list[Measured]:
        return curve(a_request(seed, n_epochs=epochs, learning_rate_multiplier=rate, batch_size=batch_size))

    assert run(n_epochs + 2)[: n_epochs + 1] == run(n_epochs)


@given(
    st.integers(1, 50),
    st.floats(1e-9, 1e300),
    st.integers(1, 256),
    st.floats(0, 1),
    st.sampled_from(["constant", "linear", "cosine"]),
    st.sampled_from(["full", "lora"]),
)
def test_every_curve_has_shares_between_0_and_1_and_positive_losses(
    n_epochs: int, rate: float, batch_size: int, weight: float, schedule: str, method: str
) -> None:
    request = a_request(
        n_epochs=n_epochs,
        learning_rate_multiplier=rate,
        batch_size=batch_size,
        prompt_loss_weight=weight,
        schedule=schedule,
        method=method,
    )
    measured = curve(request)
    diverged = math.isnan(measured[-1].values["valid_loss"])
    assert len(measured) == (2 if diverged else n_epochs + 1)
    for evaluation in measured:
        assert all(0 <= value <= 1 for name, value in evaluation.values.items() if not name.endswith("loss"))
        assert diverged or all(value > 0 for name, value in evaluation.values.items() if name.endswith("loss"))


def a_request(seed: int = 1, model: str = "fake-small", **hyperparameters: Any) -> TrainingRequest:
    file = DataFile("nowhere", 2000, "sha")
    return TrainingRequest("k", model, Dataset(file, file, "completion", LABELS), hyperparameters, seed)


def test_the_base_model_is_at_chance_whatever_the_hyperparameters() -> None:
    baselines = [curve(a_request(seed, batch_size=size))[0].values for seed in (1, 2) for size in (1, 64)]
    assert all(baseline == baselines[0] for baseline in baselines)
    assert baselines[0]["valid_accuracy"] == pytest.approx(1 / 3)
    assert baselines[0]["valid_loss"] == pytest.approx(math.log(3))


def test_a_good_rate_learns_and_a_low_rate_does_not() -> None:
    good, low = (curve(a_request(learning_rate_multiplier=rate))[-1].values for rate in (0.06, 0.001))
    assert good["valid_accuracy"] > 0.85
    assert low["valid_accuracy"] < 0.5
    assert low["train_accuracy"] < 0.5, "the model underfits: the training score is low as well"


def test_too_many_epochs_at_a_high_rate_overfit() -> None:
    measured = curve(a_request(n_epochs=12, learning_rate_multiplier=0.15))
    best = min(measured, key=lambda evaluation: evaluation.values["valid_loss"])
    last = measured[-1]
    assert best.epoch <= 4
    assert last.values["valid_loss"] > 2 * best.values["valid_loss"]
    assert last.values["train_loss"] < best.values["train_loss"] / 2
    assert last.values["valid_accuracy"] < best.values["valid_accuracy"]
    assert last.values["train_accuracy"] > best.values["train_accuracy"]


def test_a_far_too_high_rate_diverges() -> None:
    terms = RunTerms(a_request(learning_rate_multiplier=5.0), tokens_per_epoch=1)
    events = [timed.event for timed in simulated_events(terms)]
    assert isinstance(events[-1], Failed)
    assert events[-1].failure.kind is FailureKind.DIVERGED
    last = evaluations(events)[-1]
    assert math.isnan(last.values["valid_loss"])
    assert last.values["valid_accuracy"] == pytest.approx(1 / 3, abs=0.1)


def test_the_optimum_lies_inside_the_ranges() -> None:
    """Neither end of a wide range is best, so that a sweep can find something."""

    def best_loss(**hyperparameters: Any) -> float:
        curves = [curve(a_request(seed, **hyperparameters)) for seed in range(5)]
        best = [min(evaluation.values["valid_loss"] for evaluation in measured) for measured in curves]
        return sum(best) / len(best)

    for name, values in (
        ("learning_rate_multiplier", (0.002, 0.06, 0.5)),
        ("batch_size", (1, 8, 256)),
        ("prompt_loss_weight", (0.0, 0.08, 1.0)),
    ):
        low, middle, high = (best_loss(**{name: value}) for value in values)
        assert middle < min(low, high), name
    few, right, many = (
        sum(
            curve(a_request(n, n_epochs=epochs, learning_rate_multiplier=0.06))[-1].values["valid_loss"]
            for n in range(5)
        )
        for epochs in (1, 4, 20)
    )
    assert right < min(few, many)


def test_the_seed_adds_noise_of_0_01_nats() -> None:
    losses = [curve(a_request(seed))[-1].values["valid_loss"] for seed in range(40)]
    mean = sum(losses) / len(losses)
    deviation = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / (len(losses) - 1))
    assert 0.006 < deviation < 0.015
    assert curve(a_request(3)) == curve(a_request(3))


def test_the_rank_counts_for_lora_only() -> None:
    assert curve(a_request(method="full", lora_rank=1)) == curve(a_request(method="full", lora_rank=64))
    low, high = (curve(a_request(method="lora", lora_rank=rank))[-1].values["valid_loss"] for rank in (1, 64))
    assert low > high + 0.1


def test_a_larger_model_learns_more() -> None:
    small, large = (curve(a_request(model=model))[-1].values["valid_loss"] for model in ("fake-small", "fake-large"))
    assert large < small - 0.05


def test_without_labels_there_are_no_label_metrics() -> None:
    request = a_request()
    unlabelled = dataclasses.replace(request, dataset=dataclasses.replace(request.dataset, labels=()))
    assert set(curve(unlabelled)[-1].values) == {
        "valid_loss",
        "valid_token_accuracy",
        "train_loss",
        "train_token_accuracy",
    }


def test_without_a_training_sample_there_are_no_training_metrics() -> None:
    request = dataclasses.replace(a_request(), evaluation=EvaluationSettings(train_examples=0))
    assert not any(name.startswith("train") for evaluation in curve(request) for name in evaluation.values)


# ------------------------------------------------------------------------------------------ predict
def test_names_and_records_say_that_the_run_is_simulated(open_fake: Any, build_request: Any) -> None:
    fake = open_fake()
    events = fake.events(fake.submit(build_request()), 0)
    assert events[-1] == Finished("fake:k")
    assert "simulated" in fake.estimate(build_request()).basis
    (started,) = (event for event in events if isinstance(event, Started))
    assert started.resolved["pretended"] is True


def test_predict_ignores_the_last_answer_of_a_chat(open_fake: Any, build_request: Any) -> None:
    fake = open_fake()
    fake.events(fake.submit(build_request()), 0)
    user = {"role": "user", "content": "hello"}
    options = PredictOptions(labels=LABELS)
    lines = [{"messages": [user, *answer]} for answer in ([], [{"role": "assistant", "content": " a"}])]
    one, other = fake.predict("fake:k", lines, options)
    assert one == other
    assert fake.predict("fake:k", [{"messages": [user, user]}], options) != [one]
    assert fake.predict("fake:k@2", lines[:1], options) != [one], "a checkpoint is another model"
