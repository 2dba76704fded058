"""Hyperparameter sweeps for fine-tuning language models: the public Python API.

    import sweeps

    planned = sweeps.plan("spaces/snli.yaml")      # spends nothing
    sweep = sweeps.run("spaces/snli.yaml")         # or sweeps.load("snli") for a stored one
    sweep.trials, sweep.curves                     # pandas DataFrames
    sweep.best, sweep.verdicts, sweep.finals
    sweeps.judge("trainer_state.json")             # the verdict on any training history

Importing this package loads no heavy library. Names load their modules when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.api import Sweep, SweepEvent, judge, judge_all, load, plan, run

__all__ = ["Sweep", "SweepEvent", "judge", "judge_all", "load", "plan", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("sweeps.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
