"""Metrics of JSON equal an independent computation on random values, and refuse bad schemas."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from metric_pairs import Pairs, Score

from backends.contract import BackendError
from backends.metrics import json_fields, registry
from backends.metrics.contract import Answers

pytestmark = pytest.mark.unit

SCHEMA = {
    "type": "object",
    "required": ["name", "n"],
    "properties": {"name": {"type": "string", "minLength": 2}, "n": {"type": "integer", "minimum": 0}},
    "additionalProperties": False,
}


def random_value(random_: random.Random, depth: int = 0) -> Any:
    kind = random_.randrange(4 if depth > 2 else 7)
    if kind >= 5:
        keys = random_.sample(["name", "n", "Größe", "a b", "list"], random_.randrange(4))
        return {key: random_value(random_, depth + 1) for key in keys}
    if kind == 4:
        return [random_value(random_, depth + 1) for _ in range(random_.randrange(4))]
    return [random_.choice(["x", "Ab", "ü", ""]), random_.randrange(3), random_.choice([1.5, 2.0]), None][kind]


@pytest.fixture(scope="module")
def json_pairs() -> Pairs:
    """200 random pairs of an object and another one like it; some predictions are not JSON."""
    random_ = random.Random(20)
    found = []
    for _ in range(200):
        right = {key: random_value(random_) for key in random_.sample(["name", "n", "list", "Größe"], 3)}
        kept = {key: value for key, value in right.items() if random_.random() > 0.3}
        predicted = {**kept, **({"name": random_value(random_)} if random_.random() < 0.5 else {})}
        text = json.dumps(predicted, ensure_ascii=random_.random() < 0.5)
        found.append((text[: random_.randrange(len(text))] if random_.random() < 0.1 else text, (json.dumps(right),)))
    return found


def value_of(text: str) -> Any:
    """Return the value of a text, or the text itself, which is no JSON value, if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return NotImplemented


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    children = list(value.items()) if isinstance(value, dict) else []
    items = value if isinstance(value, list) else []
    if not children and not items:
        yield ".".join(path), json.dumps(float(value)) if isinstance(value, int) else json.dumps(value)
    for key, child in children:
        yield from leaves(child, (*path, key))
    for item in items:
        yield from leaves(item, path)


def counts(pair: tuple[str, tuple[str, ...]], field: str | None = None) -> tuple[int, int, int]:
    predicted = value_of(pair[0])
    found = Counter(() if predicted is NotImplemented else leaves(predicted))
    right = Counter(leaves(json.loads(pair[1][0])))
    if field is not None:
        found = Counter({leaf: n for leaf, n in found.items() if leaf[0] == field})
        right = Counter({leaf: n for leaf, n in right.items() if leaf[0] == field})
    return sum((found & right).values()), sum((found - right).values()), sum((right - found).values())


def micro_f1(pairs: Pairs, field: str | None = None) -> float:
    right, wrong, missed = (sum(numbers) for numbers in zip(*(counts(pair, field) for pair in pairs), strict=True))
    return 2 * right / (2 * right + wrong + missed)


def test_json_fields_is_the_micro_f1_of_all_values(json_pairs: Pairs, score: Score) -> None:
    scores = score("json_fields", json_pairs)
    assert scores.value == pytest.approx(micro_f1(json_pairs))
    assert scores.per_example == pytest.approx([micro_f1([pair]) for pair in json_pairs])
    assert {"name", "n", "list", "Größe"} <= set(scores.further)
    for field, value in scores.further.items():
        assert value == pytest.approx(micro_f1(json_pairs, field)), field
    of_examples = score("json_fields", json_pairs, average="examples")
    assert of_examples.value == pytest.approx(sum(micro_f1([pair]) for pair in json_pairs) / 200)


def test_json_fields_by_hand(score: Score) -> None:
    pairs = [
        ('{"a": {"b": 1, "c": "X"}, "d": ["p", "q"]}', ('{"a": {"b": 1.0, "c": "x "}, "d": ["q", "r"]}',)),
        ('{"a": {"b": "1"}}', ('{"a": {"b": 1}}',)),
        ("not json", ('{"a": {"b": 2}}',)),
        ("{}", ("{}",)),
    ]
    scores = score("json_fields", pairs)
    assert scores.per_example == (2 * 2 / 8, 0, 0, 1)
    assert scores.further == {"a.b": 2 / 5, "a.c": 0, "d": 2 / 4, "value": 1}
    assert score("json_fields", pairs[:1], ignore=["case"]).further["a.c"] == 1
    assert score("json_fields", pairs[:3], fields=["a"]).further == {"a.b": 2 / 5, "a.c": 0}
    several = [('{"a": 1}', ('{"a": 2}', '{"a": 1}'))]
    assert score("json_fields", several).value == 1


