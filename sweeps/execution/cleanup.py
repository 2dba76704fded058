"""Cleans up after a sweep: lists its leftovers, decides which of them may go, and removes those.

Leftovers are files, checkpoints, models, deployments and jobs, also those in the store of a
cluster. The record of the trials and the model registry decide what stays; the backend and the
store only add which other sweeps need a thing. An interrupted clean-up can be run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.cleanup import ORPHANS, Leftover, SupportsCleanup
from backends.contract import Backend, BackendError, Placement
from backends.guarded_backend import open_guarded
from backends.relocation import SupportsRelocation
from sweeps.errors import SweepError
from sweeps.file_store.delivered_models import as_backend_errors
from sweeps.file_store.leftovers import OwnRun, StoreLeftovers
from sweeps.file_store.store import FileStore
from sweeps.spec.loading import load
from sweeps.spec.sweep_spec import SweepSpec
from sweeps.study import state
from sweeps.study.state import SweepState
from sweeps.study.stored_study import read_study
from sweeps.tracking import reachability
from sweeps.trials.trial import Trial
from sweeps.workspace import Workspace

DEPLOYMENT = "deployment"
"""The kind of leftover that only a champion keeps: a request deploys any other model again."""

PROGRESS_INTERVAL_S = 5.0
"""Time between two messages about the progress of removing."""


@dataclass(frozen=True)
class CleanupItem:
    """One leftover and its fate.

    `trial` is the number of its trial, or None if it belongs to several or the study does not know
    the trial. `kept_because` is the reason why it stays; it is empty if it may go, or is gone.
    """

    leftover: Leftover
    trial: int | None
    kept_because: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, as `sweep clean --json` prints them."""
        return {
            "kind": self.leftover.kind,
            "name": self.leftover.name,
            "trial": self.trial,
            "bytes": self.leftover.size_bytes,
            "goes": not self.kept_because,
            "kept_because": self.kept_because or None,
        }


@dataclass(frozen=True)
class ChampionVersions:
    """The trials that became champions: the trial's key maps to the registered version, in words.

    `champions` are the champions now. `former` are earlier champions, which a rollback can restore.
    """

    champions: Mapping[str, str]
    former: Mapping[str, str]


def champion_versions(tracking_uri: str) -> ChampionVersions:
    """Look up the current and former champions of all registered models.

    Raises SweepError if the registry cannot be reached: nothing is removed without knowing the
    champions.
    """
    from sweeps.champions import history
    from sweeps.champions.winner import TRIAL_KEY_TAG
    from sweeps.tracking.registry import Registry

    database = reachability.sqlite_path(tracking_uri)
    if database is not None and not database.exists():
        return ChampionVersions({}, {})
    registry, champions, former = Registry(tracking_uri), {}, {}
    for model in registry.model_names():
        champion = registry.champion(model)
        if champion is not None and (key := champion.tags.get(TRIAL_KEY_TAG)):
            champions[key] = f"the champion, version {champion.number} of {model}"
        promoted = {entry.version for entry in history.read(registry, model) if entry.moved_alias}
        for version in registry.versions(model):
            if version.number in promoted and (key := version.tags.get(TRIAL_KEY_TAG)):
                former[key] = f"a former champion, version {version.number} of {model}"
    return ChampionVersions(champions, former)


