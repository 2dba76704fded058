"""Which files of a folder or an archive are train, valid and test: by their names alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import PurePosixPath

from sweeps.errors import Problem, UserInputError

PART_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test",),
}
"""The names that a part may have; the same for files and for the splits of a saved data set."""

FOLDER_DEPTH = 3
"""Folders that are searched for data files: the folder itself, and two below it."""

_PART_OF_NAME = {name: part for part, names in PART_NAMES.items() for name in names}
_SHARD = re.compile(r"[-_. ]*(?:(?:part|shard)[-_. ]*)?\d+(?:[-_ ]*of[-_ ]*\d+)?$", re.IGNORECASE)
_WORD_BREAK = re.compile(r"[-_. ]+")


def arrange(names: Collection[str], is_data: Callable[[str], bool], place: str) -> dict[str, list[str]]:
    """Return the data files of each part; `train` is missing if no file can be it.

    `names` are relative paths with `/`. Files with the name of a part are it, with a number or
    without (`train.csv`, `train-00000-of-00002.parquet`, `my_train_2.csv`), and so are the files in
    a folder with that name; numbered files of one part are read in the order of their numbers. If
    no name says a part, all files of one format are the training part. Only the highest folders
    with data files count. Raises UserInputError if it is unclear which files to read.
    """
    data = _highest([name for name in names if is_data(name)])
    found: dict[str, list[str]] = {}
    unnamed = []
    for name in sorted(data, key=natural_order):
        part = _part_of(name)
        if part is None:
            unnamed.append(name)
        else:
            found.setdefault(part, []).append(name)
    for part, files in found.items():
        _check_one_set(part, files, place)
    if not found and unnamed:
        endings = {_ending(name) for name in unnamed}
        if len(endings) > 1:
            hint = "name one file, or let the names of the files say the part: train.csv, valid.csv, test.csv"
            shown = f"files of several formats: {', '.join(unnamed[:5])}"
            raise UserInputError([Problem(place, f"it is unclear which file has the training examples: {shown}", hint)])
        found["train"] = unnamed
    return found


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts `part2` before `part10`."""
    return [(int(piece), piece) if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def _highest(names: Sequence[str]) -> list[str]:
    for depth in range(1, FOLDER_DEPTH + 1):
        if at_depth := [name for name in names if name.count("/") == depth - 1]:
            return at_depth
    return []


def _part_of(name: str) -> str | None:
    """Return the part that a file's name says, else the part that its folder's name says."""
    path = PurePosixPath(name)
    stem = path.name.split(".")[0]
    words = [word for word in _WORD_BREAK.split(_SHARD.sub("", stem).lower()) if word]
    if len(words) == 1 and words[0] in _PART_OF_NAME:
        return _PART_OF_NAME[words[0]]
    parts = {_PART_OF_NAME[word] for word in (words[:1] + words[-1:]) if word in _PART_OF_NAME}
    if len(parts) == 1:
        return parts.pop()
    folder = path.parent.name.lower()
    return _PART_OF_NAME.get(folder) if not parts else None


def _check_one_set(part: str, files: Sequence[str], place: str) -> None:
    """Raise UserInputError unless the files are one, or numbered pieces of one, or one folder."""
    if len(files) == 1:
        return
    if len({PurePosixPath(name).parent.name for name in files}) == 1 and all(
        _PART_OF_NAME.get(PurePosixPath(name).parent.name.lower()) == part for name in files
    ):
        is_one = len({_ending(name) for name in files}) == 1
    else:
        is_one = len({_without_number(name) for name in files}) == 1 and len(files) == len(set(files))
    if not is_one:
        names = ", ".join(files)
        raise UserInputError([Problem(place, f"several files for one part: {names}", "keep one of them")])


def _without_number(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    stem = path.name.split(".")[0]
    shortened = _SHARD.sub("", stem).lower()
    return f"{path.parent}/{shortened}", _ending(name)


def _ending(name: str) -> str:
    return PurePosixPath(name).name.partition(".")[2].lower()
