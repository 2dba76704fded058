"""`sweep predict`: what is wrong in a file is told with its line; what is written can be read back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sweeps.champions import batch_prediction
from sweeps.errors import UserInputError
from sweeps.tracking.served_card import Card

pytestmark = pytest.mark.unit

CARD = Card(("premise", "hypothesis"), "{0}\n{1}", "##", ("yes", "no"))


class Echo:
    """Answers yes where the premise has a y."""

    card = CARD
    asked = 0

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        self.asked += 1
        shares = {"probability": 0.75, "probability.yes": None, "probability.no": 0.25}
        return [{"label": "yes" if "y" in row["premise"] else "no", **shares} for row in rows]


def problems(path: Path, card: Card = CARD) -> list[str]:
    with pytest.raises(UserInputError) as caught:
        batch_prediction.table(path, card)
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


def test_an_example_that_lacks_a_field_is_told_with_its_line(tmp_path: Path) -> None:
    lines = ['{"premise": "a", "hypothesis": "b"}', '{"premise": "a"}', '{"premise": null, "hypothesis": "b"}']
    found = problems(written(tmp_path, "a.jsonl", "\n".join(lines)))
    assert len(found) == 2
    assert "a.jsonl:2: the field 'hypothesis' is missing" in found[0]
    assert "a.jsonl:3: the field 'premise' is null" in found[1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "premise,hypothesis\n", "there are no examples"),
        ("a.txt", "a", "the ending '.txt' is not known"),
        ("a.csv", "premise,hypothesis,prediction\na,b,c\n", "the column 'prediction' is there already"),
        ("a.csv", "premise,hypothesis,probability.yes\na,b,c\n", "the column 'probability.yes' is there already"),
        ("a.jsonl", "{", "not valid JSON"),
    ],
)
def test_what_cannot_be_answered_is_said(name: str, text: str, message: str, tmp_path: Path) -> None:
    assert any(message in problem for problem in problems(written(tmp_path, name, text)))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert "there is no such file" in problems(tmp_path / "nothing.csv")[0]


def test_predictions_stand_behind_the_columns_in_the_files_order(tmp_path: Path) -> None:
    count = 2 * batch_prediction.AT_ONCE + 3
    lines = "".join(f'{n},{"y" if n % 2 else "n"},"h, {n}"\n' for n in range(count))
    asked = batch_prediction.table(written(tmp_path, "a.csv", f"id,premise,hypothesis\n{lines}"), CARD)
    rows = batch_prediction.answered(asked, echo := Echo(), lambda _: None)
    assert echo.asked == 3
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


@pytest.mark.parametrize("ending", batch_prediction.OUTPUTS)
def test_what_is_written_can_be_read_back(ending: str, tmp_path: Path) -> None:
    rows = [{"premise": 'a, "b"\nc', "n": {"x": [1]}, "prediction": "ja\t", "probability": None}]
    path = tmp_path / f"out{ending}"
    batch_prediction.check_output(path)
    batch_prediction.write(rows, path)
    text = path.read_text(encoding="utf-8")
    if ending == ".json":
        assert json.loads(text) == rows
    elif ending == ".jsonl":
        assert [json.loads(line) for line in text.splitlines()] == rows
    else:
        [row] = csv.DictReader(io.StringIO(text, newline=""), delimiter="," if ending == ".csv" else "\t")
        assert row == {"premise": 'a, "b"\nc', "n": '{"x": [1]}', "prediction": "ja\t", "probability": ""}
    assert [each.name for each in tmp_path.iterdir()] == [path.name], "no draft is left"


def test_an_output_that_cannot_be_is_refused_before_anything_is_answered(tmp_path: Path) -> None:
    for wrong in (tmp_path / "out.xlsx", tmp_path / "nowhere" / "out.csv"):
        with pytest.raises(UserInputError):
            batch_prediction.check_output(wrong)
