"""The JSON Schema of the sweep file: it agrees with the loader as far as JSON Schema allows."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from sweep_files import DATA_CONTRADICTIONS, DATA_MISTAKES, GOOD, MISTAKES

from search_spaces import library
from search_spaces.parameters import parse_parameter
from sweeps.data.spec import DataSpec
from sweeps.errors import UserInputError
from sweeps.spec.json_schema import DIALECT, schema_text, sweep_file_schema
from sweeps.spec.loading import from_document
from sweeps.spec.starter import example_starter
from sweeps.spec.sweep_file import SweepFile
from sweeps.spec.yaml_source import Document, parse, with_overrides

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]

SECTIONS = ("name", "data", "backend", "space", "objective")
"""The keys that every sweep file has."""


@cache
def validator() -> Draft202012Validator:
    return Draft202012Validator(sweep_file_schema())


@cache
def definition_validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": sweep_file_schema()["$defs"]})


def schema_errors(document: Document) -> list[str]:
    """Return what the schema says against a file, as the strict reader of the product reads it."""
    return [f"{error.json_path}: {error.message}" for error in validator().iter_errors(document.value)]


def loader_errors(document: Document) -> list[str]:
    try:
        from_document(document)
    except UserInputError as error:
        return [f"{problem}" for problem in error.problems]
    return []


def good(*overrides: str) -> Document:
    return with_overrides(parse(GOOD, "f.yaml"), overrides)


# ------------------------------------------------------------------------------------- the document
def test_it_is_a_valid_schema_of_its_draft() -> None:
    Draft202012Validator.check_schema(sweep_file_schema())
    assert sweep_file_schema()["$schema"] == DIALECT


def test_the_committed_schema_is_current() -> None:
    committed = (ROOT / "docs" / "sweep.schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(), "run: sweep schema > docs/sweep.schema.json"


def test_every_key_of_the_file_has_a_description() -> None:
    schema = sweep_file_schema()
    definitions = {"": schema, **schema["$defs"]}
    sections = {
        name: definition
        for name, definition in definitions.items()
        if name == "" or (name.endswith("Spec") and name != "BackendSpec")
    }
    assert len(sections) >= 11
    for name, definition in sections.items():
        for key, written in definition["properties"].items():
            target = schema["$defs"].get(str(written.get("$ref")).removeprefix("#/$defs/"), {})
            assert written.get("description") or target.get("description"), f"{name}.{key}"


def test_making_the_schema_loads_no_heavy_library() -> None:
    script = (
        "import sys\nfrom sweeps.spec.json_schema import schema_text\nschema_text()\n"
        "print({'torch', 'ray', 'mlflow', 'transformers', 'datasets', 'pandas', 'openai'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# -------------------------------------------------------------------------------------- valid files
@pytest.mark.parametrize("file", sorted((ROOT / "spaces").glob("*.yaml")), ids=lambda file: file.name)
def test_the_files_in_spaces_are_valid(file: Path) -> None:
    assert schema_errors(parse(file.read_text(encoding="utf-8"), file.name)) == []


@pytest.mark.parametrize("name", library.names())
def test_the_named_spaces_are_valid_in_full_and_by_name(name: str) -> None:
    space = json.dumps(dict(library.load(name).space))
    assert schema_errors(good(f"space={space}")) == []
    assert schema_errors(good(f"space={{use: {name}, n_epochs: null, batch_size: 4}}")) == []


def test_the_first_file_of_sweep_init_is_valid() -> None:
    assert schema_errors(parse(example_starter("first").text, "first.yaml")) == []


def guide_blocks() -> list[tuple[str, str]]:
    """Return the YAML blocks of the guides whose keys are all keys of a sweep file."""
    blocks = []
    for page in sorted([*(ROOT / "docs" / "guide").glob("*.md"), ROOT / "README.md"]):
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            written = yaml.safe_load(block)
            if isinstance(written, dict) and set(written) <= set(SweepFile.model_fields):
                blocks.append((f"{page.name}: {', '.join(written)}", block))
    return blocks


@pytest.mark.parametrize(("name", "block"), guide_blocks(), ids=[name for name, _ in guide_blocks()])
def test_the_sweep_files_in_the_guides_are_valid(name: str, block: str) -> None:
    part = parse(block, name)
    assert schema_errors(Document(name, {**good().value, **part.value}, part.lines)) == []


def test_the_guides_have_parts_of_sweep_files() -> None:
    assert len(guide_blocks()) >= 3


VALID = [
    "search.scheduler=none",
    "search.scheduler={type: median, min_trials: 5}",
    "objective=[{maximize: valid_accuracy, target: 0.9}]",
    "objective={maximize: null, minimize: valid_loss}",
    "finals={}",
    "finals=",
    "champion=",
    "champion={model: other, min_recall: 0.6}",
    "bounds={n_epochs: [1, 8]}",
    "budget={usd: 5, tokens: 2e6, hours: 1}",
    "resources={cpus_per_trial: 1, gpus_per_trial: 0.5}",
    "data.labels=[yes, no, 3]",
    "data.label_noise=0.1",
    "data={source: snli, fallback: 'builtin:nli', label_noise: 0.1}",
    "data.test=0",
    "data.validation=held-out.csv",
    "backend.seconds_per_epoch=0.5",
    "backend={type: local}",
    "backend={type: local, model: some/model, dtype: bfloat16, max_length: 128}",
    "space={n_epochs: 3, batch_size: 0.5%, prompt_loss_weight: [0.01, 0.1, 1.0]}",
    "space.batch_size={low: 1, high: 4%}",
    "space.n_epochs={low: 1, high: 9, step: 2}",
    "space.learning_rate_multiplier={low: 1e-5, high: '1e-3', log: true}",
    "space.unknown={choices: [a, b], optional: true}",
    "space.n_epochs={value: 3}",
    "space.n_epochs={recommended: true}",
    "space.lora_rank={recommended: true, when: {method: lora}}",
    "space={use: classification, n_epochs: 3}",
]


@pytest.mark.parametrize("override", VALID)
def test_every_form_of_the_guide_is_valid(override: str) -> None:
    assert schema_errors(good(override)) == []


def test_a_backend_of_another_package_may_have_any_options() -> None:
    assert schema_errors(good("backend={type: plugin, anything: [1, {a: b}]}")) == []


def texts_in_tests() -> Iterator[tuple[str, str]]:
    """Yield every sweep file that is a string constant of a test or a benchmark."""
    for path in sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if all(f"\n{section}:" in f"\n{text}" for section in SECTIONS):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def test_every_sweep_file_in_the_tests_gets_the_verdict_of_the_loader() -> None:
    verdicts: dict[str, tuple[list[str], list[str]]] = {}
    for place, text in texts_in_tests():
        try:
            document = parse(text, place)
        except UserInputError:
            continue  # a template of a file, not YAML yet
        verdicts[place] = (schema_errors(document), loader_errors(document))
    assert len(verdicts) >= 8
    differing = {place: both for place, both in verdicts.items() if bool(both[0]) != bool(both[1])}
    assert all(any("there is no backend" in error for error in loader) for _, loader in differing.values()), differing


# ------------------------------------------------------------------------------------ invalid files
NOT_EXPRESSIBLE = {
    ("objective={maximize: valid_acuracy}",): "the metrics of a backend depend on its options and its model",
    (
        "objective=[{maximize: valid_accuracy}, {minimize: valid_los}]",
        "search.scheduler=none",
    ): "the metrics of a backend depend on its options and its model",
    (
        "objective=[{maximize: valid_accuracy}, {minimize: usd}]",
        "search.scheduler=none",
    ): "whether a price is known depends on the backend's options and its model",
    ("space.n_epoch=3",): "the hyperparameters of a backend depend on its options and its model",
    ("backend.type=fak",): "a plugin may have this name",
    ("backend.seconds_per_epoch=1", "backend.events_per_poll=1"): "only the backend's own model knows this rule",
    ("backend={type: hosted, model: m, host: openi}",): "only the backend's own model knows its hosts",
    ("space.batch_size={low: 9%, high: 4%}",): "JSON Schema cannot compare two numbers",
    ("bounds={batch_size: [9, 3]}",): "JSON Schema cannot compare two numbers",
    ("space.n_epochs=[1, '1.0']",): "JSON Schema cannot read text as a number",
    ("bounds={n_epoch: [1, 8]}",): "JSON Schema cannot look up a key of another section",
    ("data.encoding=utf-9",): "the encodings are those of the Python that reads the file",
    ("data.prompt='{premise} {hypothesis'",): "the schema only looks for one complete field",
    ("data={source: d.csv, validation: 0.6, test: 0.4}",): "JSON Schema cannot add two numbers",
}
"""Overrides of a good file that the loader rejects and the schema cannot reject, with the reason.

