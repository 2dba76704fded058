"""The output of a preparation: a file for each part, the list of changes, and the manifest."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from sweeps.data.prepared_folder import CHANGES, FILES, FORMAT, MANIFEST, read_manifest
from sweeps.data.repairs.preparation import Preparation
from sweeps.data.repairs.rows import Row
from sweeps.data.store import draft_folder
from sweeps.errors import Problem, UserInputError
from sweeps.workspace import remove_if_abandoned


class Written(NamedTuple):
    """The manifest of what was written, and whether anything differs from what was there."""

    manifest: Mapping[str, Any]
    is_new: bool


def check_place(out: Path, source: Path | None, force: bool) -> None:
    """Raise UserInputError if the output would change the input, or files that are not ours."""
    if out.exists() and not out.is_dir():
        raise UserInputError([Problem("--out", f"{out} is a file", "choose a new folder")])
    if source is not None and source.exists():
        here, there = out.resolve(), source.resolve()
        if here == there or here in there.parents or (source.is_dir() and there in here.parents):
            message = f"the output {out} and the input {source} must not lie in each other: the input never changes"
            raise UserInputError([Problem("--out", message, "choose another folder")])
    if not out.is_dir():
        return
    ours = {*FILES.values(), MANIFEST, CHANGES}
    strangers = sorted(
        path.name for path in out.iterdir() if path.name not in ours and not path.name.startswith(".writing-")
    )
    rivals = [name for name in strangers if _PART_NAMES & set(re.split(r"[-_. ]+", name.lower()))]
    if rivals:
        message = f"{out} has {rivals[0]}, which would be read as a part of the data beside ours"
        raise UserInputError([Problem("--out", message, "move it away, or choose another folder")])
    was_killed = any(path.name.startswith(".writing-") for path in out.iterdir())
    if force or (was_killed and not strangers):
        return
    manifest = read_manifest(out)
    known = {} if manifest is None else manifest.get("parts", {})
    if manifest is None and any(out.iterdir()) and (strangers or any((out / name).exists() for name in ours)):
        message = f"{out} is not empty, and not the output of an earlier preparation"
        raise UserInputError([Problem("--out", message, "choose a new folder, or pass --force")])
    for part in known.values():
        path = out / str(part.get("file"))
        if path.is_file() and _digest_of(path) != part.get("sha256"):
            message = f"{path} was changed after it was written; preparing again would undo that"
            hint = "prepare the changed folder into another one, or pass --force"
            raise UserInputError([Problem("--out", message, hint)])


_PART_NAMES = frozenset({"train", "training", "valid", "validation", "val", "dev", "test"})


def write(preparation: Preparation, out: Path, facts: Mapping[str, Any], keep_columns: bool = False) -> Written:
    """Write the parts, the changes and the manifest. The same preparation gives the same bytes.

    `facts` are what the manifest says of input and options. The files appear all at once, the
    manifest last; a failure leaves earlier files as they were. Raises OSError if the disk is full.
    """
    is_new_folder = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for abandoned in out.glob(".writing-*"):
            remove_if_abandoned(abandoned)
        with draft_folder(out) as draft:
            parts = {}
            for part, rows in preparation.parts.items():
                line = _line_writer(preparation, keep_columns)
                digest = _write(draft / FILES[part], (line(row) for row in rows))
                counts = preparation.label_counts(part)
                labels = {"labels": counts} if counts else {}
                parts[part] = {"file": FILES[part], "examples": len(rows), "sha256": digest, **labels}
            _write(draft / CHANGES, _change_lines(preparation))
            manifest = {"format": FORMAT, "version": version("finesweep"), **facts, **outcome(preparation)}
            manifest["parts"] = parts
            text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
            (draft / MANIFEST).write_bytes(text.encode(errors="backslashreplace"))
            is_new = False
            for name in (*FILES.values(), CHANGES, MANIFEST):
                is_new |= _replace(draft / name, out / name)
    except OSError as error:
        if is_new_folder:
            with suppress(OSError):
                out.rmdir()
        raise OSError(error.errno, error.strerror, error.filename or str(out)) from None
    return Written(manifest, is_new)


def outcome(preparation: Preparation) -> dict[str, Any]:
    """Return what a preparation did, for the manifest and for programs."""
    ends = preparation.delimiters
    return {
        "layout": "completion" if ends is not None else "chat",
        "task": "classification" if preparation.is_classification else "generation",
        **({} if ends is None else {"separator": ends.separator, "stop": ends.stop}),
        "repairs": [
            {
                "code": made.repair.code,
                "title": made.repair.title,
                "count": made.count,
                "left_out": sum(change.rows for change in made.changes if change.after is None),
            }
            for made in preparation.made
        ],
        "declined": [
            {"code": made.repair.code, "title": made.repair.title, "count": made.count} for made in preparation.declined
        ],
    }


def _line_writer(preparation: Preparation, keep_columns: bool) -> Callable[[Row], str]:
    texts, ends = preparation.texts, preparation.delimiters

    def line(row: Row) -> str:
        content: dict[str, Any]
        if ends is None:
            content = {"messages": row.with_contents}
            if row.tools is not None:
                content["tools"] = row.tools
        else:
            content = {
                "prompt": ends.prompt(texts.prompt(row)),
                "completion": ends.completion(texts.answer(row)),
            }
        others = {name: value for name, value in (row.others or {}).items() if keep_columns and name not in content}
        return json.dumps({**content, **others}, ensure_ascii=False, default=str)

    return line


def _change_lines(preparation: Preparation) -> Iterator[str]:
    """Yield one line for each change, in the order in which they were made."""
    for made in preparation.made:
        for change in made.changes:
            content: dict[str, Any] = {"repair": made.repair.code, "place": change.place, "before": change.before}
            content |= {"after": change.after} if change.after is not None else {"left_out": True}
            content |= {"reason": change.reason} if change.reason else {}
            content |= {"lines": change.rows} if change.rows > 1 else {}
            yield json.dumps(content, ensure_ascii=False)


def _write(path: Path, lines: Iterator[str]) -> str:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for line in lines:
            content = f"{line}\n".encode(errors="backslashreplace")
            digest.update(content)
            file.write(content)
    return digest.hexdigest()


def _replace(written: Path, target: Path) -> bool:
    """Put a file in its place, or remove one that is not written; return whether it differs."""
    if not written.exists():
        existed = target.exists()
        target.unlink(missing_ok=True)
        return existed
    if target.is_file() and _digest_of(target) == _digest_of(written):
        return False
    os.replace(written, target)
    return True


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
