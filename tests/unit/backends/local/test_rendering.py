"""The example that `sweep check` shows: the trainer's tokens, and what becomes of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest

from backends.contract import Dataset, Placement, TrainingRequest
from backends.local import LocalBackend
from backends.local.options import LocalOptions
from backends.rendering import RenderedExample, SupportsRendering
from backends.testing import write_jsonl

pytestmark = pytest.mark.unit

TINY = "builtin:tiny-lm"
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Où?"},
    {"role": "assistant", "content": "Ici — là 漢"},
    {"role": "user", "content": "sure?"},
    {"role": "assistant", "content": "yes"},
]


def rendered(folder: Path, lines: list[dict[str, Any]], model: str = TINY, **options: Any) -> RenderedExample:
    layout: Literal["chat", "completion"] = "chat" if "messages" in lines[0] else "completion"
    file = write_jsonl(folder / "lines.jsonl", lines)
    labels, stop = options.pop("labels", ()), options.pop("stop", "")
    dataset = Dataset(file, file, layout, labels, stop, options.pop("train_on", "all"))
    request = TrainingRequest("key", model, dataset, {"n_epochs": 1, "learning_rate": 1e-3}, 7)
    backend = LocalBackend.open(LocalOptions(model=model, device="cpu", **options), folder / "w", Placement(1.0, 0.0))
    assert isinstance(backend, SupportsRendering)
    try:
        assert not backend.check(request)
        return backend.render(request)
    finally:
        backend.close()


def marked(example: RenderedExample) -> str:
    return "".join(f"[[{piece.text}]]" if piece.is_trained else piece.text for piece in example.pieces)


def test_the_first_example_with_the_most_answers_is_shown_with_its_targets_marked(tmp_path: Path) -> None:
    example = rendered(tmp_path, [{"messages": TALK[:3]}, {"messages": TALK}, {"messages": TALK}])
    assert example.example == 2
    assert marked(example) == (
        "system: Be brief.\nuser: Où?\nassistant:[[ Ici — là 漢<|end|>]]\nuser: sure?\nassistant:[[ yes<|end|>]]"
    )
    assert example.notes == ()


def test_only_the_last_answer_is_marked_if_only_it_is_trained(tmp_path: Path) -> None:
    example = rendered(tmp_path, [{"messages": TALK}], train_on="last")
    assert [piece.text for piece in example.pieces if piece.is_trained] == [" yes<|end|>"]


def test_prompt_and_completion_are_shown(tmp_path: Path) -> None:
    lines = [{"prompt": f"{n}##", "completion": f" {answer}|"} for n, answer in enumerate(("yes", "no"))]
    assert marked(rendered(tmp_path, lines, stop="|")) == "0##[[ yes|]]"
    assert marked(rendered(tmp_path, lines, stop="|", labels=(" yes|", " no|"))) == "0##[[ yes|]]"


def test_a_classifier_is_shown_its_text_and_trained_on_its_label(tmp_path: Path, bert: Path) -> None:
    lines = [{"prompt": "", "completion": label, "segments": ["ab", "c"]} for label in ("yes", "no")]
    assert marked(rendered(tmp_path, lines, str(bert), labels=("yes", "no"))) == "[CLS]ab[SEP]c[SEP][[yes]]"


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    long = [{"role": role, "content": "word " * 20} for role in ("user", "assistant")] * 4
    example = rendered(tmp_path, [{"messages": TALK}, {"messages": long}], max_length=120)
    assert "of 6 answers are not trained: they are in the lost beginnings" in example.notes[0]
