"""The files that a workspace's runs have left on disk, and their deletion. Loads no torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backends.cleanup import Leftover
from backends.contract import BackendError, Failure, FailureKind
from backends.local.journal import Journal

MODEL, CHECKPOINT, UNFINISHED = "model", "checkpoint", "unfinished file"


def leftovers(workspace: Path, others: Sequence[Path]) -> list[Leftover]:
    """Return the kept models, the checkpoints of unfinished runs, and files that were never
    completed.

    A model is `needed` if a run of one of the `others`, which are workspaces too, was trained from
    it.
    """
    sweep_of_base = {base: other.name for other in others for base in _base_models(other)}
    return [leftover for journal in _journals(workspace) for leftover in _leftovers_of(journal, sweep_of_base)]


def remove(workspace: Path, leftover: Leftover) -> str:
    """Delete a file or folder of a run. Return why it stays, or an empty string.

    A leftover that no longer exists counts as deleted. Raises BackendError (user) if the file
    system refuses.
    """
    path = Path(leftover.name)
    if not path.absolute().is_relative_to((workspace / "jobs").absolute()):
        return "it is not below this sweep's folder"
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        failure = Failure(FailureKind.USER, f"{path} cannot be deleted: {error.strerror}", "check who owns the folder")
        raise BackendError(failure) from error
    return ""


def _journals(workspace: Path) -> Iterator[Journal]:
    jobs = workspace / "jobs"
    for directory in sorted(jobs.iterdir()) if jobs.is_dir() else ():
        if (journal := Journal(jobs, directory.name)).exists:
            yield journal


def _leftovers_of(journal: Journal, sweep_of_base: Mapping[str, str]) -> Iterator[Leftover]:
    key, model = journal.request().key, journal.model_directory
    if model.is_dir():
        sweep = sweep_of_base.get(str(model))
        needed = f"sweep {sweep} has trained from it" if sweep is not None else ""
        yield Leftover(MODEL, str(model), key, str(model), _bytes(model), needed)
    if journal.checkpoint_path.exists():
        path = journal.checkpoint_path.absolute()
        yield Leftover(CHECKPOINT, str(path), key, None, _bytes(path))
    for path in sorted(journal.directory.absolute().glob("*.tmp")):
        yield Leftover(UNFINISHED, str(path), key, None, _bytes(path))


def _base_models(workspace: Path) -> set[str]:
    """Return the absolute paths of the models from which the workspace's runs were trained."""
    paths = set()
    for journal in _journals(workspace):
        request = journal.request()
        paths.add(str(Path(str(request.hyperparameters.get("base_model", request.base_model))).absolute()))
    return paths


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())
