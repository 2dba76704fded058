"""The options of the judge, and the files that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from backends import codec
from backends.contract import BackendError, FailureKind
from backends.judge import Judge
from backends.judge.options import JudgeOptions
from backends.metrics.contract import Answers

pytestmark = pytest.mark.unit

GIVEN = {"model": "judge-1", "rubric": "Is it right?"}


def options(**changes: Any) -> JudgeOptions:
    return JudgeOptions.model_validate({**GIVEN, **changes})


def prepared(folder: Path, **changes: Any) -> JudgeOptions:
    result = Judge.prepare(options(**changes), folder)
    assert isinstance(result, JudgeOptions)
    return result


def error_of(folder: Path, **changes: Any) -> tuple[str, str]:
    with pytest.raises(BackendError) as raised:
        prepared(folder, **changes)
    assert raised.value.failure.kind is FailureKind.USER
    return raised.value.failure.message, raised.value.failure.detail


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "opnai"}, "Did you mean openai?"),
        ({"host": "azure"}, "host azure needs a base_url"),
        ({"host": "https://user:secret@host/v1"}, "remove user, password and query"),
        ({"host": "ftp://host/v1"}, "must begin with http"),
        ({"scale": [5, 1]}, "the lowest grade 5 must be below the highest grade 1"),
        ({"scale": [1, 5], "pairwise": "reference"}, "give `scale` or `pairwise`, and not both"),
        ({"max_usd": 1.0}, "`max_usd` needs `price_per_million_tokens`"),
        ({"max_usd": float("inf")}, "finite"),
        ({"temperature": 1.0}, "Extra inputs"),
        ({"api_key": "sk-abc-123"}, "pattern"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        options(**changes)
    assert message in str(raised.value)


def test_an_address_gets_a_key_only_if_one_is_named() -> None:
    assert options(host="http://127.0.0.1:8000/v1").key_name is None
    assert options(host="http://127.0.0.1:8000/v1", api_key="MY_KEY").key_name == "MY_KEY"
    assert options().key_name == "OPENAI_API_KEY"
    assert options(host="local").key_name is None


def test_prepared_options_survive_json_and_need_no_file(tmp_path: Path) -> None:
    (tmp_path / "rubric.md").write_text("\ufeffBe strict.\n", encoding="utf-8")
    lines = [{"prompt": "p", "answer": f"a{grade}", "grade": grade, "by": "me"} for grade in (1, 5)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    complete = prepared(tmp_path, rubric="rubric.md", human="labels.jsonl", scale=[1, 5])
    for file in tmp_path.iterdir():
        file.unlink()
    again = JudgeOptions.model_validate(json.loads(json.dumps(codec.to_json(complete))))
    assert again == complete
    assert again.rubric == "Be strict."
    assert [label.grade for label in again.human_labels] == [1, 5]


@pytest.mark.parametrize(
    "rubric", ["Is it right?", "one_word", "Say a/b.\nThen c.", "Good.txt is a file name, or is it?"]
)
def test_a_rubric_can_be_written_out(tmp_path: Path, rubric: str) -> None:
    assert prepared(tmp_path, rubric=rubric).rubric == rubric


def test_a_missing_rubric_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    message, remedy = error_of(tmp_path, rubric="rubrics/strict.md")
    assert message == f"the rubric {tmp_path / 'rubrics/strict.md'} does not exist"
    assert "folder of the sweep file" in remedy


@pytest.mark.parametrize(("content", "message"), [(b"  \n", "the rubric is empty"), (b"\xff\xfe\x00", "no UTF-8")])
def test_an_unusable_rubric_file_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "r.txt").write_bytes(content)
    assert message in error_of(tmp_path, rubric="r.txt")[0]


def test_a_folder_is_no_rubric(tmp_path: Path) -> None:
    (tmp_path / "r.txt").mkdir()
    assert "cannot be read" in error_of(tmp_path, rubric="r.txt")[0]


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ("", {}, "is empty"),
        ('{"prompt": "p", "answer": "a", "grade": 3}\n{"prompt"', {}, "labels.jsonl:2: it is no JSON"),
        ("[1]", {}, "labels.jsonl:1: it has no `prompt`"),
        ('{"prompt": "p", "grade": 3}', {}, "labels.jsonl:1: it has no `answer`"),
        ('{"prompt": "p", "answer": "a"}', {}, "labels.jsonl:1: it has no `grade`"),
        ('{"prompt": "p", "answer": "a", "grade": "3"}', {}, "labels.jsonl:1: `grade`"),
        ('{"prompt": "p", "answer": "a", "grade": 2.5}', {}, "labels.jsonl:1: `grade`"),
        (
            '\n{"prompt": "p", "answer": "a", "grade": 6}',
            {},
            "labels.jsonl:2: the grade 6 is not on the scale from 1 to 5",
        ),
        ('{"prompt": "p", "answer": "a", "grade": 3}', {}, "all labels in"),
        ('{"prompt": "p", "answer": "a", "grade": 3}', {"pairwise": "base"}, "labels.jsonl:1: it has no `other`"),
        ('{"prompt": "p", "answer": "a", "other": "b"}', {"pairwise": "base"}, "it has no `preferred`"),
        ('{"prompt": "p", "answer": "a", "other": "b", "preferred": "a"}', {"pairwise": "base"}, "`preferred`"),
    ],
)
def test_each_fault_of_the_labels_is_named_with_its_line(
    tmp_path: Path, content: str, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "labels.jsonl").write_text(content, encoding="utf-8")
    assert message in error_of(tmp_path, human="labels.jsonl", **changes)[0]


def test_many_faults_of_the_labels_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text("nothing\n" * 10, encoding="utf-8")
    message, remedy = error_of(tmp_path, human="labels.jsonl")
    assert message.count("it is no JSON") == 3
    assert message.endswith("and 7 more lines")
    assert "`prompt`, `answer`, `grade`" in remedy


def test_missing_labels_are_an_error(tmp_path: Path) -> None:
    assert error_of(tmp_path, human="labels.jsonl")[0] == f"the file `human` {tmp_path / 'labels.jsonl'} does not exist"


ANSWERS = Answers(("", ""), (("good",), ("fine",)), ({}, {}), ("What?", "Why?"))


def test_a_cost_without_a_price_is_unknown_and_says_so() -> None:
    bound = Judge.cost_bound(options(), ANSWERS, 64)
    assert bound.usd is None
    assert bound.tokens is not None
    assert "price_per_million_tokens" in bound.basis


def test_the_cost_bound_grows_with_examples_answers_and_labels(tmp_path: Path) -> None:
    price = {"input": 1.0, "output": 2.0}

    def usd(answers: Answers = ANSWERS, max_tokens: int = 64, **changes: Any) -> float:
        bound = Judge.cost_bound(prepared(tmp_path, price_per_million_tokens=price, **changes), answers, max_tokens)
        assert bound.usd is not None
        return bound.usd

    labels = [{"prompt": "p", "answer": "a" * grade, "grade": grade} for grade in (1, 5)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)), encoding="utf-8")
    alone = usd()
    assert usd(max_tokens=128) > alone
    assert usd(human="labels.jsonl") > alone
    assert usd(pairwise="reference") > alone
    assert usd(max_tokens=10**6) == usd(max_tokens=10**7)  # the judge reads no more of an answer
    assert usd(max_usd=alone / 2) == alone / 2
    one = Answers(("",), (("good",),), ({},), ("What?",))
    assert usd(one) < alone
