"""The checkpoints that a program writes: which are complete, which is the best, which can go."""

from __future__ import annotations

import glob
import json
import re
import shutil
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from backends.contract import EvaluationSettings, Measured

_NUMBER = re.compile(r"(?P<label>[A-Za-z]*)[-_=.]?(?P<number>\d+)(?!.*\d)")
_DIGITS = re.compile(r"\d+")
_ZIP_START = b"PK\x03\x04"
"""What `torch.save` writes is a ZIP file, whose list of contents comes last."""


@dataclass(frozen=True)
class Checkpoint:
    """A file or folder of the program, and the last number in its name.

    `label` is the word before the number, such as "step" or "epoch", in lower case.
    """

    path: Path
    number: int
    label: str = ""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run as they are on disk at one moment, sorted by their numbers.

    Each file is read at most once. `evaluations` are those of the run. `epochs_from_zero`: its log
    counts epochs from 0. `expected` are the files that an earlier complete checkpoint had, which
    may be deleted; see `files_of`.
    """

    found: Sequence[Checkpoint]
    evaluations: Sequence[Measured]
    settings: EvaluationSettings
    epochs_from_zero: bool = False
    expected: frozenset[str] = frozenset()

    def evaluation_of(self, checkpoint: Checkpoint) -> Measured | None:
        """Return the evaluation of a checkpoint: the one of its step, or else of its epoch.

        Lightning evaluates step 49 and names the checkpoint of that state `step=50`.
        """
        number = checkpoint.number
        of_epoch = self._by_epoch.get(float(number + (1 if self.epochs_from_zero else 0)))
        if checkpoint.label == "epoch":
            return of_epoch
        if checkpoint.label == "step":
            return self._by_step.get(number) or self._by_step.get(number - 1)
        return self._by_step.get(number) or of_epoch

    @cached_property
    def _by_step(self) -> dict[int, Measured]:
        return {evaluation.step: evaluation for evaluation in self.evaluations}

    @cached_property
    def _by_epoch(self) -> dict[float, Measured]:
        return {evaluation.epoch: evaluation for evaluation in self.evaluations}

    @cached_property
    def complete(self) -> list[Checkpoint]:
        """The checkpoints that are written completely, as far as their files tell."""
        complete, expected = list[Checkpoint](), self.expected
        for checkpoint in self.found:
            if is_complete(checkpoint.path, expected):
                complete.append(checkpoint)
                expected = files_of(checkpoint.path)
        return complete

    @cached_property
    def best(self) -> Checkpoint | None:
        """The complete checkpoint whose evaluation is the best, the earlier one on a tie.

        The newest one if none of them was evaluated, and None without any.
        """
        complete = self.complete
        evaluated = [
            (evaluation, checkpoint)
            for checkpoint in complete
            if (evaluation := self.evaluation_of(checkpoint)) is not None
        ]
        best = best_evaluation([evaluation for evaluation, _ in evaluated], self.settings)
        if best is not None:
            return next(checkpoint for evaluation, checkpoint in evaluated if evaluation is best)
        return complete[-1] if complete and not evaluated else None

    def delete_others(self, folder: Path, *, protected: Collection[str | None], has_ended: bool) -> None:
        """Delete the checkpoints that nobody needs, only below `folder`, and follow no link.

        The best one stays, the `protected` ones, and those that belong to no known evaluation.
        While the program runs, the newest one and those that may still be being written also stay.
        """
        best, complete = self.best, self.complete
        if best is None or self.evaluation_of(best) is None:
            return
        for checkpoint in self.found if has_ended else self.found[:-1]:
            is_needed = checkpoint == best or str(checkpoint.path) in protected
            is_unknown = self.evaluation_of(checkpoint) is None or (not has_ended and checkpoint not in complete)
            is_inside = checkpoint.path.absolute().is_relative_to(folder.absolute())
            if is_needed or is_unknown or not is_inside:
                continue
            if checkpoint.path.is_dir() and not checkpoint.path.is_symlink():
                shutil.rmtree(checkpoint.path, ignore_errors=True)
            else:
                checkpoint.path.unlink(missing_ok=True)


def checkpoints_of(pattern: str) -> list[Checkpoint]:
    """Return the checkpoints that a pattern finds, by their numbers."""
    found = []
    for name in glob.iglob(pattern, recursive=True):
        path = Path(name)
        number = _NUMBER.search(path.stem if path.suffix[1:].isalnum() and not path.suffix[1].isdigit() else path.name)
        if number is not None:
            found.append(Checkpoint(path, int(number["number"]), number["label"].lower()))
    return sorted(found, key=lambda checkpoint: (checkpoint.number, str(checkpoint.path)))


def best_evaluation(evaluations: Sequence[Measured], settings: EvaluationSettings) -> Measured | None:
    """Return the evaluation with the best `keep_metric`, the earlier one on a tie.

    None if no evaluation has it.
    """
    sign = 1.0 if settings.keep_maximum else -1.0
    scored = [evaluation for evaluation in evaluations if (value := _kept(evaluation, settings)) == value]
    return max(scored, key=lambda evaluation: (sign * _kept(evaluation, settings), -evaluation.step), default=None)


def is_complete(path: Path, expected: frozenset[str] = frozenset()) -> bool:
    """Return whether a checkpoint is written completely, as far as its files tell.

    Each of its files can be read to its end, and there are all the `expected` ones.
    """
    try:
        found = files_of(path)
        return bool(found) and expected <= found and all(_is_sound(file) for file in _files(path))
    except OSError:  # the program deletes it at this moment
        return False


def files_of(path: Path) -> frozenset[str]:
    """Return the names of a checkpoint's files, in which numbers are replaced by `#`."""
    return frozenset(_kind(file, path) for file in _files(path))


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from (file for file in sorted(path.rglob("*")) if file.is_file())


def _kind(file: Path, checkpoint: Path) -> str:
    name = file.suffix if file == checkpoint else str(file.relative_to(checkpoint))
    return _DIGITS.sub("#", name)


def _is_sound(file: Path) -> bool:
    """Return whether a file ends where its format says. An unknown format counts as sound."""
    if file.suffix == ".safetensors":
        return _is_whole_safetensors(file)
    if file.suffix == ".json":
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return False
        return True
    with file.open("rb") as stream:
        is_zip = stream.read(4) == _ZIP_START
    return zipfile.is_zipfile(file) if is_zip else file.stat().st_size > 0 or file.suffix not in _WEIGHTS


_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".npz", ".npy", ".h5", ".keras", ".pkl", ".msgpack", ".gguf")


def _is_whole_safetensors(file: Path) -> bool:
    """Compare the size of the file with its header: 8 bytes of length, JSON, and the tensors."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 + length:
            return False
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return bool(size == 8 + length + max(ends, default=0))


def _kept(evaluation: Measured, settings: EvaluationSettings) -> float:
    return evaluation.values.get(settings.keep_metric, float("nan"))
