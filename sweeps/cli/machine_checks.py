"""The checks of `sweep doctor`: find what would keep sweeps from running, without running one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from sweeps.errors import SweepError
from sweeps.tracking import local_database
from sweeps.tracking.local_database import DatabaseState
from sweeps.tracking.reachability import sqlite_path
from sweeps.workspace import Workspace

OUR_PACKAGES = ("search_spaces", "backends", "sweeps")
LIBRARIES = ("optuna", "ray", "mlflow", "torch", "transformers", "peft", "pandas", "openai", "datasets")
LOW_DISK_BYTES = 2 * 10**9
PROBE_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class MachineCheck:
    """The result of one check: `bad` keeps sweeps from running, `note` is worth knowing."""

    state: Literal["ok", "note", "bad"]
    what: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def examine(workspace: Workspace, tracking_uri: str) -> list[MachineCheck]:
    """Check the packages, the processors, the disk and the tracking server."""
    return [*_packages(), *_libraries(), *_processors(), _disk(workspace), _tracking(tracking_uri)]


def _packages() -> Iterator[MachineCheck]:
    """Check that `sweeps`, `backends` and `search_spaces` are ours: others use these names too."""
    ours = Path(__file__).resolve().parents[2]
    for name in OUR_PACKAGES:
        found = importlib.util.find_spec(name)
        where = Path(found.origin).resolve().parent.parent if found is not None and found.origin else None
        if where == ours:
            continue
        owners = [owner for owner in metadata.packages_distributions().get(name, []) if owner != "finesweep"]
        culprit = f"distribution {', '.join(owners)}" if owners else f"a folder in {where}"
        yield MachineCheck(
            "bad",
            f"`import {name}` imports {culprit}, not finesweep",
            "Uninstall it, or use a virtual environment without it.",
        )
    others = {
        name: owners
        for name in OUR_PACKAGES
        if (owners := [owner for owner in metadata.packages_distributions().get(name, []) if owner != "finesweep"])
    }
    for name, owners in others.items():
        yield MachineCheck(
            "bad", f"{', '.join(owners)} also installs a package `{name}`", f"pip uninstall {' '.join(owners)}"
        )
    if not others:
        yield MachineCheck(
            "ok", f"finesweep {_version('finesweep')} on Python {sys.version.split()[0]}; no package of the same name"
        )


def _libraries() -> Iterator[MachineCheck]:
    versions = {name: _version(name) for name in LIBRARIES}
    missing = [name for name, version in versions.items() if version == "missing"]
    if missing:
        yield MachineCheck("bad", f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    yield MachineCheck(
        "ok", ", ".join(f"{name} {version}" for name, version in versions.items() if name not in missing)
    )


def _processors() -> Iterator[MachineCheck]:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield MachineCheck("ok", f"{cpus} CPU cores for this process: {cpus} local trials at a time by default")
    if shutil.which("nvidia-smi") is None:
        yield MachineCheck("note", "no NVIDIA driver: the local backend trains on the CPU")
    else:
        yield MachineCheck("ok", "an NVIDIA driver is installed: the local backend gives each trial a GPU")


def _disk(workspace: Workspace) -> MachineCheck:
    folder = next(parent for parent in (workspace.root, *workspace.root.parents) if parent.exists())
    if not os.access(folder, os.W_OK):
        return MachineCheck("bad", f"cannot write to {folder}", "Give another folder with --root.")
    free = shutil.disk_usage(folder).free
    what = f"{free / 1e9:.1f} GB free in the sweep folder ({workspace.root})"
    if free < LOW_DISK_BYTES:
        return MachineCheck("bad", what, "Free some disk space, or give another folder with --root.")
    return MachineCheck("ok", what)


def _tracking(uri: str) -> MachineCheck:
    parts = urlsplit(uri)
    if (file := sqlite_path(uri)) is not None:
        return _local_database(file)
    if parts.scheme not in ("http", "https"):
        return MachineCheck("ok", f"MLflow records to {'a database' if parts.password else uri}")
    where = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    try:
        socket.create_connection(
            (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)), PROBE_TIMEOUT_S
        ).close()
    except OSError as error:
        return MachineCheck(
            "bad", f"the MLflow server at {where} does not answer: {error}", "Start it, or unset MLFLOW_TRACKING_URI."
        )
    return MachineCheck("ok", f"the MLflow server at {where} answers")


def _local_database(file: Path) -> MachineCheck:
    try:
        state = local_database.examine(file)
    except SweepError as error:
        return MachineCheck("bad", error.message, error.hint)
    what, mend = f"the MLflow database {file}", "Run: sweep track"
    match state:
        case DatabaseState.MISSING | DatabaseState.EMPTY | DatabaseState.READY:
            return MachineCheck("ok", f"MLflow records to {file}")
        case DatabaseState.OUTDATED:
            return MachineCheck("note", f"{what} has the schema of an earlier MLflow; the next run upgrades it", mend)
        case DatabaseState.HALF_MADE:
            return MachineCheck("bad", f"{what} is half made: a process was killed while it created it", mend)
        case DatabaseState.NEWER:
            return MachineCheck("bad", f"a newer MLflow wrote {file}", "pip install --upgrade mlflow")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"
