"""A registered model sees exactly what it was trained to see, here and where this package is not."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.contract import DataFile, Dataset
from sweeps.data.examples import PairRecipe
from sweeps.data.formats import Record
from sweeps.data.templates import FieldError, Template
from sweeps.tracking.served_card import Card, name

with warnings.catch_warnings():  # MLflow warns of its own type hints
    warnings.simplefilter("ignore")
    from sweeps.tracking.served_model import ServedModel

pytestmark = pytest.mark.unit

NOTHING = DataFile("none", 0, "")
TEMPLATES = (
    "{premise}\n{hypothesis}",
    "{a.b} {{x}} {premise}##",
    "{premise} {premise} {hypothesis}",
    "say {hypothesis}",
)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12) | st.just("it ends ##") | st.just("##")


def dataset(labels: tuple[str, ...], stop: str) -> Dataset:
    return Dataset(NOTHING, NOTHING, "completion", labels, stop)


class Recorder:
    """Stands where a model's `answers` module would: it keeps what it is asked."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def predict(self, lines: list[dict[str, Any]]) -> list[tuple[str, None]]:
        self.lines += lines
        return [(" yes\n", None) for _ in lines]


@given(st.sampled_from(TEMPLATES), texts, texts, texts, st.sampled_from(("##", "\n\n###\n\n")))
def test_a_registered_model_is_asked_what_it_was_trained_on(
    template: str, premise: str, hypothesis: str, nested: str, separator: str
) -> None:
    how = PairRecipe(Template.parse(template), Template.parse("{label}"), separator, "\n")
    record = {"premise": premise, "hypothesis": hypothesis, "a": {"b": nested}, "label": "yes"}
    trained = json.loads(how.example(Record(record, "f", 1)).to_line())
    card = Card.of(dataset((" yes\n", " no\n"), "\n"), template, separator)

    row = card.values(record)
    line = card.line(row)
    assert (line["prompt"], line["segments"]) == (trained["prompt"], trained["segments"])

    served = ServedModel()
    served.card = {
        "fields": list(card.fields),
        "prompt": card.prompt,
        "separator": card.separator,
        "names": list(card.names),
        "facts": {"labels": [" yes\n", " no\n"]},
    }
    served.model = recorder = Recorder()
    served.predict(SimpleNamespace(), pd.DataFrame([row], columns=list(card.columns)))  # type: ignore[arg-type]
    assert recorder.lines == [line], "the copy that travels does the same"

    # the test split keeps the segments only: the columns are what they were, but for a separator at the end
    again = card.line(card.row(trained))
    assert again["prompt"] == trained["prompt"]


def test_labels_are_called_as_people_say_them() -> None:
    assert name(" entailment\n", "\n") == "entailment"
    assert Card.of(dataset((" a", "a"), ""), "{x}", "#").names == (" a", "a"), "what only spaces tell apart stays"


def test_a_conversation_is_asked_without_its_answer() -> None:
    card = Card.of(dataset(("yes", "no"), ""), None, "")
    asked = [{"role": "user", "content": "is it"}]
    answered = [*asked, {"role": "assistant", "content": "yes"}]
    assert card.columns == ("messages",)
    assert card.values({"messages": answered}) == card.values({"messages": asked}) == {"messages": asked}
    for wrong in ("text", [], [{"role": "user"}], None):
        with pytest.raises(FieldError):
            card.values({"messages": wrong})


def test_columns_are_asked_for_once(tmp_path: Path) -> None:
    assert Card.of(dataset(("a", "b"), ""), "{x} {y} {x}", "#").columns == ("x", "y")
