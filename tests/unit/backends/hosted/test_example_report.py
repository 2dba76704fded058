"""What the hosted backend says about all examples: tokens, and the limit of the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backends.contract import Dataset, TrainingRequest
from backends.example_report import ExampleReport
from backends.hosted import HostedBackend, example_report
from backends.hosted.options import HostedOptions
from backends.testing import write_jsonl

pytestmark = pytest.mark.unit

MODEL = "gpt-4o-mini-2024-07-18"


def report(folder: Path, lines: list[dict[str, Any]], model: str = MODEL, **options: object) -> ExampleReport:
    file = write_jsonl(folder / "train.jsonl", lines)
    dataset = Dataset(file, file, "chat" if "messages" in lines[0] else "completion", train_on="last")
    request = TrainingRequest("k", model, dataset, {"n_epochs": 2}, 1)
    return example_report.report(request, None, HostedOptions.model_validate({"model": model, **options}))


def test_tokens_are_estimated_and_examples_above_the_limit_are_named(tmp_path: Path) -> None:
    short, long = {"prompt": "12345678", "completion": "1234"}, {"prompt": "word " * 60_000, "completion": "1234"}
    found = report(tmp_path, [short, long, short])
    lengths = found.lengths["train"]
    assert (lengths.completion_mean, lengths.basis) == (1.0, "estimated, 4 bytes per token")
    (notice, _) = found.notices
    assert (notice.code, notice.part, notice.count, notice.examples) == ("cut-completions", "train", 1, (2,))
    assert notice.message.startswith("1 of 3 training examples has more than 65,536 tokens, up to 75,001 (estimated")
    assert found.max_length == 65536
    assert report(tmp_path, [short]).notices == ()


def test_a_model_without_a_stated_limit_has_none(tmp_path: Path) -> None:
    found = report(tmp_path, [{"prompt": "word " * 60_000, "completion": "1"}], "other-model")
    assert (found.notices, found.max_length) == ((), None)


def test_only_trained_answers_count_as_completion(tmp_path: Path) -> None:
    talk = [
        {"role": "user", "content": "1234"},
        {"role": "assistant", "content": "12345678"},
        {"role": "user", "content": "1234"},
        {"role": "assistant", "content": "1234"},
    ]
    assert report(tmp_path, [{"messages": talk}]).lengths["train"].completion_mean == 1.0


def test_the_backend_offers_the_report() -> None:
    assert callable(HostedBackend.report_examples)
