"""Resources that no trial could get, found before anything starts. Pure, except `this_machine`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sweeps.errors import Problem
from sweeps.spec.sweep_file import ResourcesSpec
from sweeps.spec.yaml_source import Document

_GPU_DEVICES = (
    *("dev/nvidia[0-9]*", "dev/dxg", "dev/kfd", "dev/accel*", "dev/accel/*"),
    *("dev/davinci[0-9]*", "dev/hl[0-9]*"),
)
"""The device files of accelerators: NVIDIA, WSL, AMD, TPU and others, Ascend, Gaudi."""


@dataclass(frozen=True)
class Machine:
    """The machine on which Ray starts. `gpus` is None where GPUs exist and cannot be counted."""

    cpus: int
    gpus: int | None


def this_machine(root: Path = Path("/")) -> Machine:
    """Look at this machine. Loads neither torch nor Ray, which later count more exactly."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = [path for pattern in _GPU_DEVICES for path in root.glob(pattern)]
    is_counted = all(path.name.startswith("nvidia") for path in found)
    gpus: int | None = len(found) if is_counted else None
    if found and visible is not None:
        gpus = len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    return Machine(os.cpu_count() or 1, gpus)


def resource_problems(resources: ResourcesSpec, machine: Machine, document: Document) -> Iterable[Problem]:
    """Yield what a trial demands and this machine does not have: Ray would wait for ever."""
    hint = "lower it, or pass --address of a Ray cluster that has them"
    cpus, gpus = resources.cpus_per_trial, resources.gpus_per_trial
    if cpus is not None and cpus > machine.cpus:
        place = document.place(("resources", "cpus_per_trial"))
        yield Problem(place, f"a trial needs {cpus:g} CPUs, but this machine has {machine.cpus}", hint)
    if gpus and machine.gpus is not None and gpus > machine.gpus:
        place = document.place(("resources", "gpus_per_trial"))
        has = f"has {machine.gpus}" if machine.gpus else "has none"
        yield Problem(place, f"a trial needs {gpus:g} GPUs, but this machine {has}", hint)
