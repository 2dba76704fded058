"""Unpack the state that finesweep 0.1 wrote into another folder, and rewrite its absolute paths."""

from __future__ import annotations

import os
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

WRITTEN_IN = "/tmp/finesweep-0.1-state"
DATABASES = (".db", ".sqlite")
BINARY = (".safetensors", ".pt", ".npy", ".png")


def restore(archive: Path, folder: Path) -> list[Path]:
    """Unpack `archive` into the new or empty `folder`; return the files in which a path was
    rewritten.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    rewritten = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix in BINARY:
            assert WRITTEN_IN.encode() not in path.read_bytes(), path
            continue
        if path.suffix in DATABASES:
            changed = _rewrite_database(path, str(folder))
        else:
            content = path.read_bytes()
            changed = WRITTEN_IN.encode() in content
            if changed:
                path.write_bytes(content.replace(WRITTEN_IN.encode(), str(folder).encode()))
        if changed:
            rewritten.append(path)
    for path, time in times.items():  # `sweep status` sorts by the times of the folders
        os.utime(path, ns=(time, time))
    return rewritten


def _rewrite_database(path: Path, folder: str) -> bool:
    changed = 0
    with closing(sqlite3.connect(path)) as connection, connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if table.startswith("sqlite_"):
                continue
            for _, column, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
                changed += connection.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) '
                    f'WHERE typeof("{column}") = \'text\' AND instr("{column}", ?)',
                    (WRITTEN_IN, folder, WRITTEN_IN),
                ).rowcount
    return changed > 0
