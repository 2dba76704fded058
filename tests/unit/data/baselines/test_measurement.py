"""What the baselines measure, and that the time and the result do not depend on chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from backends.contract import MetricRequest
from sweeps.data.baselines import measurement
from sweeps.data.baselines.measurement import label_scores, measure
from sweeps.data.baselines.sampling import sample
from sweeps.data.checks.view import DataView
from sweeps.data.examples import Example, PairRecipe
from sweeps.data.templates import Template

pytestmark = pytest.mark.unit

COLOURS = ("red", "blue", "green")


def recipe(prompt: str = "{text}") -> PairRecipe:
    return PairRecipe(Template.parse(prompt), Template.parse(" {label}"), "\n##\n", "\n")


def example(line: int, completion: str, *segments: str, row: Mapping[str, object] | None = None) -> Example:
    return Example(" ".join(segments) + "\n##\n", f" {completion}\n", segments, "d.csv", line, row=row)


def view(
    parts: Mapping[str, Sequence[Example]], labels: Sequence[str] = (), prompt: str = "{text}", seed: int = 7
) -> DataView:
    return DataView(parts, recipe(prompt), tuple(f" {label}\n" for label in labels), False, seed)


def coloured(count: int, start: int = 0) -> list[Example]:
    """Return examples whose label is a word of their text, three in four of the first label."""
    found = []
    for number in range(start, start + count):
        label = COLOURS[0] if number % 4 else COLOURS[1 + number // 4 % 2]
        found.append(example(number, label, f"the car number {number} is {label} today"))
    return found


def test_the_most_frequent_answer_and_a_task_that_words_give_away() -> None:
    found = measure(view({"train": coloured(200), "valid": coloured(80, 200), "test": coloured(40, 280)}, COLOURS))
    constant, linear = found.models
    assert constant.answer == "red"
    assert constant.values["valid"]["accuracy"] == pytest.approx(0.75)
    assert linear.values["valid"] == {"accuracy": 1.0, "macro_f1": 1.0}
    assert linear.values["test"] == {"accuracy": 1.0, "macro_f1": 1.0}
    assert found.examples == {"train": 200, "valid": 80, "test": 40}
    assert found.sample_note == ""
    assert found.strongest("valid", "accuracy") == linear


def test_each_field_alone_shows_where_the_answer_lies() -> None:
    """The second sentence alone gives the label away, as the hypotheses of SNLI do."""

    def pairs(start: int, count: int) -> list[Example]:
        sentences = (("red", "nobody sleeps"), ("blue", "somebody is outside"), ("green", "a tall man waits"))
        return [
            example(n, label, f"scene {n * 7 % 50} of a street", f"{text} {n % 9}")
            for n in range(start, start + count)
            for label, text in [sentences[n % 3]]
        ]

    parts = {"train": pairs(0, 150), "valid": pairs(150, 60)}
    found = measure(view(parts, COLOURS, "{premise} {hypothesis}"))
    by_field = {model.field: model for model in found.models if model.kind == "tfidf-field"}
    assert list(by_field) == ["premise", "hypothesis"]
    assert by_field["hypothesis"].values["valid"]["accuracy"] == 1.0
    assert by_field["premise"].values["valid"]["accuracy"] < 0.6
    assert by_field["hypothesis"].name == "TF-IDF on {hypothesis} alone"
    assert by_field["hypothesis"].key == "tfidf.hypothesis"
    assert found.model("tfidf").values["valid"]["accuracy"] == 1.0  # type: ignore[union-attr]


def test_a_word_counts_by_the_field_that_it_is_in() -> None:
    """The label is the colour of the first car; a bag of all words cannot tell it."""
    train = [example(n, COLOURS[n % 3], f"a {COLOURS[n % 3]} car", f"a {COLOURS[n // 3 % 3]} car") for n in range(90)]
    valid = [
        example(n, COLOURS[n % 3], f"a {COLOURS[n % 3]} car", f"a {COLOURS[n // 3 % 3]} car") for n in range(90, 117)
    ]
    found = measure(view({"train": train, "valid": valid}, COLOURS, "{first} {second}"))
    assert found.model("tfidf").values["valid"]["accuracy"] == 1.0  # type: ignore[union-attr]


def test_scores_are_those_of_scikit_learn_where_an_absent_label_counts_as_0() -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        truth = [COLOURS[n] for n in random.integers(0, 3, size=4)]
        predicted = [COLOURS[n] for n in random.integers(0, 3, size=4)]
        scores = label_scores(truth, predicted, COLOURS)
        assert scores["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
        expected = f1_score(truth, predicted, labels=COLOURS, average="macro", zero_division=0)
        assert scores["macro_f1"] == pytest.approx(expected)
    assert label_scores(["red"], ["red"], COLOURS) == {"accuracy": 1.0, "macro_f1": pytest.approx(1 / 3)}


def test_the_nearest_training_example_answers_free_text() -> None:
    orders = ["two apples", "three pears", "four plums", "one melon"]
    train = [example(n, f"order {n % 4}", f"please bring {orders[n % 4]} to house {n}") for n in range(40)]
    valid = [example(n, f"order {n % 4}", f"please bring {orders[n % 4]} to house {n}") for n in range(40, 60)]
    found = measure(view({"train": train, "valid": valid}), [MetricRequest("token_f1", "token_f1")])
    nearest, constant = found.model("nearest"), found.model("most-frequent")
    assert nearest is not None
    assert constant is not None
    assert nearest.values["valid"] == {"exact_match": 1.0, "token_f1": 1.0}
    assert constant.values["valid"]["exact_match"] == pytest.approx(0.25)
    assert found.model("copy") is None, "it scores nothing, so it has no row"
    assert found.metrics == ("exact_match", "token_f1")
    assert found.ranges["token_f1"].best == 1.0


def test_a_copy_of_the_prompt_is_a_baseline_for_tasks_that_change_little() -> None:
    train = [example(n, f"Sentence {n}.", f"sentence {n}.") for n in range(30)]
    valid = [example(n, f"Sentence {n}.", f"sentence {n}.") for n in range(30, 40)]
    chrf = MetricRequest("similar", "edit_similarity")
    found = measure(view({"train": train, "valid": valid}), [chrf])
    copy = found.model("copy")
    assert copy is not None
    assert copy.values["valid"]["similar"] > 0.85
    assert found.strongest("valid", "similar") == copy


def test_a_metric_that_cannot_score_the_data_or_starts_a_process_is_left_out() -> None:
    train = [example(n, "yes" if n % 2 else "no", f"question {n}") for n in range(20)]
    valid = [example(n, "yes", f"question {n}") for n in range(20, 30)]
    no_column = MetricRequest("by_column", "exact_match", {}, "answers")
    judged = MetricRequest("judge", "judge", {})
    python = MetricRequest("own", "python", {})
    found = measure(view({"train": train, "valid": valid}), [no_column, judged, python])
    assert found.metrics == ("exact_match",)


def test_texts_without_words_get_the_most_frequent_label() -> None:
    train = [example(n, COLOURS[n % 4 == 0], " ") for n in range(20)]
    found = measure(view({"train": train, "valid": [example(20, "red", " "), example(21, "blue", "")]}, COLOURS[:2]))
    assert found.model("tfidf").values["valid"]["accuracy"] == 0.5  # type: ignore[union-attr]


def test_text_without_spaces_is_compared_by_characters() -> None:
    """A Chinese sentence is one "word", so that words would never repeat."""
    good, bad = "这家饭馆的菜非常好吃{}我们明天还要再去", "这家饭馆的菜非常难吃{}我们以后不会再去"
    digits = "零一二三四五六七八九"

    def texts(start: int, count: int) -> list[Example]:
        return [
            example(
                n, "red" if n % 2 else "blue", (good if n % 2 else bad).format(digits[n % 10] + digits[n // 10 % 10])
            )
            for n in range(start, start + count)
        ]

    found = measure(view({"train": texts(0, 60), "valid": texts(100, 40)}, COLOURS[:2]))
    assert found.model("tfidf").values["valid"]["accuracy"] == 1.0  # type: ignore[union-attr]


def test_large_parts_are_sampled_and_the_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "MAX_TRAINING", 100)
    monkeypatch.setattr(measurement, "MAX_MEASURED", 50)
    parts = {"train": coloured(400), "valid": coloured(80, 400)}
    found = measure(view(parts, COLOURS))
    assert found.examples == {"train": 100, "valid": 50}
    assert found.sample_note == "measured on a sample: 100 of 400 training, 50 of 80 validation examples"
    assert measure(view(parts, COLOURS)) == found
    other = measure(view(parts, COLOURS, seed=8))
    assert other.examples == found.examples


def test_a_sample_keeps_the_order_and_depends_on_texts_and_seed_only() -> None:
    examples = coloured(300)
    chosen = sample(examples, 40, 7)
    assert chosen == sorted(chosen, key=lambda one: one.line)
    assert len(chosen) == 40
    assert sample(examples[::-1], 40, 7) == chosen[::-1]
    assert sample(examples, 40, 8) != chosen
    assert sample(examples, 300, 7) == examples


def test_a_rare_label_makes_macro_f1_less_certain() -> None:
    valid = [example(n, "red", f"car {n}") for n in range(96)] + [example(n, "blue", f"car {n}") for n in range(4)]
    found = measure(view({"train": coloured(40), "valid": valid}, COLOURS))
    assert found.balanced["valid"] == round(4 / (1 / 96 + 1 / 4))
    even = measure(view({"train": coloured(40), "valid": valid[92:100]}, COLOURS))
    assert even.balanced["valid"] == 8
    assert math.isfinite(found.models[1].values["valid"]["macro_f1"])
