"""The library spaces: they resolve on a backend with all hyperparameters, and have no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from search_spaces import library
from search_spaces.space import Limit, SearchSpace

pytestmark = pytest.mark.unit

_LORA = {"method": ("lora",)}
LIMITS = {
    "n_epochs": Limit("int", 1, 50),
    "batch_size": Limit("int", 1),
    "learning_rate_multiplier": Limit("float", 1e-6, 1e3),
    "learning_rate": Limit("float", 1e-9, 1.0),
    "prompt_loss_weight": Limit("float", 0.0, 1.0),
    "method": Limit("str", choices=("full", "lora"), default="full"),
    "lora_rank": Limit("int", 1, 1024, requires=_LORA),
    "lora_alpha": Limit("float", 1e-3, 1e5, requires=_LORA),
    "lora_dropout": Limit("float", 0.0, 0.95, requires=_LORA),
    "warmup_ratio": Limit("float", 0.0, 1.0),
    "weight_decay": Limit("float", 0.0, 10.0),
}


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def test_the_library_has_spaces() -> None:
    assert {"classification", "completion", "hosted", "lora"} <= set(library.names())
    with pytest.raises(KeyError):
        library.load("no-such-space")


@pytest.mark.parametrize("name", library.names())
def test_a_library_space_has_no_number_and_a_description(name: str) -> None:
    loaded = library.load(name)
    assert loaded.description.endswith(".")
    assert all(isinstance(leaf, bool | str) and not any(map(str.isdigit, str(leaf))) for leaf in leaves(loaded.space))


@pytest.mark.parametrize("examples", [10, 2000, 500_000])
@pytest.mark.parametrize("name", library.names())
def test_a_library_space_resolves_and_its_seed_points_are_inside(name: str, examples: int) -> None:
    scope = "hosted-current" if name == "hosted" else "local"
    space = SearchSpace.parse({"use": name}).resolve(examples, LIMITS, scope)
    assert space.searched
    assert all(space.violations(point) == [] for point in space.seed_points)


def test_the_hyperparameters_of_lora_apply_only_to_lora() -> None:
    space = SearchSpace.parse({"use": "lora-or-full"}).resolve(2000, LIMITS, "local")
    conditional = {parameter.name: parameter.condition for parameter in space if parameter.condition}
    assert conditional == {"lora_rank": _LORA, "lora_alpha": _LORA}
    multiplier = space.parameter("learning_rate_multiplier")
    assert multiplier is not None
    assert multiplier.notes == ("spans 0.2 .. 2 where method is lora, 0.02 .. 0.2 elsewhere",)
