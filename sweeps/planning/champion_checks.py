"""What a sweep needs so that its winner can challenge a champion.

Checked in the plan, not after the night's run.
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.model_packages import SupportsPackaging
from sweeps.data import PreparedData
from sweeps.errors import Problem
from sweeps.spec.checks import NO_PRICE
from sweeps.spec.sweep_spec import SweepSpec


def champion_problems(spec: SweepSpec, data: PreparedData) -> Iterable[Problem]:
    """Yield what would prevent registering the winner, or comparing it with the champion."""
    if spec.champion is None:
        return
    place = spec.document.place(("champion",))
    if not data.dataset.labels:
        yield Problem(
            place,
            "a challenge compares predicted labels, but this data set has no labels",
            "name the labels: `data: {task: classification}`; models that write free text cannot be compared",
        )
    if data.test is None:
        yield Problem(
            place,
            "a challenge is decided on a test split, but this data set has none",
            "add one: `data: {test: 0.1}`, or a file",
        )
    if not issubclass(spec.backend_class, SupportsPackaging):
        yield Problem(
            place,
            f"models of backend `{spec.backend_type}` cannot be registered: they cannot answer outside the backend",
            "remove `champion:`, or use another backend",
        )
    if spec.champion.max_cost_usd is not None and not spec.capabilities.priced:
        yield Problem(spec.document.place(("champion", "max_cost_usd")), NO_PRICE, "remove max_cost_usd")
