"""The examples in docs/guide/data.md are read as the guide says."""

from __future__ import annotations

import contextlib
import io
import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from sweeps.data.examples import ChatRecipe, PairRecipe, build_examples, choose_recipe
from sweeps.data.findings import Finding
from sweeps.data.readers.files import is_data_file
from sweeps.data.readers.record import Record
from sweeps.data.sources import own_data

pytestmark = pytest.mark.unit

GUIDE = (Path(__file__).parents[3] / "docs" / "guide" / "data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
FILES = {name: content for _, name, content in BLOCKS if name}
FOLLOWERS = {first[1]: (second[0], second[2]) for first, second in pairwise(BLOCKS) if first[1]}


@pytest.mark.parametrize("name", FILES)
def test_an_example_makes_examples_or_the_message_that_follows_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text(FILES[name], encoding="utf-8")
    items = list(own_data(name).parts["train"]())
    kind, follower = FOLLOWERS[name]
    written = yaml.safe_load(follower)["data"] if kind == "yaml" and "prompt" in follower else {}
    records = [item for item in items if isinstance(item, Record)]
    templates = (written.get("prompt"), written.get("completion"))
    recipe = choose_recipe(records, *templates, None, None) if records else None
    errors = [item for item in [*items, recipe] if isinstance(item, Finding) and item.severity == "error"]
    if kind == "text":
        assert f"{errors[0].place}: {errors[0].message}" == follower.strip()
        return
    assert errors == []
    assert isinstance(recipe, PairRecipe | ChatRecipe)
    examples = list(build_examples(items, recipe))
    made = [example for example in examples if not isinstance(example, Finding)]
    assert len(made) == len(records) > 0
    assert {example.severity for example in examples if isinstance(example, Finding)} <= {"warning"}


def test_every_ending_of_the_guide_is_read_and_no_other() -> None:
    table = GUIDE.partition("| ending |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\.\w+)`", table))
    assert all(is_data_file(f"d{ending}") for ending in named)
    known = {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".xlsx"}
    assert named == known


def test_the_python_example_prints_each_record(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tickets.csv").write_text(FILES["tickets.csv"], encoding="utf-8")
    (program,) = [content for language, _, content in BLOCKS if language == "python"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(program, {})
    lines = printed.getvalue().splitlines()
    assert lines[0].startswith("warning delimiter tickets.csv:1")
    assert lines[1] == "2 {'text': 'Where is my parcel?', 'label': 'delivery'}"
