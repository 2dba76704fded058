"""What a workspace's runs have left on disk, and deleting it. No torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backends.cleanup import Remnant
from backends.contract import BackendError, Failure, FailureKind
from backends.local.journal import Journal

MODEL, CHECKPOINT, UNFINISHED = "model", "checkpoint", "unfinished file"


def remnants(workspace: Path, others: Sequence[Path]) -> list[Remnant]:
    """Return the kept models, the checkpoints from which runs would go on, and what was never finished.

    A model from which a run of another workspace was trained is `needed`.
    """
    bases = {base: other.name for other in others for base in _base_models(other)}
    return [each for journal in _journals(workspace) for each in _of(journal, bases)]


def remove(workspace: Path, remnant: Remnant) -> str:
    """Delete a file or a folder of a run; what is gone is gone. Raises BackendError where the disk refuses."""
    path = Path(remnant.name)
    if not path.absolute().is_relative_to((workspace / "jobs").absolute()):
        return "it is not below this sweep's folder"
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        failure = Failure(FailureKind.USER, f"{path} cannot be deleted: {error.strerror}", "see who owns the folder")
        raise BackendError(failure) from error
    return ""


def _journals(workspace: Path) -> Iterator[Journal]:
    jobs = workspace / "jobs"
    for each in sorted(jobs.iterdir()) if jobs.is_dir() else ():
        if (journal := Journal(jobs, each.name)).exists:
            yield journal


def _of(journal: Journal, bases: Mapping[str, str]) -> Iterator[Remnant]:
    key, model = journal.request().key, journal.model_directory
    if model.is_dir():
        user = bases.get(str(model))
        needed = f"sweep {user} has trained from it" if user is not None else ""
        yield Remnant(MODEL, str(model), key, str(model), _bytes(model), needed)
    if journal.checkpoint_path.exists():
        path = journal.checkpoint_path.absolute()
        yield Remnant(CHECKPOINT, str(path), key, None, _bytes(path))
    for path in sorted(journal.directory.absolute().glob("*.tmp")):
        yield Remnant(UNFINISHED, str(path), key, None, _bytes(path))


def _base_models(workspace: Path) -> set[str]:
    found = set()
    for journal in _journals(workspace):
        request = journal.request()
        found.add(str(Path(str(request.hyperparameters.get("base_model", request.base_model))).absolute()))
    return found


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(each.stat().st_size for each in files if each.is_file())
