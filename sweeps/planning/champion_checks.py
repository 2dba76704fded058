"""What a sweep must have so that its winner can challenge a champion: told when it is planned, not in the morning."""

from __future__ import annotations

from collections.abc import Iterable

from backends.served import Packager
from sweeps.data import PreparedData
from sweeps.errors import Problem
from sweeps.spec.sweep_spec import NO_PRICE, SweepSpec


def champion_problems(spec: SweepSpec, data: PreparedData) -> Iterable[Problem]:
    """What would keep the winner from being registered, or from being compared with the champion."""
    if spec.champion is None:
        return
    place = spec.document.place(("champion",))
    if not data.dataset.labels:
        hint = "name the labels: `data: {task: classification}`; models that write texts are not compared"
        yield Problem(place, "a champion is challenged on labels, and this data set has none", hint)
    if data.test is None:
        hint = "give one: `data: {test: 0.1}`, or a file"
        yield Problem(place, "a champion is challenged on a test split, and there is none", hint)
    if not issubclass(spec.backend_class, Packager):
        message = f"models of backend `{spec.backend_type}` cannot be registered: they answer nowhere else"
        yield Problem(place, message, "leave out `champion:`, or use another backend")
    if spec.champion.max_cost_usd is not None and not spec.capabilities.priced:
        yield Problem(spec.document.place(("champion", "max_cost_usd")), NO_PRICE, "leave out max_cost_usd")
