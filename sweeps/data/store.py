"""Prepared parts on disk: JSON lines in a folder named by the fingerprint of their content."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from backends.chat_lines import TrainOn
from backends.contract import DataFile
from sweeps.data.examples import Example, Recipe
from sweeps.workspace import remove_if_abandoned

_DRAFT_PREFIX = ".writing-"


def write_parts(
    parts: Mapping[str, Sequence[Example]],
    recipe: Recipe,
    labels: Sequence[str],
    directory: Path,
    train_on: TrainOn = "last",
    parts_with_rows: Collection[str] = (),
) -> tuple[dict[str, DataFile], str]:
    """Write `directory/<fingerprint>/<part>.jsonl` and a manifest.

    The lines of `parts_with_rows` have the rows of their examples. Returns the files by part, and
    the fingerprint (hex). Each file is written completely or not at all. Existing files with the
    right content stay untouched; files with other content are replaced.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for abandoned in directory.glob(f"{_DRAFT_PREFIX}*"):
        remove_if_abandoned(abandoned)
    with draft_folder(directory) as draft:
        digests = {
            part: _write_lines(examples, draft / f"{part}.jsonl", part in parts_with_rows)
            for part, examples in parts.items()
        }
        content = {"layout": recipe.layout, "labels": list(labels), "stop": recipe.stop, "sha256": digests}
        if train_on == "all":  # absent otherwise, so that older fingerprints stay
            content["train_on"] = train_on
        manifest = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
        fingerprint = hashlib.sha256(manifest.encode()).hexdigest()[:16]
        (draft / "manifest.json").write_text(manifest + "\n", encoding="utf-8")
        home = directory / fingerprint
        home.mkdir(exist_ok=True)
        for written in sorted(draft.iterdir()):
            target = home / written.name
            if not target.is_file() or _digest(target) != _digest(written):
                os.replace(written, target)
    files = {
        part: DataFile(str((home / f"{part}.jsonl").resolve()), len(examples), digests[part])
        for part, examples in parts.items()
    }
    return files, fingerprint


@contextmanager
def draft_folder(directory: Path) -> Iterator[Path]:
    """Create a folder for the block, locked, so that nobody takes it for one of a dead process."""
    while True:
        draft = Path(tempfile.mkdtemp(prefix=_DRAFT_PREFIX, dir=directory))
        with suppress(FileNotFoundError):  # another process took it for abandoned before it was locked
            descriptor = os.open(draft, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if draft.exists():
                break
            os.close(descriptor)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        os.close(descriptor)


def read_lines(file: DataFile) -> list[dict[str, Any]]:
    """Return the lines of a prepared file, in their order."""
    # str.splitlines would also split at characters such as U+2028, which a text may contain.
    with Path(file.path).open(encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


def _write_lines(examples: Sequence[Example], path: Path, with_rows: bool) -> str:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for example in examples:
            line = f"{example.to_line(with_rows)}\n".encode()
            digest.update(line)
            file.write(line)
    return digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
