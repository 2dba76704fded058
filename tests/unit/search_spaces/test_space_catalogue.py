"""The recommendation catalogue: its content, the inheritance of scopes, and invalid files."""

from __future__ import annotations

import json

import pytest

from search_spaces.catalogue import Catalogue

pytestmark = pytest.mark.unit

CATALOGUE = Catalogue.load()
ALL_ENTRIES = list(CATALOGUE.entries)

SMALL = """
[base]
title = "Base"
source = "somebody"
as_of = 2020-01-01
[base.parameters.rate]
low = 0.1
high = 0.4
default = 0.2
unit = "rate"
scale = "log"
weight = "major"
[child]
title = "Child"
inherits = "base"
source = "ours"
[child.parameters.rate]
extends = "base"
high = 0.8
as_of = 2021-01-01
"""


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ("n_epochs", "2 .. 4"),
        ("batch_size", "0.01 % .. 4 % of the training set, log"),
        ("learning_rate_multiplier", "0.02 .. 0.2, log"),
        ("prompt_loss_weight", "0.1"),
    ],
)
def test_the_legacy_table_has_the_numbers_of_its_source(parameter: str, text: str) -> None:
    entry = CATALOGUE.get(parameter, "gpt3-classification")
    assert entry is not None
    assert entry.text == text
    assert not entry.is_ours


def test_scopes_do_not_mix() -> None:
    multipliers = {
        scope: entry.text for scope in CATALOGUE.scopes() if (entry := CATALOGUE.get("learning_rate_multiplier", scope))
    }
    assert multipliers["gpt3-classification"] == "0.02 .. 0.2, log"
    assert multipliers["hosted-current"] == "0.1 .. 2, log"
    assert CATALOGUE.get("prompt_loss_weight", "hosted-current") is None
    assert CATALOGUE.get("n_epochs", "no-such-scope") is None


def test_an_inherited_entry_keeps_its_own_scope() -> None:
    inherited = CATALOGUE.get("n_epochs", "local")
    assert inherited is not None
    assert inherited.scope == "gpt3-classification"
    assert set(CATALOGUE.for_scope("gpt3-classification")) < set(CATALOGUE.for_scope("local"))
    assert CATALOGUE.scopes_with("lora_rank") == ("local",)


def test_the_local_range_of_prompt_loss_weight_is_ours_and_its_default_is_from_the_table() -> None:
    entry, table = (CATALOGUE.get("prompt_loss_weight", scope) for scope in ("local", "gpt3-classification"))
    assert entry is not None
    assert table is not None
    assert entry.is_ours
    assert entry.default == table.default
    assert table.low is None


@pytest.mark.parametrize(("parameter", "scope"), ALL_ENTRIES)
def test_every_entry_has_a_source_and_a_date_and_converts_to_json(parameter: str, scope: str) -> None:
    entry = CATALOGUE.entries[parameter, scope]
    assert entry.source
    assert entry.as_of.year >= 2019
    assert json.loads(json.dumps(entry.to_json()))["text"] == entry.text


@pytest.mark.parametrize(("examples", "low", "high"), [(99, 3, 5), (100, 2, 3), (499, 2, 3), (500, 1, 2), (2000, 1, 1)])
def test_hosted_epochs_follow_the_size_of_the_training_set(examples: int, low: int, high: int) -> None:
    entry = CATALOGUE.get("n_epochs", "hosted-current")
    assert entry is not None
    narrowed = entry.narrowed(examples, {})
    assert (narrowed.low, narrowed.high) == (low, high)
    assert (entry.low, entry.high) == (1, 5)


def test_the_learning_rate_depends_on_the_method_and_spans_all_possible_methods() -> None:
    entry = CATALOGUE.get("learning_rate", "local")
    assert entry is not None
    lora, full = (entry.narrowed(1000, {"method": (method,)}) for method in ("lora", "full"))
    assert lora.low is not None
    assert full.high is not None
    assert full.high < lora.low
    for possible in ({}, {"method": ("full", "lora")}):
        both = entry.narrowed(1000, possible)
        assert (both.low, both.high, both.default) == (full.low, lora.high, None)


def test_a_case_without_a_range_takes_the_range_of_the_extended_entry() -> None:
    entry, table = (CATALOGUE.get("learning_rate_multiplier", scope) for scope in ("local", "gpt3-classification"))
    assert entry is not None
    assert table is not None
    full, lora = (entry.narrowed(1000, {"method": (method,)}) for method in ("full", "lora"))
    assert (full.low, full.high) == (table.low, table.high)
    assert lora.high is not None
    assert table.high is not None
    assert lora.high > table.high


def test_an_entry_has_directions_only_where_its_source_gives_them() -> None:
    epochs, batch = (CATALOGUE.get(name, "gpt3-classification") for name in ("n_epochs", "batch_size"))
    assert epochs is not None
    assert batch is not None
    assert (epochs.when_underfitting, epochs.when_overfitting) == ("raise", "lower")
    assert (batch.when_underfitting, batch.when_overfitting) == ("", "")


def test_an_extending_entry_takes_the_fields_that_it_lacks() -> None:
    entry = Catalogue.parse(SMALL).get("rate", "child")
    assert entry is not None
    assert (entry.low, entry.high, entry.default, entry.source, entry.as_of.year) == (0.1, 0.8, 0.2, "ours", 2021)


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        ("low = 0.1", "low = 0.5", "base.rate", "low, default and high .* are not in order"),
        ("low = 0.1", "low = 0.0", "base.rate", "a log scale needs low above 0"),
        ("low = 0.1", 'low = "0.1"', "base.rate", ".* are not all numbers"),
        ("low = 0.1", "", "base.rate", "low needs high, and high needs low"),
        ("low = 0.1", "lo = 0.1", "base.rate", r"unknown keys \['lo'\]"),
        ("low = 0.1", "cases = [{ low = 0.1 }]", "base.rate", "remove low and high: the cases determine them"),
        ('unit = "rate"', 'unit = "furlongs"', "base.rate", "unit is 'furlongs'"),
        ('weight = "major"', "", "base.rate", "weight is None"),
        ('source = "somebody"', "", "base.rate", "source is missing"),
        ('extends = "base"', 'extends = "bases"', "child.rate", "extends bases, which has no such entry"),
        ('inherits = "base"', 'inherits = "child"', "child", "inherits child"),
        ('title = "Child"', "", "child", "title is missing"),
    ],
)
def test_an_invalid_catalogue_is_refused_with_the_name_of_the_entry(
    old: str, new: str, place: str, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"catalogue.toml, {place}: {message}"):
        Catalogue.parse(SMALL.replace(old, new, 1))
