"""Each built-in metric passes the contract suite, with and without options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backends.metrics import registry
from backends.metrics.contract import Answers
from backends.testing import MetricContract

pytestmark = pytest.mark.contract

SCORER = """\
from rules import is_right

def score(predictions, references, rows):
    print("scoring", len(rows))
    return [is_right(prediction, reference) for prediction, reference in zip(predictions, references)]

def total(predictions, references, rows):
    return sum(prediction in texts for prediction, texts in zip(predictions, references))
"""
SCHEMA = '{"type": "object", "required": ["fruit", "count"], "properties": {"count": {"type": "integer"}}}'

VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bleu": ("bleu", {}),
    "bleu_of_examples": ("bleu", {"average": "examples", "tokenize": "char", "lowercase": True}),
    "chrf": ("chrf", {}),
    "chrf_of_the_corpus": ("chrf", {"average": "corpus", "word_order": 2}),
    "contains": ("contains", {}),
    "edit_similarity": ("edit_similarity", {"ignore": ["case", "white_space"]}),
    "exact_match": ("exact_match", {}),
    "exact_match_of_squad": ("exact_match", {"ignore": ["case", "punctuation", "articles", "white_space"]}),
    "json_fields": ("json_fields", {}),
    "json_fields_of_examples": ("json_fields", {"average": "examples", "fields": ["fruit"], "ignore": ["case"]}),
    "json_schema": ("json_schema", {"file": "schema.json"}),
    "json_valid": ("json_valid", {"code_fence": True}),
    "length_ratio": ("length_ratio", {}),
    "length_ratio_in_words": ("length_ratio", {"unit": "words"}),
    "numeric": ("numeric", {}),
    "numeric_with_tolerance": ("numeric", {"tolerance": 0.5, "relative_tolerance": 0.01, "decimal_mark": ","}),
    "python": ("python", {"function": "scoring.py:score", "low": 0, "high": 1}),
    "python_total": ("python", {"function": "scoring.py:total", "references": "list", "low": 0}),
    "refusal_rate": ("refusal_rate", {}),
    "regex": ("regex", {"pattern": r'"count": (\d+)', "match": "last"}),
    "rouge_l": ("rouge_l", {}),
    "rouge_l_unicode": ("rouge_l", {"words": "unicode"}),
    "token_f1": ("token_f1", {}),
}


class BuiltIn(MetricContract):
    written: ClassVar[Mapping[str, Any]]

    def options(self) -> Mapping[str, Any]:
        return self.written

    def write_files(self, folder: Path) -> None:
        (folder / "scoring.py").write_text(SCORER, encoding="utf-8")
        (folder / "rules.py").write_text("def is_right(left, right):\n    return left == right\n", encoding="utf-8")
        (folder / "schema.json").write_text(SCHEMA, encoding="utf-8")


for variant, (registered_name, written_options) in VARIANTS.items():
    members = {"metric_type": registry.load(registered_name), "written": written_options}
    class_name = f"Test{variant.title().replace('_', '')}"
    globals()[class_name] = type(class_name, (BuiltIn,), members)


class TestJsonSchemaOfAColumn(BuiltIn):
    metric_type = registry.load("json_schema")
    written: ClassVar = {"column": "schema"}

    def right_answers(self) -> Answers:
        answers = super().right_answers()
        return replace(answers, rows=tuple({"schema": SCHEMA} for _ in answers.rows))


class TestMaths(BuiltIn):
    metric_type = registry.load("numeric")
    written: ClassVar = {"maths": True}

    def right_answers(self) -> Answers:
        predictions = (r"so $x = \frac{1}{2}$", "$(a+b)^2$", "The answer is 1,200.")
        references = ((r"$\frac12$",), ("$a^2 + 2ab + b^2$",), ("1200",))
        return Answers(predictions, references, ({}, {}, {}))


def test_every_built_in_metric_is_tested() -> None:
    built_in = {
        registration.name
        for registration in registry.registrations()
        if registration.distribution == "finesweep" and registration.target.startswith("backends.metrics.")
    }
    assert built_in == {name for name, _ in VARIANTS.values()}
