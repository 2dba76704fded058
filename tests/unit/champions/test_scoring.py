"""The test examples of a challenge: how they are read, and which of them a baseline predicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backends.contract import Backend, BackendError, DataFile, Dataset, Failure, FailureKind, Prediction, PredictOptions
from sweeps.champions.answer_scoring import AnswerScoring, opened_scoring
from sweeps.champions.scoring import TestExamples, baseline
from sweeps.champions.winner import SweepWinner
from sweeps.data.store import read_lines
from sweeps.errors import SweepError
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.trials.trial import Trial

pytestmark = pytest.mark.unit

LABELS = ("yes", "no")


def chat_line(question: str, label: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": label}]}


def chat_winner(folder: Path, labels: Sequence[str]) -> SweepWinner:
    """The winner of a sweep over conversations, whose training examples are mostly `yes`."""
    path = folder / "test.jsonl"
    lines = [json.dumps(chat_line(f"question {n}", label)) for n, label in enumerate(labels)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    file = DataFile(str(path), len(labels), "")
    spec = SimpleNamespace(task_metrics=(), objective_metric=None)
    data = SimpleNamespace(
        dataset=Dataset(file, file, "chat", LABELS),
        test=file,
        prompt=None,
        separator="",
        label_counts={"train": {"no": 3, "yes": 5}},
    )
    return SweepWinner(cast(SweepPlan, SimpleNamespace(data=data, spec=spec)), "sweep", Trial(1, "key", "base", {}, 1))


class BaseModel:
    """Predicts the same text for all examples, or fails."""

    def __init__(self, text: str, failure: FailureKind | None = None) -> None:
        self._text = text
        self._failure = failure

    def predict(self, model: str, examples: Sequence[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
        if self._failure is not None:
            raise BackendError(Failure(self._failure, "it does not predict"))
        assert model == "base"
        return [Prediction(self._text) for _ in examples]


def backend(text: str, failure: FailureKind | None = None) -> Backend:
    return cast(Backend, BaseModel(text, failure))


def scoring(winner: SweepWinner) -> AnswerScoring:
    with opened_scoring(winner.plan) as opened:
        assert opened is not None
        return opened


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_unicode_line_separator_inside_a_text_does_not_end_the_line(separator: str, tmp_path: Path) -> None:
    lines = [{"prompt": f"a{separator}b", "completion": " yes"}, {"prompt": "c", "completion": " no"}]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines), encoding="utf-8")
    assert read_lines(DataFile(str(path), len(lines), "")) == lines


def test_the_baseline_is_the_base_model_only_if_it_is_better_than_the_most_frequent_label(tmp_path: Path) -> None:
    winner = chat_winner(tmp_path, ["no", "no", "yes"])
    examples = TestExamples.of(winner)
    assert examples.label_names == ("no", "no", "yes")
    better = baseline(winner, backend("no"), examples, scoring(winner))
    assert (better.name, better.scores.tolist()) == ("the base model", [1, 1, 0])
    equal = baseline(winner, backend("yes"), examples, scoring(winner))
    assert (equal.name, equal.scores.tolist()) == ("always predicting `yes`", [0, 0, 1])


def test_the_baseline_is_the_most_frequent_label_if_the_base_model_has_no_head_for_the_labels(tmp_path: Path) -> None:
    winner = chat_winner(tmp_path, ["no", "yes"])
    examples = TestExamples.of(winner)
    opponent = baseline(winner, backend("no", FailureKind.USER), examples, scoring(winner))
    assert (opponent.name, opponent.scores.tolist()) == ("always predicting `yes`", [0, 1])
    with pytest.raises(SweepError, match="the base model cannot predict: it does not predict"):
        baseline(winner, backend("no", FailureKind.TRANSIENT), examples, scoring(winner))
