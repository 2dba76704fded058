"""A judge with faults: each answer is paid for once, the limit holds, and no wait is silent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_host import KEY, Judged, JudgeHost, Measure, cost_of, cut
from scripted_host import ConnectionCutError, Response, error_response, json_response

from backends import credentials, notices
from backends.contract import BackendError, FailureKind
from backends.hosted import rate_limiter
from backends.judge import asking
from backends.metrics import waits

pytestmark = pytest.mark.integration

Fault = Callable[[int, dict[str, Any]], Response | None]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limiter, "FIRST_BACKOFF_S", 0.02)


def error(status: int, code: str | None = None, **headers: str) -> Fault:
    return lambda _number, _body: error_response(status, "the host has a problem", code, **headers)


def page(_number: int, _body: dict[str, Any]) -> Response:
    return Response(200, b"<html>Please log in</html>", {"content-type": "text/html"})


def half(_number: int, _body: dict[str, Any]) -> Response:
    return Response(200, b'{"id": "c", "choices": [{"mess', {"content-type": "application/json"})


FAULTS: dict[str, tuple[Fault, bool]] = {
    # the second is whether the host may have charged for what it did
    "429": (error(429), False),
    "429 with a pause": (error(429, **{"retry-after": "0.05"}), False),
    "500": (error(500), False),
    "503": (error(503), False),
    "a web page": (page, True),
    "half an answer": (half, True),
    "a list": (lambda _number, _body: json_response([1, 2]), True),
    "no choices": (lambda _number, _body: json_response({"id": "c", "object": "chat.completion"}), True),
    "a cut connection": (cut, True),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_passes_costs_nothing_twice(host: JudgeHost, measure: Measure, name: str) -> None:
    untroubled = measure("untroubled")
    host.bodies.clear()
    host.answered.clear()
    fault, may_cost = FAULTS[name]
    host.fault = lambda number, body: fault(number, body) if number % 3 == 1 else None
    result = measure(patience_s=60)
    assert result.per_example == untroubled.per_example
    assert set(host.answered.values()) == {1}
    assert len(host.bodies) > 12
    assert result.usd is not None
    assert untroubled.usd is not None
    if may_cost:
        assert result.usd > untroubled.usd
    else:
        assert result.usd == pytest.approx(untroubled.usd)
    assert measure().usd == 0.0


def test_a_host_that_answers_nothing_is_asked_again(host: JudgeHost, measure: Measure) -> None:
    over = threading.Event()

    def hang(number: int, _body: dict[str, Any]) -> None:
        if number <= 2:
            over.wait(120)
            raise ConnectionCutError

    host.fault = hang
    try:
        result = measure(patience_s=60, timeout_s=0.5)
    finally:
        over.set()
    assert set(host.answered.values()) == {1}
    assert len(result.per_example["judge"]) == 12


def test_the_limit_holds_when_answers_get_lost(host: JudgeHost, measure: Measure) -> None:
    """The host carries out each request, and charges for it, but every second answer is lost."""

    def lose(number: int, _body: dict[str, Any]) -> None:
        if number % 2:
            raise ConnectionCutError

    full = measure("full").usd or 0.0
    host.bodies.clear()
    host.after = lose
    limit = full * 3
    with pytest.raises(BackendError, match="max_usd is"):
        measure(patience_s=60, max_usd=limit)
    assert 0.0 < cost_of(host.bodies, host.rule) <= limit


def test_lost_answers_are_counted_with_the_most_that_they_can_cost(host: JudgeHost, measure: Measure) -> None:
    def lose(number: int, _body: dict[str, Any]) -> None:
        if number % 2:
            raise ConnectionCutError

    host.after = lose
    result = measure(patience_s=60)
    assert result.usd is not None
    assert result.usd >= cost_of(host.bodies, host.rule)
    assert len(host.bodies) > 12


def test_an_unreachable_judge_is_one_error_and_the_answers_until_then_are_kept(
    host: JudgeHost, measure: Measure
) -> None:
    host.fault = lambda number, body: None if number <= 5 else error(503)(number, body)
    with pytest.raises(
        BackendError, match=r"the judge judge-1 at http://127.* the host has a problem \(HTTP 503\)"
    ) as raised:
        measure(patience_s=0.1, concurrency=1)
    assert raised.value.failure.kind is FailureKind.TRANSIENT
    host.fault = lambda _number, _body: None
    result = measure()
    assert set(host.answered.values()) == {1}
    assert result.usd == pytest.approx(measure("untroubled").usd)


def test_a_host_that_always_refuses_for_its_rate_is_a_quota_failure(host: JudgeHost, measure: Measure) -> None:
    host.fault = error(429)
    with pytest.raises(BackendError) as raised:
        measure(patience_s=0.1)
    assert raised.value.failure.kind is FailureKind.QUOTA


def test_a_wrong_key_ends_the_measurement_at_once_and_stays_secret(host: JudgeHost, measure: Measure) -> None:
    host.key = "another-key-0123456789"
    credentials.use_secrets_from({"JUDGE_KEY": KEY})
    try:
        with pytest.raises(BackendError, match="Incorrect API key") as raised:
            measure(api_key="JUDGE_KEY", patience_s=3600, concurrency=2)
    finally:
        credentials.use_secrets_from({})
    assert raised.value.failure.kind is FailureKind.USER
    assert KEY not in str(raised.value) + raised.value.failure.detail
    assert "key" in raised.value.failure.detail
    assert 1 <= len(host.operations) <= 2


@pytest.mark.parametrize(("status", "code"), [(400, None), (404, "model_not_found"), (429, "insufficient_quota")])
def test_what_waiting_cannot_mend_is_an_error_at_once(
    host: JudgeHost, measure: Measure, status: int, code: str | None
) -> None:
    host.fault = error(status, code)
    with pytest.raises(BackendError) as raised:
        measure(patience_s=3600, concurrency=2)
    assert raised.value.failure.kind is FailureKind.USER
    assert len(host.bodies) <= 2


def test_one_hopeless_request_ends_the_waits_of_the_others(
    host: JudgeHost, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limiter, "FIRST_BACKOFF_S", 3600.0)
    waiting = threading.Event()
    monkeypatch.setattr(asking.Asker, "_tell_of_pause", lambda *_: waiting.set())

    def fault(number: int, body: dict[str, Any]) -> Response | None:
        if number == 1:
            return error(503)(number, body)
        waiting.wait(60)
        return error(400)(number, body)

    host.fault = fault
    with pytest.raises(BackendError, match="HTTP 400"):  # and not after an hour
        measure(patience_s=1e6, concurrency=2)


def test_a_long_wait_is_told(host: JudgeHost, measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "TOLD_AFTER_S", 0.0)
    said: list[str] = []
    notices.listen(said.append)
    try:
        host.fault = lambda number, body: error(503)(number, body) if number == 1 else None
        measure(patience_s=60)
    finally:
        notices.listen(lambda _text: None)
    assert len(said) == 1
    assert "the judge at http://127.0.0.1" in said[0]
    assert "HTTP 503" in said[0]


def test_a_wait_is_visible_to_other_processes(
    host: JudgeHost, measure: Measure, judged: Judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limiter, "FIRST_BACKOFF_S", 8.0)
    told = threading.Event()
    monkeypatch.setattr(asking, "notice", lambda _text: told.set())
    workspace = tmp_path / "workspace"
    assert waits.waiting([judged()], workspace) is None
    host.fault = lambda number, body: (error(503) if number == 1 else error(400))(number, body)
    failed: list[BackendError] = []

    def run() -> None:
        try:
            measure(patience_s=1e6, concurrency=1)
        except BackendError as raised:
            failed.append(raised)

    thread = threading.Thread(target=run)
    thread.start()
    assert told.wait(60)
    deadline = time.monotonic() + 60
    while (wait := waits.waiting([judged()], workspace)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert wait is not None
    assert "the judge at http://127.0.0.1" in wait.reason
    assert "HTTP 503" in wait.reason
    assert wait.until > time.time()
    thread.join(120)
    assert len(failed) == 1
    assert waits.waiting([judged()], workspace) is None  # the measurement has ended


@pytest.mark.parametrize(
    ("finish", "content", "message"),
    [
        ("length", '{"reason": "it is', "the reply ends at `max_tokens`"),
        ("content_filter", None, "the content filter of the host rejects them"),
        ("stop", None, "it replied ''"),
    ],
)
def test_replies_that_end_early_are_explained(
    host: JudgeHost, measure: Measure, finish: str, content: str | None, message: str
) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    host.fault = lambda _number, _body: json_response({"id": "c", "object": "chat.completion", "choices": [choice]})
    with pytest.raises(BackendError) as raised:
        measure()
    assert message in raised.value.failure.message
    assert raised.value.failure.detail


def test_an_answer_that_the_host_refuses_to_read_has_no_grade_and_fails_nothing(
    host: JudgeHost, measure: Measure
) -> None:
    def refuse(number: int, body: dict[str, Any]) -> Response | None:
        refused = "Question 3?" in body["messages"][1]["content"]
        return error(400, "content_filter")(number, body) if refused else None

    host.fault = refuse
    result = measure()
    assert result.per_example["judge"][3] == 0.0
    assert result.per_example["judge"][2] > 0.0
    assert result.usd == pytest.approx(
        cost_of([body for body in host.bodies if "Question 3?" not in body["messages"][1]["content"]], host.rule)
    )
    measure()
    assert len(host.bodies) == 12  # and it is not sent again


def test_the_explanation_is_that_of_a_reply_which_could_not_be_read(
    host: JudgeHost, measure: Measure, tmp_path: Path
) -> None:
    """The rejected answer to question 3 is empty, too, but it is not why the labels fail."""
    labels = [{"prompt": "Label", "answer": "a" * grade, "grade": grade} for grade in (1, 5)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)), encoding="utf-8")
    cut_off = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "length"}

    def fault(number: int, body: dict[str, Any]) -> Response | None:
        user = body["messages"][1]["content"]
        if "Question 3?" in user:
            return error(400, "content_filter")(number, body)
        return json_response({"object": "chat.completion", "choices": [cut_off]}) if "Label" in user else None

    host.fault = fault
    with pytest.raises(BackendError, match="no rating for 2 of 2 answers: the reply ends at `max_tokens`"):
        measure(human="labels.jsonl")


def test_a_host_that_refuses_many_answers_is_an_error(host: JudgeHost, measure: Measure) -> None:
    host.fault = error(400, "content_filter")
    with pytest.raises(BackendError, match="no rating for 12 of 12 answers: the content filter of the host"):
        measure()
