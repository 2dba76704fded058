"""The further machines of a trial that spans several: each runs its part of the program, silently.

The worker of the trial is the first of them. It alone reports; here a part only says whether it
still goes on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.util.placement_group import placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from backends import codec
from backends.contract import Backend, BackendError, Failed, Failure, FailureKind, Placement, TrainingRequest
from backends.ports import free_port

LOOK_TIMEOUT_S = 30.0
"""How long a machine may take to say that its part goes on."""

OpenBackend = Callable[[Placement], Backend]


def first_placement(cpus: float, gpus: float, nodes: int) -> Placement:
    """Return what the worker of the trial occupies, and where its other parts meet it."""
    if nodes == 1:
        return Placement(cpus, gpus)
    address = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    return Placement(cpus, gpus, nodes, 0, address, free_port() or 0)


class _Part:
    """The part of a trial on one machine; runs in a process there."""

    def __init__(self, open_backend: OpenBackend, placement: Placement, request: str) -> None:
        self._backend = open_backend(placement)
        self._handle = self._backend.submit(codec.from_json(TrainingRequest, json.loads(request)))

    def failure(self) -> Failure | None:
        """Return why the part has failed; None while it goes on, and after it has ended well."""
        events = self._backend.events(self._handle, 0)
        last = events[-1] if events else None
        return last.failure if isinstance(last, Failed) else None

    def stop(self) -> None:
        """End the part."""
        self._backend.stop(self._handle)
        self._backend.events(self._handle, 0)


class RankGroup:
    """The parts of one trial on the machines beside that of its worker."""

    def __init__(self, open_backend: OpenBackend, first: Placement, request: str) -> None:
        group = ray.util.get_current_placement_group()
        assert group is not None  # Tune reserves one for each trial
        self._parts: list[Any] = []  # handles of actors
        for node in range(1, first.nodes):
            bundle = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=node)
            amounts = placement_group_table(group)["bundles"][node]
            options = {"num_cpus": amounts.get("CPU", 0), "num_gpus": amounts.get("GPU", 0)}
            part = ray.remote(**options)(_Part).options(scheduling_strategy=bundle)
            self._parts.append(part.remote(open_backend, replace(first, node=node), request))
        self._looks: dict[Any, int] = {}

    def failure(self) -> Failure | None:
        """Return why a part has failed, or None. Waits for none of them."""
        waiting = set(self._looks.values())
        for node, part in enumerate(self._parts, 1):
            if node not in waiting:
                self._looks[part.failure.remote()] = node
        ready, _ = ray.wait(list(self._looks), num_returns=len(self._looks), timeout=0) if self._looks else ([], [])
        for look in ready:
            node = self._looks.pop(look)
            try:
                found: Failure | None = ray.get(look)
            except ray.exceptions.RayError as error:
                return _of_node(node, error)
            if found is not None:
                return replace(found, message=f"on machine {node} of the trial: {found.message}")
        return None

    def stop(self) -> None:
        """End all parts, and give their machines back. Idempotent."""
        stops = [part.stop.remote() for part in self._parts]
        if stops:
            ray.wait(stops, num_returns=len(stops), timeout=LOOK_TIMEOUT_S)
        for part in self._parts:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(part)
        self._parts, self._looks = [], {}


def _of_node(node: int, error: Exception) -> Failure:
    cause = getattr(error, "cause", None)
    if isinstance(cause, BackendError):
        return replace(cause.failure, message=f"on machine {node} of the trial: {cause.failure.message}")
    return Failure(FailureKind.LOST, f"machine {node} of the trial was lost", str(error).strip().splitlines()[-1])
