"""The manifest of a folder that `sweep prepare` wrote: how its files are to be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = "finesweep-prepared-1"
MANIFEST = "manifest.json"
CHANGES = "changes.jsonl"
FILES = {"train": "train.jsonl", "valid": "validation.jsonl", "test": "test.jsonl"}


def read_manifest(folder: Path) -> Mapping[str, Any] | None:
    """Return the manifest of a preparation in this folder; None if there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None


def written_delimiters(folder: Path) -> tuple[str | None, str | None]:
    """Return separator and stop sequence of a prepared folder; None for any other folder."""
    manifest = read_manifest(folder) or {}
    separator, stop = manifest.get("separator"), manifest.get("stop")
    return (separator, stop) if isinstance(separator, str) and isinstance(stop, str) else (None, None)
