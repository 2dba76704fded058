"""Exporting the best model of a sweep: its files, and a model card that says what it is."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from backends.contract import BackendError, Placement
from backends.guarded_backend import open_guarded
from backends.model_export import ExportFormat, SupportsExport
from sweeps.champions.model_card import card_text
from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.spec.loading import load
from sweeps.study import state
from sweeps.study.state import SweepState
from sweeps.trials.trial import Trial
from sweeps.workspace import Workspace

CARD_FILE = "README.md"


@dataclass(frozen=True)
class ExportedModel:
    """A model that was written to `folder`. `files` are its names there, sorted."""

    sweep: str
    trial: int
    file_format: ExportFormat
    folder: Path
    files: tuple[str, ...]


def export_best(
    workspace: Workspace,
    name: str,
    storage: str | None,
    file_format: ExportFormat,
    folder: Path,
    trial_number: int | None = None,
) -> ExportedModel:
    """Write the best model of a sweep, or that of a trial, and its card to `folder`.

    `folder` must be new or empty, and appears only when it is complete. `storage` is as in
    `read_state`. Raises UserInputError for a folder with files, or for a sweep or trial that does
    not exist, and SweepError if there is no model in this format.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserInputError([Problem("--out", f"{folder} is not empty", "name a new folder")])
    sweep = state.read_state(workspace, name, storage)
    trial = _trial(sweep, trial_number)
    assert trial.model is not None
    spec = load(workspace.sweep_folder(name) / "sweep.yaml")
    temporary = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        placement = Placement(os.cpu_count() or 1)
        backend = open_guarded(spec.backend_class, spec.backend_options, workspace.sweep_folder(name), placement)
        try:
            if not isinstance(backend, SupportsExport):
                message = f"models of backend `{spec.backend_type}` cannot be exported"
                raise SweepError(message, "Use them where the backend keeps them.")
            backend.export(trial.model, file_format, temporary)
        finally:
            backend.close()
        card = temporary / CARD_FILE
        card.write_text(card_text(sweep, trial, file_format), encoding="utf-8")
        for path in temporary.rglob("*"):
            if path.is_file():  # libraries write weights that only their owner can read
                path.chmod(card.stat().st_mode)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except BackendError as error:
        raise SweepError(error.failure.message, error.failure.detail) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return ExportedModel(name, trial.number, file_format, folder, tuple(files))


def _trial(sweep: SweepState, number: int | None) -> Trial:
    if number is None:
        if sweep.best is None or sweep.best.model is None:
            raise SweepError(
                f"sweep `{sweep.name}` has no model yet", f"`sweep status {sweep.name}` shows its progress."
            )
        return sweep.best
    kept = {trial.number: trial for trial in (*sweep.trials, *sweep.repeats) if trial.model is not None}
    if number not in kept:
        message = f"trial {number} of sweep `{sweep.name}` has no model"
        hint = f"trials with a model: {', '.join(map(str, sorted(kept))) or 'none'}"
        raise UserInputError([Problem("--trial", message, hint)])
    return kept[number]
