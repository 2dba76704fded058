"""The texts that trials generated at their evaluations: a file per trial in the sweep's folder."""

from __future__ import annotations

import json
from pathlib import Path

from backends import codec
from backends.contract import Generated

_FOLDER = "texts"


def text_file(folder: Path, key: str) -> Path:
    """Return the file with the texts of a trial, one line per evaluation."""
    return folder / _FOLDER / f"{key}.jsonl"


def read_texts(folder: Path, key: str) -> tuple[Generated, ...]:
    """Return the kept texts of a trial, evaluation by evaluation; empty if there are none."""
    try:
        lines = text_file(folder, key).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return ()
    return tuple(codec.from_json(Generated, json.loads(line)) for line in lines if line)