def test_field_scores_have_names_that_metrics_may_have_and_are_few(score: Score) -> None:
    scores = score("json_fields", [('{"a[0]=\\n": 1}', ('{"a[0]=\\n": 1}',))])
    assert scores.further == {"a_0___": 1}
    many = json.dumps({f"key{n}": n for n in range(100)})
    assert len(score("json_fields", [(many, (many,))]).further) == json_fields.MAX_FIELD_SCORES


def test_a_reference_that_is_not_json_is_an_error(score: Score) -> None:
    with pytest.raises(BackendError, match="the reference of example 2 is not JSON"):
        score("json_fields", [("{}", ("{}",)), ("{}", ("{",))])


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ('{"a": [1, 2.5e3, null, true, "ü\\u00fc"]}', True),
        ("12", True),
        ('"text"', True),
        ("9" * 5_000, True),
        ("", False),
        ("{", False),
        ("{'a': 1}", False),
        ('{"a": 1,}', False),
        ("NaN", False),
        ("[-Infinity]", False),
        ('{"a": 1} and more', False),
        ("[" * 100_000, False),
        ("```json\n{}\n```", False),
    ],
)
def test_json_valid(score: Score, text: str, is_valid: bool) -> None:
    assert score("json_valid", [(text, ("",))]).value == float(is_valid)


@pytest.mark.parametrize("text", ["```json\n{}\n```", "```\n{}```", "{}", "  ```JSON\n{\n}\n```\n"])
def test_a_code_fence_may_be_accepted(score: Score, text: str) -> None:
    assert score("json_valid", [(text, ("",))], code_fence=True).value == 1
    assert score("json_valid", [(f"Here: {text}", ("",))], code_fence=True).value == 0


def test_json_schema_is_that_of_jsonschema(json_pairs: Pairs, score: Score) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    texts = [text for text, _ in json_pairs] + ['{"name": "Ab", "n": 1}', '{"name": "A", "n": 1}', '{"name": "Ab"}']
    values = [value_of(text) for text in texts]
    scores = score("json_schema", [(text, ("",)) for text in texts], definition=SCHEMA)
    assert scores.per_example == tuple(
        float(value is not NotImplemented and validator.is_valid(value)) for value in values
    )
    assert scores.further == {"valid_json": sum(value is not NotImplemented for value in values) / len(values)}
    assert 0 < scores.value < scores.further["valid_json"] < 1


def test_the_schema_of_a_file_is_read_once(score: Score, tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA), encoding="utf-8")
    metric_class = registry.load("json_schema")
    prepared = metric_class.prepare(metric_class.options_model.model_validate("schema.json"), tmp_path)
    file.unlink()
    assert prepared == metric_class.options_model.model_validate({"definition": SCHEMA})


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), ("{", "cannot be read"), ("[]", "holds no JSON object")]
)
def test_a_file_without_a_schema(score: Score, tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "schema.json").write_text(content, encoding="utf-8")
    with pytest.raises(BackendError, match=message) as raised:
        score("json_schema", [("{}", ("",))], file="schema.json")
    assert "schema.json" in raised.value.failure.message


def test_each_example_may_have_its_schema(score: Score, tmp_path: Path) -> None:
    rows = [{"s": {"type": "object"}}, {"s": '{"type": "array"}'}, {"s": {"type": "array"}}]
    scores = score("json_schema", [("{}", ("",))] * 3, rows, column="s")
    assert scores.per_example == (1, 0, 0)
    metric = registry.load("json_schema").open(
        registry.load("json_schema").options_model.model_validate({"column": "s"}), tmp_path
    )
    bad = ({"s": {"type": "object"}}, {}, {"s": "{"}, {"s": {"type": "objct"}}, {"s": 3})
    problems = metric.problems(Answers(("",) * 5, (("",),) * 5, bad))
    assert [problem[:9] for problem in problems] == ["example 2", "example 3", "example 4", "example 5"]


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({"type": "objct"}, "the schema is not valid at $.type"),
        ({"$ref": "#/nowhere"}, "refers to '/nowhere', which it does not contain"),
        ({"$ref": "http://127.0.0.1:9/schema"}, "refers to 'http://127.0.0.1:9/schema'"),
    ],
)
def test_a_bad_schema_is_an_error(score: Score, definition: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError) as raised:
        score("json_schema", [("{}", ("",))], definition=definition)
    assert message in raised.value.failure.message


def test_a_value_nested_too_deep_for_the_schema_does_not_fit(score: Score) -> None:
    deep = "[" * 300 + "]" * 300
    definition = {"$defs": {"list": {"type": "array", "items": {"$ref": "#/$defs/list"}}}, "$ref": "#/$defs/list"}
    assert score("json_schema", [(deep, ("",))], definition=definition).value in (0, 1)