def decide(
    leftovers: Sequence[Leftover], sweep: SweepState, versions: ChampionVersions, *, everything: bool
) -> list[CleanupItem]:
    """Decide for each leftover whether it may go. Pure.

    The models of champions stay, with the deployments that serve them. Unless `everything` may go,
    these also stay: the models of former champions, the best model of the sweep, the models that
    undecided finals will compare, and everything that an open trial needs to resume. Orphaned
    processes always go.
    """
    trials = {trial.key: trial for trial in (*sweep.trials, *sweep.repeats)}
    champion_models = _reasons_by_model(versions.champions, leftovers, trials)
    wanted_models = {} if everything else _reasons_by_model(_wanted_trials(sweep, versions), leftovers, trials)
    open_trials = {} if everything else {key: trial for key, trial in trials.items() if not trial.state.ended}
    resumes = {key: f"the next `sweep run` resumes trial {trial.number}" for key, trial in open_trials.items()}
    keys = [leftover.key for leftover in leftovers if leftover.key is not None]
    shared_reason = next((resumes[key] for key in keys if key in resumes), "")
    items = []
    for leftover in leftovers:
        if leftover.kind == ORPHANS:
            items.append(CleanupItem(leftover, _number_of(leftover, trials), ""))
            continue
        reason = champion_models.get(leftover.model or "", "")
        if not reason and leftover.kind != DEPLOYMENT:
            reason = wanted_models.get(leftover.model or "", "")
        if not reason:
            is_shared = leftover.key is None and leftover.model is None
            reason = shared_reason if is_shared else resumes.get(leftover.key or "", "")
        items.append(CleanupItem(leftover, _number_of(leftover, trials), reason or leftover.needed))
    return items


def _number_of(leftover: Leftover, trials: Mapping[str, Trial]) -> int | None:
    trial = trials.get(leftover.key) if leftover.key is not None else None
    return None if trial is None else trial.number


def _wanted_trials(sweep: SweepState, versions: ChampionVersions) -> dict[str, str]:
    """Return the keys of the trials whose models are wanted, each with its main reason."""
    wanted: dict[str, str] = {}
    if sweep.plan.get("finals") is not None and sweep.finals is None:
        wanted |= {repeat.key: "the finals have yet to compare it" for repeat in sweep.repeats if repeat.model}
    wanted |= versions.former
    if sweep.best is not None:
        wanted[sweep.best.key] = "the best model of the sweep"
    return wanted


def _reasons_by_model(
    reasons_by_key: Mapping[str, str], leftovers: Sequence[Leftover], trials: Mapping[str, Trial]
) -> dict[str, str]:
    return {
        model: reason for key, reason in reasons_by_key.items() for model in _models_of_trial(key, leftovers, trials)
    }


def _models_of_trial(key: str, leftovers: Sequence[Leftover], trials: Mapping[str, Trial]) -> set[str]:
    """Return the trial's kept model if it is a leftover, else all leftover models of its run."""
    kept = trials[key].model if key in trials else None
    if kept is not None and any(leftover.model == kept for leftover in leftovers):
        return {kept}
    return {leftover.model for leftover in leftovers if leftover.key == key and leftover.model}


class Cleanup:
    """The clean-up of one sweep: its leftovers, and their removal.

    `remove` requires `can_clean`: some backends do not support removal.
    """

    def __init__(self, cleaner: SupportsCleanup | None, backend_type: str, items: Sequence[CleanupItem]) -> None:
        self.can_clean = cleaner is not None
        self.backend_type = backend_type
        self.items = list(items)
        self._cleaner = cleaner

    @property
    def removable(self) -> list[CleanupItem]:
        """The items that may go, or that are gone after `remove`."""
        return [item for item in self.items if not item.kept_because]

    def remove(self, say: Callable[[str], None]) -> list[CleanupItem]:
        """Remove the removable items, and return those that the backend refused to remove.

        The returned items carry the reason of the backend. Raises SweepError if the backend cannot
        be reached. Items removed before that stay removed, and another call removes the rest.
        """
        assert self._cleaner is not None
        # Items that other sweeps need are included: this sweep gives up its claim, so that those
        # can remove them later.
        wanted = [index for index, item in enumerate(self.items) if item.kept_because in ("", item.leftover.needed)]
        refused, reported_at = [], time.monotonic()
        for removed, index in enumerate(wanted):
            item = self.items[index]
            try:
                reason = self._cleaner.remove(item.leftover)
            except BackendError as error:
                retry = "run the same command again to remove the rest"
                hint = f"{error.failure.detail}; {retry}" if error.failure.detail else retry
                message = f"removed {removed} of {len(wanted)}, then failed: {error.failure.message}"
                raise SweepError(message, hint) from error
            if reason and not item.kept_because:
                refused.append(replace(item, kept_because=reason))
            self.items[index] = replace(item, kept_because=reason)
            if time.monotonic() - reported_at >= PROGRESS_INTERVAL_S:
                reported_at = time.monotonic()
                say(f"removed {removed + 1} of {len(wanted)}")
        return refused


