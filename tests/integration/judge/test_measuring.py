"""The judge measures at a real chat endpoint: values, costs, and each question once."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from judge_host import (
    KEY,
    LINES,
    PREDICTIONS,
    REMINDER,
    Judged,
    JudgeHost,
    Measure,
    command_that_measures,
    cost_of,
    grade_by_length,
    part,
    prefer_longer,
    usage_of,
)
from sklearn.metrics import cohen_kappa_score

from backends import credentials
from backends.contract import BackendError, FailureKind
from backends.judge import Judge
from backends.judge.options import JudgeOptions
from backends.metrics.contract import Metric, Scores, SupportsCostBound
from backends.metrics.cost import cost_bound
from backends.metrics.measurement import MetricSet

pytestmark = pytest.mark.integration


def test_grades_are_measured_and_paid_for_once(host: JudgeHost, measure: Measure) -> None:
    first = measure()
    grades = [1 + len(text) % 5 for text in PREDICTIONS]
    assert first.per_example["judge"] == tuple((grade - 1) / 4 for grade in grades)
    assert first.values["judge"] == pytest.approx(sum((grade - 1) / 4 for grade in grades) / 12)
    assert first.values["judge_grade"] == pytest.approx(sum(grades) / 12)
    usages = [usage_of(body, host.rule(body["messages"][-1]["content"])) for body in host.bodies]
    assert first.tokens == sum(usage["total_tokens"] for usage in usages)
    assert first.usd == pytest.approx(cost_of(host.bodies, host.rule))

    again = measure()
    assert (again.values, again.per_example) == (first.values, first.per_example)
    assert (again.usd, again.tokens) == (0.0, 0)
    assert len(host.bodies) == 12
    assert set(host.answered.values()) == {1}


def test_each_request_has_temperature_0_and_all_texts(host: JudgeHost, measure: Measure) -> None:
    measure(max_tokens=77, extra_body={"reasoning_effort": "low"})
    for body in host.bodies:
        assert body["temperature"] == 0
        assert body["max_tokens"] == 77
        assert body["reasoning_effort"] == "low"
        assert body["model"] == "judge-1"
        assert body["messages"][0]["role"] == "system"
        user = body["messages"][1]["content"]
        number = int(part(user, "prompt").removeprefix("Question ").removesuffix("?"))
        assert part(user, "reference") == LINES[number]["completion"]
        assert part(user, "answer to grade") == PREDICTIONS[number]


def test_equal_answers_to_equal_prompts_are_one_question(
    host: JudgeHost, measure: Measure, judged: Judged, tmp_path: Path
) -> None:
    with MetricSet.open([judged()], tmp_path) as metrics:
        result = metrics.measure(["same"] * 5, [LINES[0]] * 5)
    assert len(result.per_example["judge"]) == 5
    assert len(host.bodies) == 1


@pytest.mark.parametrize(
    "changes", [{"rubric": "Another."}, {"scale": [0, 5]}, {"max_tokens": 99}, {"show_reference": False}]
)
def test_other_settings_are_other_questions(host: JudgeHost, measure: Measure, changes: dict[str, Any]) -> None:
    measure()
    measure(**changes)
    assert len(host.bodies) == 24


def test_settings_that_do_not_decide_about_replies_ask_nothing_again(host: JudgeHost, measure: Measure) -> None:
    measure()
    changes = {"concurrency": 2, "requests_per_minute": 1e6, "max_usd": 9.0, "timeout_s": 33, "patience_s": 1}
    measure(**changes)
    assert len(host.bodies) == 12


def test_a_pairwise_judge_is_asked_in_both_orders(host: JudgeHost, measure: Measure) -> None:
    host.rule = prefer_longer
    result = measure(pairwise="base_model")
    expected = []
    for number, text in enumerate(PREDICTIONS):
        other = len(str(LINES[number]["row"]["base_model"]))
        expected.append(0.5 if len(text) == other else float(len(text) > other))
    assert result.per_example["judge"] == tuple(expected)
    assert result.values["judge_wins"] == expected.count(1.0) / 12
    assert result.values["judge_losses"] == expected.count(0.0) / 12
    assert result.values["judge_consistent"] == 1.0
    orders: dict[str, list[tuple[str, str]]] = {}
    for body in host.bodies:
        user = body["messages"][1]["content"]
        assert part(user, "reference")
        orders.setdefault(part(user, "prompt"), []).append((part(user, "answer A"), part(user, "answer B")))
    assert len(orders) == 12
    for (first, second), (third, fourth) in orders.values():
        assert (first, second) == (fourth, third)


def test_a_judge_that_always_prefers_the_first_decides_nothing(host: JudgeHost, measure: Measure) -> None:
    host.rule = lambda _user: '{"better": "A"}'
    result = measure(pairwise="reference")
    assert set(result.per_example["judge"]) == {0.5}
    same = sum(text == line["completion"] for text, line in zip(PREDICTIONS, LINES, strict=True))
    assert result.values["judge_consistent"] == same / 12
    assert all(not part(body["messages"][1]["content"], "reference") for body in host.bodies)


def test_a_missing_column_is_found_before_anything_is_asked(host: JudgeHost, measure: Measure) -> None:
    with pytest.raises(BackendError, match="12 of 12 examples have no text in the column 'base'") as raised:
        measure(pairwise="base")
    assert raised.value.failure.kind is FailureKind.USER
    assert host.bodies == []


def test_a_reply_that_is_no_grade_is_asked_for_once_more(host: JudgeHost, measure: Measure) -> None:
    host.rule = lambda user: grade_by_length(user) if user.endswith(REMINDER) else "I like it."
    result = measure()
    assert len(host.bodies) == 24
    assert result.per_example["judge"] == tuple((len(text) % 5) / 4 for text in PREDICTIONS)
    measure()
    assert len(host.bodies) == 24


def test_a_rare_answer_without_a_grade_counts_as_the_lowest(host: JudgeHost, measure: Measure) -> None:
    host.rule = lambda user: "No." if "Question 3?" in user else grade_by_length(user)
    result = measure()
    assert result.per_example["judge"][3] == 0.0
    assert len(host.bodies) == 13


def test_many_answers_without_a_grade_are_an_error_that_quotes_one(host: JudgeHost, measure: Measure) -> None:
    host.rule = lambda _user: "As an AI, I cannot grade."
    for _ in range(2):
        with pytest.raises(BackendError, match="no rating for 12 of 12 answers: it replied 'As an AI") as raised:
            measure()
        assert raised.value.failure.kind is FailureKind.USER
    assert len(host.bodies) == 24  # twice each; the second measurement asked nothing


def test_the_judge_is_compared_with_a_person(host: JudgeHost, measure: Measure, tmp_path: Path) -> None:
    person = [1, 2, 3, 4, 5, 5, 4, 3, 2, 1]
    labels = [
        {"prompt": f"Q{n}", "answer": "x" * (grade + (n % 3 == 0)), "grade": grade} for n, grade in enumerate(person)
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)), encoding="utf-8")
    result = measure(human="labels.jsonl")
    judge = [1 + len(str(label["answer"])) % 5 for label in labels]
    expected = cohen_kappa_score(person, judge, labels=[1, 2, 3, 4, 5], weights="quadratic")
    assert result.values["judge_kappa"] == pytest.approx(expected)
    assert f"kappa {expected:.2f} (quadratic weights)" in result.notes["judge"]
    assert len(result.per_example["judge"]) == 12
    assert len(host.bodies) == 22
    measure(count=3, human="labels.jsonl")
    assert len(host.bodies) == 22


def test_a_pairwise_judge_is_compared_with_a_person(host: JudgeHost, measure: Measure, tmp_path: Path) -> None:
    host.rule = prefer_longer
    labels = [
        {"prompt": "q", "answer": "aa", "other": "b", "preferred": "answer"},
        {"prompt": "q", "answer": "a", "other": "bb", "preferred": "other"},
        {"prompt": "q", "answer": "a", "other": "b", "preferred": "answer"},
        {"prompt": "q", "answer": "aa", "other": "bb", "preferred": "tie"},
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)), encoding="utf-8")
    result = measure(pairwise="base_model", human="labels.jsonl")
    assert result.values["judge_kappa"] == pytest.approx(cohen_kappa_score([1, -1, 1, 0], [1, -1, 0, 0]))


def test_a_measurement_never_costs_more_than_its_bound(
    host: JudgeHost, measure: Measure, judged: Judged, tmp_path: Path
) -> None:
    host.rule = lambda _user: "no grade " * 20
    labels = [{"prompt": "q", "answer": "a" * grade, "grade": grade} for grade in (1, 5)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)), encoding="utf-8")
    for changes in ({}, {"pairwise": "base_model"}, {"human": "labels.jsonl"}):
        bound = cost_bound([judged(**changes)], LINES, "", max_tokens=9)
        with pytest.raises(BackendError, match="no rating"):
            measure(f"workspace {list(changes)}", **changes)
        tokens = sum(usage_of(body, host.rule(""))["total_tokens"] for body in host.bodies)
        assert bound.usd is not None
        assert bound.tokens is not None
        assert 0 < cost_of(host.bodies, host.rule) <= bound.usd
        assert tokens <= bound.tokens
        host.bodies.clear()


def test_the_limit_in_usd_is_held_and_a_higher_one_continues(host: JudgeHost, measure: Measure) -> None:
    full = measure("full").usd or 0.0
    host.bodies.clear()
    host.answered.clear()
    limit = full * 1.3  # a request reserves several times what it costs at last
    with pytest.raises(BackendError, match="max_usd is") as raised:
        measure(max_usd=limit)
    assert raised.value.failure.kind is FailureKind.USER
    asked = len(host.bodies)
    assert 0 < asked < 12
    assert cost_of(host.bodies, host.rule) <= limit
    result = measure(max_usd=full * 10)
    assert len(host.bodies) == 12
    assert set(host.answered.values()) == {1}
    assert result.usd == pytest.approx(full)


def test_a_host_that_reports_no_usage_is_charged_with_the_most_possible(host: JudgeHost, measure: Measure) -> None:
    host.reports_usage = False
    result = measure()
    bytes_read = sum(len(message["content"].encode()) for body in host.bodies for message in body["messages"])
    assert (result.usd or 0.0) * 1e6 >= bytes_read + 12 * 256 * 4


def test_without_a_price_the_cost_is_unknown_and_the_tokens_are_known(measure: Measure) -> None:
    result = measure(price_per_million_tokens=None)
    assert result.usd is None
    assert result.tokens > 0


def test_the_concurrency_is_kept(host: JudgeHost, measure: Measure) -> None:
    together = threading.Barrier(3, timeout=60)

    def meet(_number: int, _body: dict[str, Any]) -> None:
        together.wait()

    host.fault = meet
    measure(concurrency=3)
    assert host.most_at_once == 3


def test_two_processes_ask_each_question_once(host: JudgeHost, judged: Judged, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=60)

    def meet(number: int, _body: dict[str, Any]) -> None:
        if number <= 2:  # goes on when both processes have begun
            both.wait()

    host.fault = meet
    command = command_that_measures(judged(concurrency=1), tmp_path)
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert outputs[0][0] == outputs[1][0]
    assert set(host.answered.values()) == {1}
    assert len(host.bodies) == 12
    assert outputs[0][1] + outputs[1][1] == pytest.approx(cost_of(host.bodies, host.rule))


def test_the_key_is_sent_and_stays_out_of_everything_that_is_stored(
    host: JudgeHost, measure: Measure, tmp_path: Path
) -> None:
    host.key = KEY
    host.rule = lambda user: f"your key is {KEY} {grade_by_length(user)}"  # a host that quotes the key
    credentials.use_secrets_from({"JUDGE_KEY": KEY})
    try:
        result = measure(api_key="JUDGE_KEY")
    finally:
        credentials.use_secrets_from({})
    assert result.values["judge"] >= 0.0
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in host.headers)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes()


def test_a_missing_key_is_found_when_the_metric_opens(judged: Judged, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="NOBODY_SETS_THIS_KEY is not set") as raised:
        MetricSet.open([judged(api_key="NOBODY_SETS_THIS_KEY")], tmp_path)
    assert raised.value.failure.kind is FailureKind.USER


def test_the_judge_is_a_metric_that_costs_money() -> None:
    assert isinstance(Judge, type)
    assert issubclass(Judge, SupportsCostBound)
    declaration = Judge.describe(JudgeOptions(model="m", rubric="r"))
    assert not declaration.is_free
    assert (declaration.low, declaration.high, declaration.is_mean) == (0.0, 1.0, True)
    assert isinstance(Judge(JudgeOptions(model="m", rubric="r"), Path(), None), Metric)
    assert Scores(0.0).usd == 0.0
