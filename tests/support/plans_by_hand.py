"""Sweep plans from hand-made facts: a valid sweep file, and prepared data that lie nowhere."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from sweep_files import GOOD

from backends.contract import DataFile, Dataset
from sweeps.data import PreparedData
from sweeps.data.findings import warning
from sweeps.planning.decisions import resolve_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.loading import from_document
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.spec.yaml_source import parse, with_overrides

FOLDER = Path("nowhere")
"""The folder of the plans; nobody writes into it."""


def prepared_data(
    *, examples: int = 1000, labels: tuple[str, ...] = (" a\n", " b\n"), tested: bool = True
) -> PreparedData:
    """Return prepared data by hand, whose files do not exist."""
    train, valid, test = (
        DataFile(f"{part}.jsonl", size, part) for part, size in (("train", examples), ("valid", 50), ("test", 40))
    )
    return PreparedData(
        dataset=Dataset(train, valid, "completion", labels, "\n"),
        test=test if tested else None,
        source="own.csv",
        fallback_from=None,
        name="own.csv",
        task="classification" if labels else "generation",
        separator="\n",
        origins={},
        label_counts=MappingProxyType({}),
        lengths={},
        findings=(warning("imbalance", "own.csv", "a finding"),),
        digests={},
        fingerprint="0123",
    )


def spec(*overrides: str) -> SweepSpec:
    """Return the good file with overrides, loaded."""
    return from_document(with_overrides(parse(GOOD, "f.yaml"), overrides))


def plan(*overrides: str, cpus: int = 4, **changes: object) -> SweepPlan:
    """Return the plan for the good file with overrides; `changes` are those of `prepared_data`."""
    return resolve_plan(spec(*overrides), prepared_data(**changes), cpus, FOLDER)  # type: ignore[arg-type]
