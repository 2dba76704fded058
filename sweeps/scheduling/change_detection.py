"""Whether a night is worth running: what its result depends on, by content, and what of that has changed.

Everything here but `fingerprint` is pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self

from backends.contract import Scalar
from search_spaces.space import ResolvedSpace
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.scheduling.model_revisions import revision
from sweeps.scheduling.schedule import Night, NightState
from sweeps.spec.objective import Objective
from sweeps.trials.trial import Trial, leaderboard

DISTRIBUTIONS = ("finesweep", "torch", "transformers", "tokenizers", "peft", "openai", "optuna", "ray", "numpy")
"""Distributions whose release can change a result: those that train, propose, and stop trials."""

WARM_POINTS = 4
"""So many points of the earlier night are tried first, beside the champion's."""

_DIGEST = 12


@dataclass(frozen=True)
class Fingerprint:
    """What the result of a night depends on. `data` is the digest of the prepared examples, `models` maps each base
    model to the digest of its files or its revision, `space` each parameter to what is written of it; `settings` are
    the other keys that make two sweeps the same, `versions` the releases of what trains.
    """

    data: str
    data_name: str
    examples: int
    models: Mapping[str, str]
    space: Mapping[str, str]
    settings: Mapping[str, str]
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` inverts it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild a fingerprint from `to_json`'s value."""
        return cls(**value)


@dataclass(frozen=True)
class Worth:
    """What a night has to do. `first` and `changed` begin a sweep, `go_on` continues the earlier night's.

    `words` say what has changed, one sentence each; `same_space`: the points of the earlier night are points of this.
    """

    kind: Literal["first", "unchanged", "go_on", "changed"]
    words: tuple[str, ...] = ()
    same_space: bool = False
    data_changed: bool = False


def fingerprint(plan: SweepPlan) -> Fingerprint:
    """Read what the plan's result depends on: the files of local base models are read, the hub is asked for others."""
    spec = plan.spec
    options = spec.training_options
    model = plan.space.parameter("base_model")
    named = [plan.base_model] if model is None else [str(choice) for choice in _choices(model)]
    pinned = options.get("revision")
    kept = {name: value for name, value in options.items() if name not in ("model", "revision")}
    settings = {
        "backend": spec.backend_type,
        **{f"backend.{name}": _text(value) for name, value in kept.items()},
        "objective": _text(
            [(objective.objective.direction, objective.objective.metric) for objective in spec.objectives]
        ),
        "evaluation": _text(spec.evaluation.model_dump()),
        "search.seed": str(spec.search.seed),
        "finals": _text(spec.finals.model_dump() if spec.finals is not None else None),
    }
    return Fingerprint(
        data=plan.data.fingerprint,
        data_name=plan.data.name,
        examples=plan.data.dataset.train.examples,
        models={name: revision(name, pinned, spec.capabilities.in_process) for name in named},
        space={parameter.name: parameter.written for parameter in plan.space.parameters},
        settings=settings,
        versions=_versions(),
    )


def worth(now: Fingerprint, nights: Sequence[Night]) -> tuple[Worth, Night | None]:
    """Compare with the newest night that ran; return what to do, and that night."""
    ran = [night for night in nights if night.sweep and night.fingerprint and night.state is not NightState.UNCHANGED]
    if not ran:
        return Worth("first", ("the first night",)), None
    earlier = ran[-1]
    before = Fingerprint.from_json(earlier.fingerprint)
    words = tuple(changes(before, now))
    if words:
        same_space = (
            before.space == now.space and before.settings == now.settings and set(before.models) == set(now.models)
        )
        return Worth("changed", words, same_space, before.data != now.data), earlier
    if earlier.state is NightState.DONE:
        return Worth("unchanged", (f"unchanged since {earlier.label}",)), earlier
    return Worth("go_on", (f"goes on where {earlier.label} ended ({earlier.state.value})",)), earlier


def changes(before: Fingerprint, now: Fingerprint) -> Iterable[str]:
    """Say in words what differs; nothing where a night would repeat the other."""
    if before.data != now.data:
        name = now.data_name if before.data_name == now.data_name else f"{before.data_name} -> {now.data_name}"
        count = (
            f"{before.examples:,} -> {now.examples:,}" if before.examples != now.examples else f"still {now.examples:,}"
        )
        yield f"the data changed: {name}, {count} training examples"
    for name in dict.fromkeys((*before.models, *now.models)):
        old, new = before.models.get(name), now.models.get(name)
        if old != new:
            gone = "is no longer tried" if new is None else "is new" if old is None else f"changed: {old} -> {new}"
            yield f"the base model {name} {gone}"
    yield from _differences("the space", before.space, now.space)
    yield from _differences("the setting", before.settings, now.settings)
    yield from _differences("the version of", before.versions, now.versions)


def first_points(
    champion: Mapping[str, Scalar] | None,
    trials: Sequence[Trial],
    winner: int | None,
    objective: Objective,
    space: ResolvedSpace,
) -> tuple[dict[str, Scalar], ...]:
    """Return what a sweep on new data tries first: the champion's point, the winner's of the earlier night, its best.

    Each once, and only points of `space`. `winner` is the number of the trial that won the finals.
    """
    ranked = leaderboard(trials, objective)
    won = [trial for trial in trials if winner is not None and trial.number == winner]
    points = [champion or {}, *(each.hyperparameters for each in (*won, *ranked))]
    chosen: dict[str, dict[str, Scalar]] = {}
    for point in points:
        if point and not space.violations(dict(point)):
            chosen.setdefault(json.dumps(dict(point), sort_keys=True), dict(point))
    return tuple(chosen.values())[: WARM_POINTS + (champion is not None)]


def _differences(what: str, before: Mapping[str, str], now: Mapping[str, str]) -> Iterable[str]:
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if old is None or new is None:
            yield f"{what} {name} is {'new' if old is None else 'gone'}"
        else:
            yield f"{what} {name} changed: {old} -> {new}"


def _choices(parameter: Any) -> tuple[Any, ...]:
    choices = getattr(parameter.distribution, "choices", None)
    return tuple(choices) if choices is not None else (parameter.fixed,)


def _text(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 200 else f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]}"


@cache
def _versions() -> Mapping[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def taken(folder: Path, fingerprint: str) -> bool:
    """Return whether the sweep in this folder is about something else than a plan with this fingerprint."""
    try:
        there = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError):
        return (folder / "study.journal").exists()
    return bool(there != fingerprint)
