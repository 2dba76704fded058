"""The `data:` section: valid keys, and the errors for wrong ones."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from sweep_files import DATA_CONTRADICTIONS, DATA_MISTAKES

from sweeps.data import DataSpec

pytestmark = pytest.mark.unit


def test_a_source_is_enough_and_writing_the_defaults_changes_nothing():
    spec = DataSpec(source="snli")
    assert DataSpec.model_validate(spec.model_dump()) == spec


def test_fractions_and_paths_are_told_apart():
    spec = DataSpec(source="d.csv", validation=0.2, test="held_out.csv", labels=["yes", 0])
    assert (spec.validation, spec.test, spec.labels) == (0.2, "held_out.csv", ("yes", "0"))


@pytest.mark.parametrize(("written", "key"), DATA_MISTAKES)
def test_mistakes_name_their_key(written, key):
    with pytest.raises(ValidationError) as raised:
        DataSpec(source="d.csv", **written)
    assert {error["loc"][0] for error in raised.value.errors()} == {key}


@pytest.mark.parametrize("written", DATA_CONTRADICTIONS)
def test_keys_that_contradict_each_other_are_an_error(written):
    with pytest.raises(ValidationError):
        DataSpec(source="d.csv", **written)


def test_label_noise_is_for_generated_data_also_as_a_fallback():
    assert DataSpec(source="snli", fallback="builtin:nli", label_noise=0.1).label_noise == 0.1
