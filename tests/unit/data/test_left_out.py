"""`drop: [CODE]`: what is left out, what is said, and that nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from sweeps.data import DataSpec, PreparedData, prepare
from sweeps.errors import UserInputError

pytestmark = pytest.mark.unit


def rows(count: int, start: int = 0) -> list[dict[str, object]]:
    words = ("apple", "boat", "cloud", "door", "engine", "forest", "garden")
    return [
        {"text": f"{words[n % 7]} {n} beside {words[(n * 3 + 1) % 7]} {n * n}", "label": "yes" if n % 2 else "no"}
        for n in range(start, start + count)
    ]


def write(path: Path, records: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def prepared(tmp_path: Path, source: Path, *codes: str, **keys: object) -> PreparedData:
    spec = {"source": str(source), "prompt": "{text}", "completion": " {label}", "checks": "quick", **keys}
    return prepare(DataSpec.model_validate({**spec, "drop": codes}), tmp_path / "work")


def left_out(data: PreparedData) -> dict[str, int]:
    return {f.message.split()[-1]: f.count for f in data.findings if f.code == "left-out"}


def sizes(data: PreparedData) -> tuple[int, ...]:
    return tuple(file.examples for file in (data.dataset.train, data.dataset.valid, data.test) if file is not None)


@pytest.mark.parametrize(
    ("faulty", "code"),
    [
        ({"text": " ", "label": "yes"}, "empty-prompt"),
        ({"text": "a question", "label": ""}, "empty-completion"),
        ({"text": "a question", "label": None}, "field"),
        ({"text": "a question"}, "missing-field"),
        ({"text": "half \ud83d a letter", "label": "yes"}, "surrogate"),
    ],
)
def test_an_error_of_one_example_stops_the_sweep_unless_it_is_dropped(
    tmp_path: Path, faulty: dict[str, object], code: str
) -> None:
    source = write(tmp_path / "d.jsonl", [*rows(40), faulty, *rows(40, 40)])
    with pytest.raises(UserInputError):
        prepared(tmp_path, source)
    clean = prepared(tmp_path, write(tmp_path / "clean.jsonl", rows(80)))

    data = prepared(tmp_path, source, code)

    assert left_out(data) == {code: 1}
    assert [finding.place for finding in data.findings if finding.code == "left-out"] == [f"{source}:41"]
    assert data.digests == clean.digests


def test_examples_of_validation_that_are_also_trained_are_dropped_there(tmp_path: Path) -> None:
    folder = tmp_path / "leak"
    write(folder / "train.jsonl", rows(60))
    write(folder / "valid.jsonl", [*rows(20, 100), *rows(5)])
    with pytest.raises(UserInputError):
        prepared(tmp_path, folder, test=0)

    data = prepared(tmp_path, folder, "overlap", test=0)

    assert sizes(data) == (60, 20)
    assert left_out(data) == {"overlap": 5}


def test_a_label_of_which_every_example_is_dropped_is_no_label(tmp_path: Path) -> None:
    typo = [{"text": f"a typo {n}", "label": "yess"} for n in range(1)]
    source = write(tmp_path / "d.jsonl", [*rows(90), *typo])
    data = prepared(tmp_path, source, "label-typo")
    assert data.dataset.labels == (" no\n", " yes\n")
    assert left_out(data) == {"label-typo": 1}


def test_several_codes_are_counted_apart_and_an_example_once(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", [*rows(60), {"text": "", "label": ""}, rows(1)[0], rows(2)[1]])
    data = prepared(tmp_path, source, "empty-prompt", "empty-completion", "duplicate")
    assert left_out(data) == {"empty-prompt": 1, "duplicate": 2}
    assert sum(sizes(data)) == 60


def test_codes_that_find_nothing_change_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", rows(60))
    plain = prepared(tmp_path, source)
    data = prepared(tmp_path, source, "near-duplicate", "overlap", "duplicate")
    assert (data.fingerprint, data.findings) == (plain.fingerprint, plain.findings)


def test_a_set_of_which_nothing_remains_is_an_error(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", [{"text": "", "label": "yes"}] * 20)
    with pytest.raises(UserInputError) as caught:
        prepared(tmp_path, source, "empty-prompt")
    assert "no examples" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("overlapp", "did you mean 'overlap'"),
        ("imbalance", "is about more than single examples"),
        ("Empty", "pattern"),
    ],
)
def test_a_code_that_cannot_be_dropped_is_an_error(code: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DataSpec.model_validate({"source": "a.jsonl", "drop": [code]})


def test_a_label_whose_examples_are_all_dropped_is_no_label_any_more(tmp_path: Path) -> None:
    records = [*rows(80), *({"text": f"other words {n}", "label": "YES"} for n in range(4))]
    data = prepared(tmp_path, write(tmp_path / "d.jsonl", records), "label-spelling")
    assert data.dataset.labels == (" no\n", " yes\n")
    assert [finding.code for finding in data.findings] == ["left-out", "few-examples"]


def test_dropping_from_a_list_on_one_line_leaves_the_other_examples(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps([*rows(100), *rows(3)]), encoding="utf-8")
    assert left_out(prepared(tmp_path, path, "duplicate")) == {"duplicate": 3}
    assert sum(sizes(prepared(tmp_path, path, "duplicate"))) == 100
