"""The winner of a sweep, and its registration as a version of the registered model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from backends.contract import Backend, BackendError, Decoding
from backends.model_packages import ModelPackage, SupportsPackaging
from sweeps.data.store import read_lines
from sweeps.errors import SweepError
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.tracking.model_files import PackagedModel
from sweeps.tracking.registry import RegisteredVersion, Registry
from sweeps.tracking.served_card import ServedCard
from sweeps.trials.trial import Trial

TAG_PREFIX = "finesweep."
"""The prefix of all tags that a sweep sets on a version."""

TRIAL_KEY_TAG = f"{TAG_PREFIX}trial_key"
"""The tag of a version that holds the key of its trial."""

EXAMPLE_ROWS = 2
"""The number of validation examples that a registered version shows as its input example."""


@dataclass(frozen=True)
class SweepWinner:
    """The trial that won a sweep, with the plan and the id of the sweep.

    `decoding` is how its model writes if the finals chose another way than that of the evaluations.
    """

    plan: SweepPlan
    sweep_id: str
    trial: Trial
    decoding: Decoding | None = None

    @property
    def model_name(self) -> str:
        """The registered model whose champion the winner challenges."""
        return self.plan.spec.registered_model

    @property
    def card(self) -> ServedCard:
        """How columns become prompts for the winner's model."""
        data = self.plan.data
        return ServedCard.for_dataset(data.dataset, data.prompt, data.separator)


def find_version(winner: SweepWinner, registry: Registry) -> RegisteredVersion | None:
    """Return the version that the winner is registered as, or None if it is not registered."""
    versions = registry.versions(winner.model_name)
    return next((version for version in versions if version.tags.get(TRIAL_KEY_TAG) == winner.trial.key), None)


def register(winner: SweepWinner, backend: Backend, registry: Registry) -> RegisteredVersion:
    """Register the winner's model as a new version.

    Raises SweepError if MLflow has no run of the trial, or if the backend cannot package the model.
    """
    plan, trial, dataset = winner.plan, winner.trial, winner.plan.data.dataset
    run_id = registry.run_of_trial(plan.spec.tracking.experiment or plan.spec.name, trial.key)
    if run_id is None:
        message = f"MLflow has no run of trial {trial.number}, so its model cannot be registered"
        raise SweepError(message, "Check that MLflow is reachable, then run the same command again.")
    if not isinstance(backend, SupportsPackaging) or trial.model is None:
        raise SweepError(f"the model of trial {trial.number} cannot be registered", "Use another backend.")
    with TemporaryDirectory() as temporary_folder:
        files = Path(temporary_folder) / "files"
        files.mkdir()
        try:
            package = backend.package(trial.model, dataset, files)
        except BackendError as error:
            raise SweepError(error.failure.message, error.failure.detail) from error
        card = winner.card
        rows = [card.row_of_line(line) for line in read_lines(dataset.valid)[:EXAMPLE_ROWS]]
        packaged = PackagedModel(_with_decoding(package, winner.decoding), files, card, rows)
        return registry.register(winner.model_name, run_id, packaged, _tags(winner))


def _with_decoding(package: ModelPackage, decoding: Decoding | None) -> ModelPackage:
    """Return the package with this decoding, if its model writes texts."""
    generation = package.settings.get("generation")
    if decoding is None or not isinstance(generation, Mapping):
        return package
    chosen = {"max_tokens": decoding.max_tokens, "temperature": decoding.temperature, "top_p": decoding.top_p}
    return replace(package, settings={**package.settings, "generation": {**generation, **chosen}})


def _tags(winner: SweepWinner) -> dict[str, str]:
    plan, trial = winner.plan, winner.trial
    data, objectives = plan.data, plan.spec.objectives
    values = zip(objectives, trial.values or (), strict=False)
    tags = {
        "trial_key": trial.key,
        "sweep": plan.spec.name,
        "sweep_id": winner.sweep_id,
        "trial": str(trial.number),
        "base_model": trial.base_model,
        "backend": plan.spec.backend_type,
        "space": plan.space.fingerprint,
        "data": data.fingerprint,
        "data.name": data.name,
        "data.test": data.digests.get("test", ""),
        "hyperparameters": json.dumps(dict(trial.hyperparameters)),
        **{objective.objective.metric: f"{value:.6g}" for objective, value in values},
    }
    if trial.spend.usd is not None:
        tags["usd"] = f"{trial.spend.usd:.6g}"
    return {f"{TAG_PREFIX}{name}": value for name, value in tags.items()}
