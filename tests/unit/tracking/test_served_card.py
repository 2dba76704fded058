"""A registered model gets exactly the input it was trained on, with and without this package."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.contract import DataFile, Dataset
from sweeps.data.examples import PairRecipe
from sweeps.data.readers.record import Record
from sweeps.data.templates import FieldError, Template
from sweeps.tracking.served_card import ServedCard, label_name

with warnings.catch_warnings():  # MLflow warns about its own type hints
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
    """Takes the place of the predictor module, and records the lines that it gets."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def predict(self, lines: list[dict[str, Any]]) -> list[tuple[str, None]]:
        self.lines += lines
        return [(" yes\n", None) for _ in lines]


@given(st.sampled_from(TEMPLATES), texts, texts, texts, st.sampled_from(("##", "\n\n###\n\n")))
def test_a_registered_model_gets_the_lines_that_it_was_trained_on(
    template: str, premise: str, hypothesis: str, nested: str, separator: str
) -> None:
    recipe = PairRecipe(Template.parse(template), Template.parse("{label}"), separator, "\n")
    record = {"premise": premise, "hypothesis": hypothesis, "a": {"b": nested}, "label": "yes"}
    trained = json.loads(recipe.example(Record(record, "f", 1)).to_line())
    card = ServedCard.for_dataset(dataset((" yes\n", " no\n"), "\n"), template, separator)

    row = card.row_of_record(record)
    line = card.line_of_row(row)
    assert (line["prompt"], line["segments"]) == (trained["prompt"], trained["segments"])

    served = ServedModel()
    served.card = {
        "fields": list(card.fields),
        "prompt": card.prompt,
        "separator": card.separator,
        "names": list(card.label_names),
        "facts": {"labels": [" yes\n", " no\n"]},
    }
    served.model = recorder = Recorder()
    served.predict(SimpleNamespace(), pd.DataFrame([row], columns=list(card.columns)))  # type: ignore[arg-type]
    assert recorder.lines == [line], "the copy inside the registered model does the same"

    # The test split stores only the segments. They give the columns back, except for a separator at
    # the end.
    again = card.line_of_row(card.row_of_line(trained))
    assert again["prompt"] == trained["prompt"]


def test_label_names_have_no_stop_sequence_and_no_outer_spaces() -> None:
    assert label_name(" entailment\n", "\n") == "entailment"
    assert ServedCard.for_dataset(dataset((" a", "a"), ""), "{x}", "#").label_names == (" a", "a"), (
        "labels that differ only in spaces keep them"
    )


def test_a_conversation_is_predicted_without_its_answer() -> None:
    card = ServedCard.for_dataset(dataset(("yes", "no"), ""), None, "")
    question = [{"role": "user", "content": "is it"}]
    with_answer = [*question, {"role": "assistant", "content": "yes"}]
    assert card.columns == ("messages",)
    assert (
        card.row_of_record({"messages": with_answer})
        == card.row_of_record({"messages": question})
        == {"messages": question}
        == card.row_of_line({"messages": [{**message, "weight": 1} for message in with_answer]})
    )
    for wrong in ("text", [], [{"role": "user"}], None):
        with pytest.raises(FieldError):
            card.row_of_record({"messages": wrong})


def test_each_column_is_listed_once() -> None:
    assert ServedCard.for_dataset(dataset(("a", "b"), ""), "{x} {y} {x}", "#").columns == ("x", "y")