The schema also knows nothing of mistakes that need the data: columns, labels and files that do not
exist.
"""


@pytest.mark.parametrize("overrides", NOT_EXPRESSIBLE, ids=str)
def test_only_the_loader_finds_mistakes_that_the_schema_cannot_express(overrides: tuple[str, ...]) -> None:
    """If the schema finds such a mistake, it has learned the rule: move the case to INVALID."""
    assert loader_errors(good(*overrides))
    assert schema_errors(good(*overrides)) == []


@pytest.mark.parametrize(("right", "wrong", "line", "words"), MISTAKES)
def test_the_mistakes_of_the_loaders_tests_are_found(right: str, wrong: str, line: str, words: str) -> None:
    document = parse(GOOD.replace(right, wrong), "f.yaml")
    assert loader_errors(document)
    if wrong not in ("maximize: valid_acuracy", "n_epoch: 3"):  # see NOT_EXPRESSIBLE
        assert schema_errors(document)


@pytest.mark.parametrize(("written", "key"), DATA_MISTAKES)
def test_the_mistakes_of_the_data_sections_tests_are_found(written: dict[str, Any], key: str) -> None:
    errors = schema_errors(good(f"data={json.dumps({'source': 'd.csv', **written})}"))
    assert errors or key == "encoding"  # see NOT_EXPRESSIBLE


@pytest.mark.parametrize("written", DATA_CONTRADICTIONS)
def test_contradictions_in_the_data_section_are_found(written: dict[str, Any]) -> None:
    errors = schema_errors(good(f"data={json.dumps({'source': 'd.csv', **written})}"))
    assert errors or "validation" in written  # see NOT_EXPRESSIBLE


INVALID = [
    "unknown=1",
    "name=3",
    "name=",
    "description=[a]",
    "data=snli",
    "data.source=",
    "data.source=''",
    "data.train_examples=1.5",
    "data.labels=[only]",
    "backend=fake",
    "backend={model: fake-small}",
    "backend.type=3",
    "backend.max_concurrent=0",
    "backend.seconds_per_epoch=-1",
    "backend={type: local, dtype: float8}",
    "backend={type: local, model: 3}",
    "backend={type: hosted}",
    "backend={type: hosted, model: m, base_url: 'http://127.0.0.1', api_key: 'not a name'}",
    "space=recommended",
    "space=",
    "space=[n_epochs]",
    "space.n_epochs=",
    "space.n_epochs=[]",
    "space.n_epochs=[1, 1]",
    "space.n_epochs=[recommended]",
    "space.n_epochs=[[1, 2]]",
    "space.n_epochs={}",
    "space.n_epochs={low: 1, hi: 3}",
    "space.n_epochs={low: 1, high: x}",
    "space.n_epochs={low: 1, high: true}",
    "space.n_epochs={low: 1, high: 3, choices: [1]}",
    "space.n_epochs={choices: []}",
    "space.n_epochs={value: [1]}",
    "space.n_epochs={recommended: false}",
    "space.n_epochs={low: 0, high: 3, log: true}",
    "space.n_epochs={low: 1, high: 3, log: 'yes'}",
    "space.n_epochs={low: 1, high: 3, step: 0}",
    "space.n_epochs={low: 1, high: 3, step: 1, log: true}",
    "space.n_epochs={low: 1, high: 3, when: {}}",
    "space.n_epochs={low: 1, high: 3, when: lora}",
    "space.n_epochs={low: 1, high: 3, when: {method: []}}",
    "space.n_epochs={low: 1, high: 3, optional: 1}",
    "space.batch_size=101%",
    "space.batch_size={low: 1%, high: 100.5%}",
    "space={use: lorra}",
    "steering=akt",
    "bounds={n_epochs: [1]}",
    "bounds={n_epochs: [1, 2, 3]}",
    "bounds={n_epochs: 4}",
    "search=tpe",
    "search.trials=many",
    "search.trials=0",
    "search.trials=1.5",
    "search.trials=none",
    "search.seed=2147483648",
    "search.sampler=tp",
    "search.scheduler={type: asha, reduction_factor: 1}",
    "search.scheduler=3",
    "search.stop_by_verdict=3",
    "objective=valid_accuracy",
    "objective={}",
    "objective={maximize: valid_accuracy, target: high}",
    "objective={minimize: usd}",
    "objective=[{minimize: tokens}]",
    "objective=[{maximize: valid_accuracy}, {minimize: valid_loss}]",
    "finals={seeds: 1}",
    "finals={candidates: 0}",
    "finals={candidates: 21}",
    "champion=yes",
    "champion={model: 'a/b'}",
    "champion={min_recall: 1.1}",
    "evaluation={per_epoch: 0}",
    "budget={usd: 0}",
    "budget={tokens: 0.5}",
    "budget={hours: many}",
    "resources={cpus_per_trial: 0}",
    "resources={gpus_per_trial: -1}",
    "tracking={experiment: 3}",
    "tracking={experimnt: x}",
]


@pytest.mark.parametrize("override", INVALID)
def test_wrong_types_words_ranges_and_keys_are_found_by_loader_and_schema(override: str) -> None:
    assert loader_errors(good(override)), "the table is wrong: the loader accepts this"
    assert schema_errors(good(override))


@pytest.mark.parametrize("missing", SECTIONS)
def test_a_missing_section_is_found(missing: str) -> None:
    document = good()
    value = {key: section for key, section in document.value.items() if key != missing}
    assert schema_errors(Document("f.yaml", value, document.lines))


def test_rules_across_sections_are_found() -> None:
    assert schema_errors(good("search.sampler=grid", "steering=act"))
    several = "objective=[{maximize: valid_accuracy}, {minimize: valid_loss}]"
    assert schema_errors(good(several, "search.scheduler=none")) == []
    assert schema_errors(good(several, "search.scheduler={type: none}", "search.sampler=nsga2")) == []
    assert schema_errors(good(several, "search.scheduler=none", "search.sampler=gp"))
    assert schema_errors(good(several, "search.scheduler={type: asha}"))


# --------------------------------------------------------------------------------------------- laws
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.floats(-2, 3, allow_nan=False).map(lambda number: round(number, 2)),
    st.sampled_from(["recommended", "lora", "0.5%", "100 %", "150%", "1e-4", "", " 3 ", "x%"]),
)
KEYS = st.sampled_from(["low", "high", "log", "step", "choices", "value", "recommended", "when", "optional", "hi"])
WRITTEN = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(
        KEYS,
        st.one_of(
            SCALARS,
            st.lists(SCALARS, max_size=3),
            st.dictionaries(st.sampled_from(["method", "other"]), st.one_of(SCALARS, st.lists(SCALARS, max_size=2))),
        ),
        max_size=5,
    ),
)


@given(written=WRITTEN)
@settings(max_examples=400, deadline=None)
def test_the_schema_accepts_every_hyperparameter_that_the_parser_accepts(written: object) -> None:
    problems: list[Any] = []
    if parse_parameter("x", written, problems) is None:
        return
    assert definition_validator("Parameter").is_valid(written)


COMPARISONS = ("is above high", "is in the list twice", "a log scale needs low above 0", "step is not a number")
"""What the parser finds by reading texts as numbers, or by comparing two numbers."""


@given(written=WRITTEN)
@settings(max_examples=400, deadline=None)
def test_the_schema_rejects_every_hyperparameter_that_the_parser_rejects_without_a_comparison(written: object) -> None:
    problems: list[Any] = []
    parse_parameter("x", written, problems)
    if any(not any(words in problem.message for words in COMPARISONS) for problem in problems):
        assert not definition_validator("Parameter").is_valid(written)


@given(
    written=st.fixed_dictionaries(
        {"source": st.sampled_from(["builtin:nli", "d.csv"])},
        optional={
            "fallback": st.sampled_from([None, "builtin:nli", "b.csv"]),
            "prompt": st.sampled_from([None, "{a}", "{a.0.b}: {{}} ", "no field"]),
            "separator": st.sampled_from([None, "\n", ""]),
            "task": st.sampled_from(["auto", "classification", "generation", "other"]),
            "labels": st.one_of(st.none(), st.lists(st.sampled_from(["a", "b", 3]), max_size=3)),
            "validation": st.sampled_from([None, 0, 0.2, 0.4, 1, "file.csv"]),
            "test": st.sampled_from([None, 0, 0.2, 0.4, 1, "file.csv"]),
            "label_noise": st.sampled_from([0, 0.0, 0.5, 1, 1.5]),
            "seed": st.sampled_from([-1, 0, 7]),
        },
    )
)
@settings(max_examples=300, deadline=None)
def test_the_schema_of_the_data_section_agrees_with_its_model(written: dict[str, Any]) -> None:
    try:
        DataSpec.model_validate(written)
        accepted = True
    except ValidationError:
        accepted = False
    assert definition_validator("DataSpec").is_valid(written) == accepted
