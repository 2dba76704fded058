"""The judge keeps the promises of a metric, at a real chat endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judge_host import JudgeHost, part, parts
from scripted_host import serving

from backends.judge import Judge
from backends.metrics.contract import Answers
from backends.testing import MetricContract

pytestmark = pytest.mark.contract


def grade(user: str) -> str:
    """Grade by the share of the answer's words that a reference has."""
    references = " ".join(parts(user, "reference")).split()
    words = part(user, "answer to grade").split()
    share = sum(word in references for word in words) / max(1, len(words))
    return json.dumps({"grade": 1 + round(4 * share)})


def prefer(user: str) -> str:
    """Prefer the longer answer."""
    first, second = len(part(user, "answer A")), len(part(user, "answer B"))
    return json.dumps({"better": "A" if first > second else "B" if second > first else "tie"})


class _ServedJudge(MetricContract):
    metric_type = Judge
    rule = staticmethod(grade)

    @pytest.fixture(autouse=True)
    def _served(self) -> Iterator[None]:
        with serving(JudgeHost(self.rule)) as address:  # type: ignore[arg-type]
            self.address = address
            yield

    def options(self) -> Mapping[str, Any]:
        price = {"input": 1.0, "output": 4.0}
        return {"host": self.address, "model": "judge-1", "rubric": "rubric.md", "price_per_million_tokens": price}

    def write_files(self, folder: Path) -> None:
        (folder / "rubric.md").write_text("Is it right?", encoding="utf-8")
        lines = [
            {"prompt": "p", "answer": text, "grade": rating, "other": "xx", "preferred": preferred}
            for text, rating, preferred in (("a", 1, "other"), ("abc", 5, "answer"))
        ]
        (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


class TestGrades(_ServedJudge):
    """Grades on a scale."""


class TestGradesThatDependOnThePrompt(_ServedJudge):
    """The suite keeps the prompts beside their answers."""

    @staticmethod
    def rule(user: str) -> str:
        """Grade whether the answer repeats the prompt."""
        return json.dumps({"grade": 5 if part(user, "prompt") == part(user, "answer to grade") else 1})

    def right_answers(self) -> Answers:
        answers = super().right_answers()
        return replace(answers, prompts=answers.predictions)


class TestGradesBesideThoseOfAPerson(_ServedJudge):
    """Grades, and the agreement with a person."""

    def options(self) -> Mapping[str, Any]:
        return {**super().options(), "human": "labels.jsonl", "scale": [1, 5]}


class TestComparisons(_ServedJudge):
    """Comparisons with a column."""

    rule = staticmethod(prefer)

    def options(self) -> Mapping[str, Any]:
        return {**super().options(), "pairwise": "reference", "human": "labels.jsonl"}
