"""Identifies the weights of a base model: by file digest, by commit at the hub, or by name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sweeps.scheduling.hub_revision import model_commit

UNKNOWN = "revision unknown"


def model_revision(name: str, pinned: str | None, in_process: bool) -> str:
    """Return a text that changes when the weights of the model change.

    `pinned` is the revision in the sweep file, if it names one.

    - A local folder: the SHA-256 of the names and contents of its files. File times do not matter.
    - A model of the hub that this process loads (`in_process`): the commit that the hub reports
      now, else the commit of the cached copy, else `UNKNOWN`.
    - A hosted model, or one that is part of this package: a constant. The vendor, or the version of
      this package, determines its content.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return f"files {_digest(folder)}"
    if not in_process or name.startswith("builtin:"):
        return "by its name"
    commit = model_commit(name, pinned)
    return f"commit {commit[:12]}" if commit else UNKNOWN


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content_digest = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder)}\0{content_digest}\n".encode())
    return digest.hexdigest()[:16]
