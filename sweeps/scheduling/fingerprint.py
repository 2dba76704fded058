"""The fingerprint of a sweep's inputs: everything that its result depends on, by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

from backends.metrics.requested_metric import identity
from search_spaces.resolved import ResolvedParameter
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.scheduling.model_revisions import model_revision

DISTRIBUTIONS = ("finesweep", "torch", "transformers", "tokenizers", "peft", "openai", "optuna", "ray", "numpy")
"""Distributions whose release can change a result: they train, propose trials, or stop them."""

_DIGEST_CHARACTERS = 12
_LONGEST_TEXT = 200


@dataclass(frozen=True)
class Fingerprint:
    """The inputs of a night's sweep.

    `data` is the digest of the prepared examples. `models` maps each base model to its revision,
    see `model_revision`. `space` maps each parameter to its text in the sweep file. `settings` are
    the other keys of the file that distinguish two sweeps. `versions` are the releases of the
    `DISTRIBUTIONS` that are installed.
    """

    data: str
    data_name: str
    examples: int
    models: Mapping[str, str]
    space: Mapping[str, str]
    settings: Mapping[str, str]
    versions: Mapping[str, str]


def fingerprint_of(plan: SweepPlan) -> Fingerprint:
    """Compute the fingerprint of a plan.

    Reads the files of local base models, and asks the hub for the commits of others.
    """
    spec = plan.spec
    model = plan.space.parameter("base_model")
    model_names = [plan.base_model] if model is None else [str(choice) for choice in _choices(model)]
    pinned = spec.training_options.get("revision")
    options = {name: value for name, value in spec.training_options.items() if name not in ("model", "revision")}
    objectives = [objective_spec.objective for objective_spec in spec.objectives]
    settings = {
        "backend": spec.backend_type,
        **{f"backend.{name}": _text(value) for name, value in options.items()},
        "objective": _text([(objective.direction, objective.metric) for objective in objectives]),
        "evaluation": _text(spec.evaluation.model_dump(exclude={"metrics", "generate"})),
        "search.seed": str(spec.search.seed),
        "finals": _text(spec.finals.model_dump() if spec.finals is not None else None),
    }
    if spec.task_metrics:
        settings["evaluation.generate"] = _text(spec.evaluation.generate.model_dump())
        settings |= {f"metric {metric.request.name}": _text(identity(metric.request)) for metric in spec.task_metrics}
    return Fingerprint(
        data=plan.data.fingerprint,
        data_name=plan.data.name,
        examples=plan.data.dataset.train.examples,
        models={name: model_revision(name, pinned, spec.capabilities.in_process) for name in model_names},
        space={parameter.name: parameter.written for parameter in plan.space.parameters},
        settings=settings,
        versions=_installed_versions(),
    )


def _choices(parameter: ResolvedParameter) -> tuple[Any, ...]:
    choices = getattr(parameter.distribution, "choices", None)
    return tuple(choices) if choices is not None else (parameter.fixed,)


def _text(value: Any) -> str:
    """Return a value as JSON; a long one as a digest."""
    text = json.dumps(value, sort_keys=True, default=str)
    if len(text) <= _LONGEST_TEXT:
        return text
    return f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]}"


@cache
def _installed_versions() -> Mapping[str, str]:
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
