"""The arguments of `sweep init`: which one is the data, and which one the sweep file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sweeps.data.readers.files import is_data_file
from sweeps.errors import Problem, UserInputError

_SWEEP_FILE = (".yaml", ".yml")
_URL = re.compile(r"[a-z][a-z0-9+]*://")


def data_and_file(arguments: Sequence[str], data: str | None) -> tuple[str | None, Path]:
    """Return the data, None without one, and the sweep file to write.

    An argument is the sweep file if it ends like one, or if it neither exists nor ends like data.
    Raises UserInputError for two of a kind.
    """
    files = [argument for argument in arguments if not _is_data(argument)]
    sets = [argument for argument in arguments if _is_data(argument)] + ([data] if data is not None else [])
    for found, noun in ((sets, "data sets"), (files, "sweep files")):
        if len(found) > 1:
            hint = "name one; a folder with files named train, valid and test is one data set"
            hint = hint if noun == "data sets" else "one of them does not exist as data; name one sweep file"
            raise UserInputError([Problem(" ".join(found), f"{len(found)} {noun} are named", hint)])
    chosen = sets[0] if sets else None
    if files:
        return chosen, Path(files[0])
    named_by_argument = chosen is not None and data is None
    return chosen, Path(f"{_stem(chosen)}.yaml") if named_by_argument and chosen is not None else Path("sweep.yaml")


def _is_data(argument: str) -> bool:
    if argument.lower().endswith(_SWEEP_FILE):
        return False
    return bool(_URL.match(argument)) or Path(argument).expanduser().exists() or is_data_file(argument)


def _stem(data: str) -> str:
    name = data.rstrip("/").rpartition("/")[2] or "data"
    return name.split(".")[0] or "data"
