"""The sweep file of one point: that of the user for one model and one size. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from backends.contract import Scalar
from sweeps.scaling.request import ModelChoice, ScaleRequest
from sweeps.spec.yaml_source import Document

SCALE = "-scale"
"""What the names of the points and of their MLflow experiment add to the name of the sweep."""


def point_name(name: str, label: str, size: int, *, searches: bool) -> str:
    """Return the name of the sweep that trains a point.

    It depends on the point alone, so that every `sweep scale` of the file finds it again.
    """
    return f"{name}{SCALE}-{label}-{size}" + ("-swept" if searches else "")


def point_document(
    document: Document,
    choice: ModelChoice,
    size: int,
    request: ScaleRequest,
    *,
    point: Mapping[str, Scalar] | None = None,
    thorough: bool = False,
) -> Document:
    """Return the sweep file of a point, with the lines of the user's file.

    With `point` its sweep trains this point alone, once with the seed of the file and once with
    each of the seeds that follow. Otherwise it searches the space as written, and trains the best
    configuration again with `request.seeds` new seeds. Only `thorough` data get the slow checks.
    """
    value: dict[str, Any] = copy.deepcopy(document.value)
    value["name"] = point_name(str(value.get("name")), choice.label, size, searches=request.searches)
    if isinstance(data := value.get("data"), dict):
        data |= {"train_examples": size, "selection": "nested"}
        data |= {} if thorough else {"checks": "quick"}
    if choice.model is not None and isinstance(backend := value.get("backend"), dict):
        backend["model"] = choice.model
    tracking = value.get("tracking")
    if not (isinstance(tracking, dict) and tracking.get("experiment")):
        value["tracking"] = {"experiment": f"{document.value.get('name')}{SCALE}"}
    value["objective"] = _without_target(value.get("objective"))
    for section in ("champion", "decoding"):
        value.pop(section, None)
    if request.searches:
        value["finals"] = {"candidates": 1, "seeds": request.seeds}
    elif point is not None:
        written = value.get("search")
        search: dict[str, Any] = written if isinstance(written, dict) else {}
        kept = {key: search[key] for key in ("concurrency", "seed", "retries") if key in search}
        value["search"] = {**kept, "sampler": "random", "scheduler": "none", "trials": 1, "stop_by_verdict": False}
        value["space"] = dict(point)
        value["steering"] = "off"
        value.pop("bounds", None)
        value.pop("finals", None)
        if request.seeds > 1:
            value["finals"] = {"candidates": 1, "seeds": request.seeds - 1}
    return replace(document, value=value)


def _without_target(written: Any) -> Any:
    """Return the objectives without targets: each point trains to its end."""
    if isinstance(written, list):
        return [_without_target(entry) for entry in written]
    if isinstance(written, dict):
        return {key: entry for key, entry in written.items() if key != "target"}
    return written
