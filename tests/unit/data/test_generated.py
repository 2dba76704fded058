"""Generated free-text examples: deterministic, disjoint parts, and references that are right."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from random import Random
from string import ascii_letters

import pytest
from transformers import AutoTokenizer

from backends.metrics import registry
from backends.metrics.contract import Answers
from sweeps.data.builtin import english_forms, orders, rewrites, sums
from sweeps.data.builtin.generated import GENERATED_SOURCES, GeneratedSource
from sweeps.data.builtin.held_out import Drawn, draw_records, part_of
from sweeps.data.builtin.nli_words import SPLITS, Split, words_of
from sweeps.data.prepare import prepare
from sweeps.data.spec import DataSpec
from sweeps.errors import UserInputError
from sweeps.spec.loading import load

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
MODULES = {"orders": orders, "sums": sums, "rewrites": rewrites}
COLUMNS = {
    "orders": ["message", "order"],
    "sums": ["question", "answer"],
    "rewrites": ["instruction", "input", "output"],
}
ALL = pytest.mark.parametrize("name", sorted(MODULES))
MAX_TOKENS = 120


def prompt_of(record: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(record.values())[:-1]


def reference_of(record: Mapping[str, str]) -> str:
    return tuple(record.values())[-1]


def score(metric: str, references: list[str], **options: object) -> float:
    metric_class = registry.load(metric)
    opened = metric_class.open(metric_class.options_model(**options), Path())
    rows = tuple({} for _ in references)
    answers = Answers(tuple(references), tuple((reference,) for reference in references), rows)
    assert not opened.problems(answers)
    return opened.score(answers).value


@ALL
def test_the_same_arguments_give_the_same_records_and_fewer_are_the_beginning(name: str) -> None:
    generate = MODULES[name].generate
    records = generate("train", 300, 7)
    assert len(records) == 300
    assert {tuple(record) for record in records} == {tuple(COLUMNS[name])}
    assert generate("train", 300, 7) == records
    assert generate("train", 40, 7) == records[:40]
    assert generate("train", 300, 8) != records
    assert generate("valid", 0, 7) == []


@ALL
def test_no_prompt_occurs_twice_or_in_two_parts_whatever_the_seeds(name: str) -> None:
    prompts = {
        part: [prompt_of(record) for seed in seeds for record in MODULES[name].generate(part, 700, seed)]
        for part, seeds in (("train", (1, 2, 3)), ("valid", (1, 4)), ("test", (2, 5)))
    }
    for part in SPLITS:
        assert len({prompt_of(record) for record in MODULES[name].generate(part, 700, 1)}) == 700
        others = [prompt for other in SPLITS if other != part for prompt in prompts[other]]
        assert not set(prompts[part]) & set(others)


def test_no_customer_orders_a_thing_in_two_parts() -> None:
    pairs = {
        part: {
            (order["customer"], order["item"].split()[-1])
            for order in (json.loads(record["order"]) for record in orders.generate(part, 900, seed))
        }
        for part, seed in zip(SPLITS, (1, 2, 3), strict=True)
    }
    assert not pairs["train"] & (pairs["valid"] | pairs["test"])
    assert not pairs["valid"] & pairs["test"]


@ALL
def test_the_training_part_has_the_words_of_the_others(name: str) -> None:
    words = {
        part: set(re.findall(r"\w+", " ".join(text for record in records for text in record.values())))
        for part in SPLITS
        for records in [MODULES[name].generate(part, 3000 if part == "train" else 500, 7)]
    }
    assert words["valid"] | words["test"] <= words["train"]


@ALL
def test_an_example_is_short_for_the_model_that_comes_with_finesweep(name: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "backends/local/models/tiny_lm")
    data = DataSpec(source=f"builtin:{name}", train_examples=800, valid_examples=100, test_examples=100)
    for line in Path(prepare(data, tmp_path).dataset.train.path).read_text().splitlines():
        example = json.loads(line)
        text = example.get("prompt", "") + example.get("completion", "")
        text += "\n".join(f"{message['role']}: {message['content']}" for message in example.get("messages", []))
        assert 0 < len(tokenizer(text)["input_ids"]) <= MAX_TOKENS


@ALL
def test_the_data_is_free_text_and_has_no_finding(name: str, tmp_path: Path) -> None:
    prepared = prepare(DataSpec(source=f"builtin:{name}", checks="quick"), tmp_path)
    assert prepared.task == "generation"
    assert not prepared.findings
    assert prepared.test is not None
    sizes = (prepared.dataset.train.examples, prepared.dataset.valid.examples, prepared.test.examples)
    assert sizes == (2000, 500, 500)
    assert (prepared.conversations is not None) == (name == "rewrites")


def test_each_order_is_right_by_the_metrics_of_its_sweep_file() -> None:
    references = [record["order"] for record in orders.generate("valid", 300, 7)]
    metrics = load(ROOT / "spaces/extract-json.yaml").task_metrics
    assert {metric.request.type for metric in metrics} == {"exact_match", "json_schema", "json_fields"}
    for metric in metrics:
        assert score(metric.request.type, references, **metric.request.options) == 1.0


def test_a_wrong_order_does_not_fit_the_schema_of_the_sweep_file() -> None:
    (schema,) = (
        metric.request.options
        for metric in load(ROOT / "spaces/extract-json.yaml").task_metrics
        if metric.request.type == "json_schema"
    )
    order = json.loads(orders.generate("valid", 1, 7)[0]["order"])
    wrong = [
        {**order, "gift": "no"}, {**order, "customer": ""}, {**order, "price": 3},
        {name: value for name, value in order.items() if name != "item"}, [order],
    ]  # fmt: skip
    for value in wrong:
        assert score("json_schema", [json.dumps(value)], **schema) == 0.0


def test_each_value_of_an_order_is_in_its_message() -> None:
    records = orders.generate("train", 300, 7)
    for record in records:
        order = json.loads(record["order"])
        names = set(words_of(*SPLITS).names) & set(re.findall(r"\w+", record["message"]))
        assert names == {order["customer"]}
        assert order["item"] in record["message"]
        assert order["gift"] == ("It is a gift." in record["message"])
    assert {json.loads(record["order"])["gift"] for record in records} == {True, False}


def test_each_answer_counts_the_things_of_its_question() -> None:
    records = sums.generate("train", 600, 7)
    assert score("numeric", [record["answer"] for record in records]) == 1.0
    totals = set()
    for record in records:
        things = re.findall(r"\ban? (\w+)", record["question"])
        solution, _, number = record["answer"].rpartition("\n#### ")
        assert solution == ", ".join(f"{count} {thing}" for count, thing in enumerate(things, 1))
        assert int(number) == len(things)
        totals.add(int(number))
    assert totals == set(range(2, 2 * sums.MAX_THINGS + 1))


def test_each_instruction_does_what_it_says() -> None:
    opposite = words_of(*SPLITS).opposite
    expected = {
        "Write this in capital letters.": str.upper,
        "Reverse the order of the words.": lambda text: " ".join(reversed(text.split())),
        "Write the plural.": lambda text: " ".join(
            [*text.split()[1:-1], english_forms.plural(text.split()[-1])],
        ),
        "Replace the adjective by its opposite.": lambda text: english_forms.with_article(
            f"{opposite[text.split()[1]]} {text.split()[2]}"
        ),
        "Write this in the past tense.": lambda text: text.replace(" is ", " was "),
        "Make this a question.": lambda text: re.sub(r"(\w+) is (.*)\.", r"Is \1 \2?", text),
        "Swap the two names.": lambda text: re.sub(r"(\w+) (.*) (\w+)\.", r"\3 \2 \1.", text),
    }
    records = rewrites.generate("train", 700, 7)
    assert {record["instruction"] for record in records} == set(expected)
    for record in records:
        assert record["output"] == expected[record["instruction"]](record["input"]), record
    assert score("exact_match", [record["output"] for record in records]) == 1.0
    assert score("chrf", [record["output"] for record in records]) == pytest.approx(100)


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("pear", "pears"), ("cherry", "cherries"), ("toy", "toys"), ("peach", "peaches"), ("axe", "axes"),
        ("scarf", "scarves"), ("wrench", "wrenches"), ("bus", "buses"), ("mango", "mangoes"),
    ],
)  # fmt: skip
def test_plurals(noun: str, expected: str) -> None:
    assert english_forms.plural(noun) == expected


def test_each_part_has_its_share_of_combinations() -> None:
    parts = [part_of(f"combination {number}") for number in range(10_000)]
    shares = [parts.count(part) / len(parts) for part in SPLITS]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.02)


def test_more_examples_than_exist_are_one_error_at_their_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(rng: Random) -> Drawn:
        letter = rng.choice(ascii_letters)
        return Drawn(letter, {"prompt": letter, "completion": f"{letter}, a letter of the alphabet"})

    def generate(part: Split, examples: int, seed: int, _label_noise: float) -> list[dict[str, str]]:
        return draw_records(draw, part, examples, seed)

    monkeypatch.setitem(GENERATED_SOURCES, "builtin:letters", GeneratedSource(generate))
    enough = {"source": "builtin:letters", "train_examples": 20, "valid_examples": 4, "test_examples": 4}
    assert prepare(DataSpec(**enough), tmp_path).dataset.train.examples == 20
    with pytest.raises(UserInputError) as caught:
        prepare(DataSpec(**{**enough, "valid_examples": 60}), tmp_path)
    (problem,) = caught.value.problems
    assert (problem.place, problem.hint) == ("data.valid_examples", "lower data.valid_examples")
    assert re.fullmatch(r"builtin:letters: only about \d+ different examples exist; request fewer", problem.message)


def test_a_misspelled_name_is_told_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(UserInputError) as caught:
        prepare(DataSpec(source="builtin:order"), tmp_path)
    (problem,) = caught.value.problems
    assert problem.message == "unknown source 'builtin:order'"
    assert "builtin:orders" in problem.hint
