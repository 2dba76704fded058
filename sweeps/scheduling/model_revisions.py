"""Which files a base model's name stands for: a digest of local files, the revision at the hub, or the name alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sweeps.scheduling import hub_revision

UNKNOWN = "revision unknown"


def revision(name: str, pinned: str | None, in_process: bool) -> str:
    """Return what identifies the model's weights.

    A directory: the sha256 over its files' names and contents, whatever their times. A hub's name, where the model
    is loaded in this process: the commit that the hub names now, else the one that was fetched last. A hosted model,
    and one that is part of this package: the name, whose content is the vendor's, or this version's.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return f"files {_digest(folder)}"
    if not in_process or name.startswith("builtin:"):
        return "by its name"
    found = hub_revision.model_commit(name, pinned)
    return f"commit {found[:12]}" if found else UNKNOWN


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        with file.open("rb") as content:
            digest.update(
                f"{file.relative_to(folder)}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()[:16]
