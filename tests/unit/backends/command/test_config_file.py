"""Configuration files: values are set, and everything else stays."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from backends.command.config_file import flattened, has_key, read_template, set_value, written
from backends.contract import BackendError

pytestmark = pytest.mark.unit

YAML = """\
# the model
base_model: tiny   # small
lora:
  r: 8
  "alpha": 16
datasets:
- path: a.jsonl
"""


def test_comments_and_order_stay_in_yaml(tmp_path: Path) -> None:
    file = tmp_path / "qlora.yml"
    file.write_text(YAML)
    content = read_template(file, "qlora.yml")
    set_value(content, "lora.r", 32)
    set_value(content, "learning_rate", 1e-5)
    text = written(content, "qlora.yml")
    assert text == YAML.replace("r: 8", "r: 32") + "learning_rate: 1.0e-05\n"
    assert yaml.safe_load(text)["learning_rate"] == 1e-5, "a YAML 1.1 reader takes 1e-05 for a text"


def test_a_word_of_the_template_keeps_its_meaning_and_a_text_that_is_set_stays_a_text(tmp_path: Path) -> None:
    file = tmp_path / "c.yml"
    file.write_text("tf32: yes\neval_strategy: steps\n")
    content = read_template(file, "c.yml")
    set_value(content, "eval_strategy", "no")
    set_value(content, "nested.on", ["off"])
    assert yaml.safe_load(written(content, "c.yml")) == {"tf32": True, "eval_strategy": "no", "nested": {"on": ["off"]}}


def test_comments_stay_in_toml(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("# all\nlr = 1.0 # rate\n[lora]\nr = 8\n")
    content = read_template(file, "c.toml")
    set_value(content, "lora.r", 4)
    set_value(content, "optimizer.name", "adamw")
    text = written(content, "c.toml")
    assert text.startswith("# all\nlr = 1.0 # rate\n[lora]\nr = 4\n")
    assert tomllib.loads(text)["optimizer"] == {"name": "adamw"}


TEXTS = st.sampled_from(["no", "Yes", "off", "null", "~", "12:30:00", "1e5", "0x1f", "1_000", "2026-01-01", "=", "a"])
"""Texts that YAML 1.1 or 1.2 takes for something else if no quotes are around them."""


@given(
    st.recursive(
        st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53) | st.booleans() | TEXTS,
        lambda inner: st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), inner, max_size=3),
    )
)
def test_every_format_gives_back_what_was_set(value: object) -> None:
    for name, read in (("c.json", json.loads), ("c.yml", yaml.safe_load), ("c.toml", tomllib.loads)):
        content = read_template(None, name)
        set_value(content, "outer.inner", value)
        assert read(written(content, name)) == {"outer": {"inner": value}}


def test_a_key_with_dots_counts_as_it_is_if_the_template_has_it(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"a.b": 1}')
    content = read_template(file, "c.json")
    set_value(content, "a.b", 2)
    assert content == {"a.b": 2}
    assert has_key(content, "a.b")
    assert not has_key(content, "a.c")


def test_a_value_cannot_be_set_inside_a_value() -> None:
    content = read_template(None, "c.json")
    set_value(content, "a", 1)
    with pytest.raises(BackendError, match=r"`a\.b` cannot be set, because `a` is not a mapping"):
        set_value(content, "a.b", 2)


ALIASES = "".join(
    f"k{number}: &a{number} {{{', '.join(f'{letter}: *a{number - 1}' for letter in 'abcdefghij')}}}\n"
    for number in range(1, 12)
)
"""A few lines whose aliases stand for a trillion settings."""


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.yml", "a: [1\nb: 2\n", r"c\.yml:\d+ is not valid YAML"),
        ("c.yml", "- 1\n", "is not a mapping"),
        ("c.json", '{\n"a": }', r"c\.json:2 is not valid JSON"),
        ("c.toml", "a = \n", "is not valid TOML"),
        ("c.txt", "a", "format of .* is unknown"),
        ("c.yml", "a: " + "[" * 1_000, "nested too deeply"),
        ("c.json", '{"a": ' + "[" * 100_000, "nested too deeply"),
        ("c.toml", "a = " + "[" * 5_000, "is not valid TOML"),
        ("c.yml", "a: &a0 {x: 1}\n" + ALIASES, "more than 100000 settings"),
        ("c.yml", "a: 2026-02-31\n", "is not valid YAML: day is out of range"),
        ("c.yml", "a: 1\na: 2\n", "duplicate key"),
    ],
)
def test_a_broken_template_is_named_with_its_line(tmp_path: Path, name: str, text: str, words: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(BackendError, match=words):
        read_template(file, name)
    with pytest.raises(BackendError, match="does not exist"):
        read_template(tmp_path / "gone.yml", "gone.yml")


def test_nested_settings_become_keys_with_dots() -> None:
    assert dict(flattened({"a": {"b": {"c": 1}, "d": []}, "e": {}})) == {"a.b.c": 1, "a.d": [], "e": {}}
