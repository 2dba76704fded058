"""How many trials train at the same time, and which CPUs and GPUs each of them gets. Pure."""

from __future__ import annotations

from dataclasses import replace

from backends.contract import Placement
from sweeps.errors import SweepError
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.sweep_spec import SweepSpec

DEFAULT_SERVICE_CONCURRENCY = 4
"""Concurrent trials on a service that states no limit of its own."""


def place(spec: SweepSpec, available_cpus: int) -> tuple[int, Placement]:
    """Return the number of concurrent trials, and the CPUs and GPUs of each.

    `with_gpus` adds the automatic GPUs later. A service limits concurrency by its own rules. A
    backend that trains on this machine is limited by the CPUs.
    """
    requested, cpus = spec.search.concurrency, spec.resources.cpus_per_trial
    gpus = spec.resources.gpus_per_trial or 0.0
    if not spec.capabilities.trains_on_worker:
        allowed = spec.capabilities.max_concurrent
        concurrency = requested or min(allowed or DEFAULT_SERVICE_CONCURRENCY, spec.search.trials)
        return min(concurrency, allowed or concurrency), Placement(cpus or 0.0, gpus)
    # Two trials of one thread each beat one trial of two threads (docs/log.md), so one core per
    # trial is the default.
    concurrency = requested or max(1, int(available_cpus // (cpus or 1.0)))
    share = float(max(1, available_cpus // concurrency))
    return concurrency, Placement(cpus or share, gpus, spec.resources.nodes_per_trial)


def with_gpus(plan: SweepPlan, available_gpus: float) -> SweepPlan:
    """Give each trial one GPU if it trains on this machine, which has any, and the file is silent.

    Raises SweepError if the file asks for more GPUs than there are.
    """
    requested = plan.spec.resources.gpus_per_trial
    if requested is not None:
        if requested > available_gpus:
            hint = "set `resources: {gpus_per_trial: 0}`, or pass `--address` of a Ray cluster that has GPUs"
            raise SweepError(f"a trial needs {requested:g} GPU, but Ray sees {available_gpus:g}", hint)
        return plan
    if available_gpus < 1 or not plan.spec.capabilities.trains_on_worker:
        return plan
    concurrency = plan.spec.search.concurrency or int(available_gpus)
    return replace(plan, concurrency=concurrency, placement=replace(plan.placement, gpus=1.0))
