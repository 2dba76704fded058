"""What a sweep has left behind, which of it may go, and removing that: files, checkpoints, models, deployments, jobs.

What stays is decided from the record of the trials and from the registry of models, never from what the place that
trained says of itself; that adds who else needs a thing. Removing can be broken off at any moment and done again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from backends.cleanup import Cleaner, Remnant
from backends.contract import Backend, BackendError, Placement
from sweeps.errors import SweepError
from sweeps.spec.sweep_spec import load
from sweeps.study import state
from sweeps.study.state import SweepState
from sweeps.tracking import reachability
from sweeps.trials.trial import Trial
from sweeps.workspace import Workspace

DEPLOYMENT = "deployment"
"""The kind of remnant that only a champion keeps: any other model is deployed again when it is asked."""

TELL_S = 5.0


@dataclass(frozen=True)
class Item:
    """Something that is left. `trial` is the number of its trial where it belongs to one that is known; `kept` says why
    it stays, and is empty where it goes, or is gone."""

    remnant: Remnant
    trial: int | None
    kept: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        each = self.remnant
        return {
            "kind": each.kind,
            "name": each.name,
            "trial": self.trial,
            "bytes": each.size_bytes,
            "goes": not self.kept,
            "kept_because": self.kept or None,
        }


@dataclass(frozen=True)
class Versions:
    """The registered versions that trials have become, by the trials' keys, in words: the champions that stand, and
    those that once stood, to which one can go back."""

    champions: Mapping[str, str]
    earlier: Mapping[str, str]


def registered(uri: str) -> Versions:
    """Look up the champions of all registered models. Raises SweepError where the registry cannot be asked: without
    knowing the champions nothing is removed."""
    from sweeps.champions import history
    from sweeps.champions.challenge import TRIAL
    from sweeps.tracking.registry import Registry

    file = reachability.sqlite_path(uri)
    if file is not None and not file.exists():
        return Versions({}, {})
    registry, champions, earlier = Registry(uri), {}, {}
    for model in registry.models():
        standing = registry.champion(model)
        if standing is not None and (key := standing.tags.get(TRIAL)):
            champions[key] = f"the champion, version {standing.number} of {model}"
        once = {each.version for each in history.read(registry, model) if each.moved}
        for version in registry.versions(model):
            if version.number in once and (key := version.tags.get(TRIAL)):
                earlier[key] = f"a champion before, version {version.number} of {model}"
    return Versions(champions, earlier)


def decide(found: Sequence[Remnant], sweep: SweepState, versions: Versions, *, everything: bool) -> list[Item]:
    """Say of everything that is left whether it may go. Pure.

    The models of champions stay, with what makes them answer. Unless `everything` is to go, so do those of champions
    before, the best model of the sweep, those that finals have yet to compare, and all that a trial needs that goes on
    with the next `sweep run`.
    """
    trials = {each.key: each for each in (*sweep.trials, *sweep.repeats)}
    models = {} if everything else _wanted_models(sweep, versions)
    stay = {model: why for key, why in models.items() for model in _models_of(key, found, trials)}
    champions = {model: why for key, why in versions.champions.items() for model in _models_of(key, found, trials)}
    going_on = {} if everything else {key: _goes_on(each) for key, each in trials.items() if not each.state.ended}
    waiting = next((going_on[each.key] for each in found if each.key is not None and each.key in going_on), "")
    items = []
    for each in found:
        trial = trials.get(each.key) if each.key is not None else None
        why = champions.get(each.model or "", "")
        if not why and each.kind != DEPLOYMENT:
            why = stay.get(each.model or "", "")
        why = why or (waiting if each.key is None and each.model is None else going_on.get(each.key or "", ""))
        items.append(Item(each, trial.number if trial is not None else None, why or each.needed))
    return items


def _wanted_models(sweep: SweepState, versions: Versions) -> dict[str, str]:
    """Say why the models of which trials are wanted, the best reason of each."""
    wanted: dict[str, str] = {}
    if sweep.plan.get("finals") is not None and sweep.finals is None:
        wanted |= {each.key: "the finals have yet to compare it" for each in sweep.repeats if each.model}
    wanted |= versions.earlier
    if sweep.best is not None:
        wanted[sweep.best.key] = "the best model of the sweep"
    return wanted


def _goes_on(trial: Trial) -> str:
    return f"trial {trial.number} goes on with the next `sweep run`"


def _models_of(key: str, found: Sequence[Remnant], trials: Mapping[str, Trial]) -> set[str]:
    """Return the models that a trial's entry needs: its kept one, or all that it has where that is not among them."""
    models = {each.model for each in found if each.model is not None}
    kept = trials[key].model if key in trials else None
    return (
        {kept}
        if kept in models and kept is not None
        else {each.model for each in found if each.key == key and each.model}
    )


