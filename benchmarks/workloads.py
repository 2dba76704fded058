"""The workloads of the comparison: one grid, data set and model for every way of running them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

SEED = 7
TRAIN_SAMPLE = 128
"""The number of training examples that each evaluation scores in addition to the validation set."""

Task = Literal["causal-lm", "sequence-classification"]


@dataclass(frozen=True)
class Workload:
    """A sweep over a grid that completes every trial.

    `backend` and `data` are sections of the sweep file.
    """

    name: str
    task: Task
    grid: Mapping[str, Sequence[float]]
    data: Mapping[str, Any]
    backend: Mapping[str, Any]

    @property
    def trials(self) -> int:
        """The number of points of the grid."""
        return math.prod(len(values) for values in self.grid.values())

    def sweep_file(self) -> str:
        """Return the sweep file of this workload."""
        return yaml.safe_dump(
            {
                "name": self.name,
                "data": dict(self.data),
                "backend": {"type": "local", **self.backend},
                "space": {name: list(values) for name, values in self.grid.items()},
                "search": {
                    "sampler": "grid",
                    "scheduler": "none",
                    "stop_by_verdict": False,
                    "trials": self.trials,
                    "seed": SEED,
                },
                "objective": {"minimize": "valid_loss"},
                "evaluation": {"per_epoch": 1, "train_examples": TRAIN_SAMPLE},
            },
            sort_keys=False,
        )

    def scaled(self, share: float) -> Workload:
        """Return the same workload with a share of its examples, for a trial run."""
        sizes = {name: max(24, round(value * share)) for name, value in self.data.items() if name.endswith("_examples")}
        return replace(self, data={**self.data, **sizes})


@dataclass(frozen=True)
class Job:
    """The input of a peer: the model, the prepared files that the sweep uses too, and the grid.

    `threads` is the number of torch threads of the sequential loop. 0 is torch's default, all
    cores.
    """

    model: str
    task: Task
    train: str
    valid: str
    labels: tuple[str, ...]
    stop: str
    grid: Mapping[str, Sequence[float]]
    seed: int = SEED
    train_sample: int = TRAIN_SAMPLE
    threads: int = 0

    def write(self, path: Path) -> None:
        """Write the job to a file for another process."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read what `write` wrote."""
        value = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**value, "labels": tuple(value["labels"])})


_PAIRS = {"prompt": "{premise}\n{hypothesis}\n\n###\n\n", "completion": " {label}"}


def embedded() -> Workload:
    """Return the embedded workload: the built-in language model on generated sentence pairs, all
    weights trained.
    """
    return Workload(
        name="embedded",
        task="causal-lm",
        grid={"learning_rate": (2e-4, 4e-4, 1e-3), "batch_size": (8, 16), "n_epochs": (1, 2)},
        data={"source": "builtin:nli", **_PAIRS, "train_examples": 640, "valid_examples": 100, "test_examples": 30},
        backend={"model": "builtin:tiny-lm"},
    )


def encoder(model: Path, data: Path) -> Workload:
    """Return the real workload: an encoder with a new head on the official SNLI files, all weights
    trained.
    """
    return Workload(
        name="encoder",
        task="sequence-classification",
        grid={"learning_rate": (3e-5, 6e-5, 1.2e-4, 2.4e-4), "batch_size": (8, 16, 32), "n_epochs": (1,)},
        data={"source": str(data), **_PAIRS, "train_examples": 256, "valid_examples": 100, "test_examples": 30},
        backend={"model": str(model), "task": "sequence-classification"},
    )