@contextmanager
def open_cleanup(
    name: str, workspace: Workspace, tracking_uri: str, storage: str | None, *, everything: bool = False
) -> Iterator[Cleanup]:
    """Open the clean-up of a sweep with its current leftovers. Changes nothing.

    Raises UserInputError if there is no sweep of this name, and SweepError if its record, the
    registry or the backend cannot be reached.
    """
    sweep = state.read_state(workspace, name, storage)
    versions = champion_versions(tracking_uri)
    spec = load(workspace.sweep_folder(name) / "sweep.yaml")
    other_folders = [workspace.sweep_folder(other) for other in workspace.sweep_names() if other != name]
    with _open_backend(spec, workspace, name) as backend:
        cleaner = _cleaner(backend, _store_leftovers(workspace, name, storage, sweep, backend))
        if cleaner is None:
            yield Cleanup(None, spec.backend_type, ())
            return
        try:
            leftovers = cleaner.leftovers(other_folders)
        except BackendError as error:
            raise SweepError(error.failure.message, error.failure.detail) from error
        yield Cleanup(cleaner, spec.backend_type, decide(leftovers, sweep, versions, everything=everything))


class _BackendAndStore:
    """Cleans up what a backend left, if it can, and what the workers left in the store."""

    def __init__(self, backend: SupportsCleanup | None, store: StoreLeftovers) -> None:
        self._backend, self._store = backend, store

    def leftovers(self, others: Sequence[Path]) -> Sequence[Leftover]:
        found = list(self._backend.leftovers(others)) if self._backend is not None else []
        with as_backend_errors():
            return [*found, *self._store.leftovers()]

    def remove(self, leftover: Leftover) -> str:
        if self._backend is not None and not self._store.has(leftover):
            return self._backend.remove(leftover)
        with as_backend_errors():
            return self._store.remove(leftover)


def _cleaner(backend: Backend, store: StoreLeftovers | None) -> SupportsCleanup | None:
    own = backend if isinstance(backend, SupportsCleanup) else None
    return own if store is None else _BackendAndStore(own, store)


def _store_leftovers(
    workspace: Workspace, name: str, storage: str | None, sweep: SweepState, backend: Backend
) -> StoreLeftovers | None:
    """Return what the sweep has in the store of its last run; None if it has no store."""
    file = workspace.files_url_file(name)
    if not file.exists() or not backend.capabilities.in_process:
        return None
    study = read_study(storage or workspace.study_file(name), workspace.study_name(name), curves=False)
    runs = []
    for trial in study.attempts:
        handle = trial.handle
        if handle is None and isinstance(backend, SupportsRelocation):
            handle = backend.run_of(trial.key)  # a process that was killed may not have recorded it
        if handle is not None:
            runs.append(OwnRun(handle.id, trial.key, trial.model))
    digests = [str(sweep.plan["data"]["digests"][part]) for part in ("train", "valid")]
    return StoreLeftovers(FileStore(file.read_text(encoding="utf-8").strip()), study.sweep_id, runs, digests)


@contextmanager
def _open_backend(spec: SweepSpec, workspace: Workspace, name: str) -> Iterator[Backend]:
    try:
        backend = open_guarded(spec.backend_class, spec.backend_options, workspace.sweep_folder(name), Placement())
    except BackendError as error:
        raise SweepError(error.failure.message, error.failure.detail) from error
    try:
        yield backend
    finally:
        backend.close()
