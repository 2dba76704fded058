"""`sweep predict`: mistakes in a file are reported with their line; written files can be read
back.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from sweeps.champions import batch_prediction
from sweeps.errors import UserInputError
from sweeps.tracking.served_card import ServedCard

pytestmark = pytest.mark.unit

CARD = ServedCard(("premise", "hypothesis"), "{0}\n{1}", "##", ("yes", "no"))


class LetterPredictor:
    """Predicts `yes` if the premise contains a y."""

    card = CARD
    calls = 0

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        self.calls += 1
        probabilities = {"probability": 0.75, "probability.yes": None, "probability.no": 0.25}
        return [{"label": "yes" if "y" in row["premise"] else "no", **probabilities} for row in rows]


def problems(path: Path, card: ServedCard = CARD) -> list[str]:
    with pytest.raises(UserInputError) as caught:
        batch_prediction.read_examples(path, card)
    return [f"{problem} ({problem.hint})" for problem in caught.value.problems]


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_missing_column_is_one_error_with_the_nearest_name(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "premise,hypotheses\na,b\nc,d\n")
    [problem] = problems(path)
    assert "no example has the column 'hypothesis'" in problem
    assert "did you mean 'hypotheses'?" in problem


def test_an_example_without_a_field_is_reported_with_its_line(tmp_path: Path) -> None:
    lines = ['{"premise": "a", "hypothesis": "b"}', '{"premise": "a"}', '{"premise": null, "hypothesis": "b"}']
    found = problems(written(tmp_path, "a.jsonl", "\n".join(lines)))
    assert len(found) == 2
    assert "a.jsonl:2: the field 'hypothesis' is missing" in found[0]
    assert "a.jsonl:3: the field 'premise' is null" in found[1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "premise,hypothesis\n", "the file has no examples"),
        ("a.csv", "premise,hypothesis,id,id\na,b,1,2\n", "columns 3 and 4 have the same name 'id'"),
        ("a.txt", "a", "unknown file ending '.txt'"),
        ("a.csv", "premise,hypothesis,prediction\na,b,c\n", "the file already has a column 'prediction'"),
        ("a.csv", "premise,hypothesis,probability.yes\na,b,c\n", "the file already has a column 'probability.yes'"),
        ("a.jsonl", '{"premise"', "not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_predicted_is_an_error(name: str, text: str, message: str, tmp_path: Path) -> None:
    assert any(message in problem for problem in problems(written(tmp_path, name, text)))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    assert "no such file" in problems(tmp_path / "nothing.csv")[0]


def test_predictions_follow_the_columns_and_keep_the_order_of_the_file(tmp_path: Path) -> None:
    count = 2 * batch_prediction.BATCH_SIZE + 3
    lines = "".join(f'{n},{"y" if n % 2 else "n"},"h, {n}"\n' for n in range(count))
    examples = batch_prediction.read_examples(written(tmp_path, "a.csv", f"id,premise,hypothesis\n{lines}"), CARD)
    rows = batch_prediction.predict_examples(examples, predictor := LetterPredictor(), lambda _: None)
    assert predictor.calls == 3
    assert [row["id"] for row in rows] == [str(n) for n in range(count)]
    assert [row["prediction"] for row in rows[:4]] == ["no", "yes", "no", "yes"]
    assert list(rows[0]) == [
        "id",
        "premise",
        "hypothesis",
        "prediction",
        "probability",
        "probability.yes",
        "probability.no",
    ]


@pytest.mark.parametrize("ending", batch_prediction.OUTPUT_ENDINGS)
def test_a_written_file_can_be_read_back(ending: str, tmp_path: Path) -> None:
    rows = [{"premise": 'a, "b"\nc', "n": {"x": [1]}, "prediction": "ja\t", "probability": None}]
    path = tmp_path / f"out{ending}"
    batch_prediction.check_output(path)
    batch_prediction.write_rows(rows, path)
    text = path.read_text(encoding="utf-8")
    if ending == ".json":
        assert json.loads(text) == rows
    elif ending == ".jsonl":
        assert [json.loads(line) for line in text.splitlines()] == rows
    else:
        [row] = csv.DictReader(io.StringIO(text, newline=""), delimiter="," if ending == ".csv" else "\t")
        assert row == {"premise": 'a, "b"\nc', "n": '{"x": [1]}', "prediction": "ja\t", "probability": ""}
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "a draft is left"


def test_an_impossible_output_is_an_error_before_anything_is_predicted(tmp_path: Path) -> None:
    for wrong in (tmp_path / "out.xlsx", tmp_path / "nowhere" / "out.csv"):
        with pytest.raises(UserInputError):
            batch_prediction.check_output(wrong)


def test_values_of_a_parquet_file_that_json_does_not_have_are_kept_as_text(tmp_path: Path) -> None:
    row = {"premise": "a", "hypothesis": "b", "image": b"\x89", "seen": [datetime.date(2024, 5, 1)]}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    examples = batch_prediction.read_examples(tmp_path / "a.parquet", CARD)
    predicted = batch_prediction.predict_examples(examples, LetterPredictor(), print)
    for ending in batch_prediction.OUTPUT_ENDINGS:
        assert "2024-05-01" in batch_prediction.format_rows(predicted, ending)
