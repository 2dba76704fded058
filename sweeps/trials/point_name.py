"""A point of the search space in a few characters: for a row of a table, the name of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from backends.contract import Scalar

_SHORT: Mapping[str, Callable[[str], str]] = {
    "n_epochs": lambda value: f"{value} epoch{'' if value == '1' else 's'}",
    "batch_size": lambda value: f"batch {value}",
    "learning_rate": lambda value: f"lr {value}",
    "learning_rate_multiplier": lambda value: f"lr×{value}",
    "prompt_loss_weight": lambda value: f"prompt loss {value}",
    "weight_decay": lambda value: f"decay {value}",
    "lora_rank": lambda value: f"rank {value}",
    "method": lambda value: value,
    "base_model": lambda value: value.rstrip("/").rpartition("/")[2],
}


def point_name(hyperparameters: Mapping[str, Scalar], only: Iterable[str] | None = None) -> str:
    """Name a point: `3 epochs · batch 7 · lr×0.309`.

    Numbers have three digits, so that two points may share a name. `only` are the hyperparameters
    to name; default: all of them.
    """
    wanted = hyperparameters if only is None else [name for name in only if name in hyperparameters]
    return " · ".join(
        _SHORT.get(name, lambda value, name=name: f"{name} {value}")(_rounded(hyperparameters[name])) for name in wanted
    )


def _rounded(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