class CleanUp:
    """The clean-up of one sweep: what is left, and removing what may go."""

    def __init__(self, cleaner: Cleaner | None, backend_type: str, items: Sequence[Item]) -> None:
        self.can_clean = cleaner is not None
        self.backend_type = backend_type
        self.items = list(items)
        self._cleaner = cleaner

    @property
    def going(self) -> list[Item]:
        """What may go, or after `remove` what is gone."""
        return [each for each in self.items if not each.kept]

    def remove(self, say: Callable[[str], None]) -> list[Item]:
        """Remove what may go. Returns what is still there of it, with the reason.

        Raises SweepError where the place cannot be reached; what was removed until then is gone, and the same call
        removes the rest.
        """
        assert self._cleaner is not None
        # what others need is asked for, too: that this sweep lets go of it, so that their clean-up finds it theirs
        wanted = [n for n, each in enumerate(self.items) if each.kept in ("", each.remnant.needed)]
        refused, told = [], time.monotonic()
        for done, n in enumerate(wanted):
            item = self.items[n]
            try:
                reason = self._cleaner.remove(item.remnant)
            except BackendError as error:
                again = "what is gone stays gone: run the same command again for the rest"
                hint = f"{error.failure.detail}; {again}" if error.failure.detail else again
                raise SweepError(f"{done} of {len(wanted)} removed, then: {error.failure.message}", hint) from error
            if reason and not item.kept:
                refused.append(replace(item, kept=reason))
            self.items[n] = replace(item, kept=reason)
            if time.monotonic() - told >= TELL_S:
                told = time.monotonic()
                say(f"{done + 1} of {len(wanted)} removed")
        return refused


@contextmanager
def clean_up(
    name: str, workspace: Workspace, uri: str, storage: str | None, *, everything: bool = False
) -> Iterator[CleanUp]:
    """Give the clean-up of a sweep, with what is left of it now. Nothing is changed.

    Raises UserInputError where there is no sweep of this name, SweepError where its record, the registry or the place
    that trained cannot be asked.
    """
    sweep = state.read(workspace, name, storage)
    versions = registered(uri)
    spec = load(workspace.sweep(name) / "sweep.yaml")
    others = [workspace.sweep(each) for each in workspace.names() if each != name]
    with _opened(spec, workspace, name) as backend:
        if not isinstance(backend, Cleaner):
            yield CleanUp(None, spec.backend_type, ())
            return
        try:
            found = backend.remnants(others)
        except BackendError as error:
            raise SweepError(error.failure.message, error.failure.detail) from error
        yield CleanUp(backend, spec.backend_type, decide(found, sweep, versions, everything=everything))


@contextmanager
def _opened(spec: Any, workspace: Workspace, name: str) -> Iterator[Backend]:
    try:
        backend = spec.backend_class.open(spec.backend_options, workspace.sweep(name), Placement())
    except BackendError as error:
        raise SweepError(error.failure.message, error.failure.detail) from error
    try:
        yield backend
    finally:
        backend.close()
