"""The workspace: the folder that holds every file of every sweep, `.sweep/` by default."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweeps.errors import SweepError

DEFAULT_ROOT = ".sweep"
"""The workspace if neither an option nor SWEEP_ROOT names one."""


@dataclass(frozen=True)
class Workspace:
    """A root folder with this content:

    - `data/`: prepared data sets
    - `mlflow.db` and `mlartifacts/`: MLflow
    - `sweeps/<name>/`: one sweep, with `study.journal`, `jobs/` (the runs of the backend),
      `sweep.yaml` and `plan.json` of its last run, `report.html`, and `log.txt` (log messages of
      libraries)
    """

    root: Path

    def sweep_folder(self, name: str) -> Path:
        """The folder of a sweep."""
        return self.root / "sweeps" / name

    def study_file(self, name: str) -> Path:
        """The journal file of a sweep's study."""
        return self.sweep_folder(name) / "study.journal"

    def study_name(self, name: str) -> str:
        """The name of a sweep's study in its storage.

        It is the name of the sweep, unless `set_study_name` chose another.
        """
        file = self.sweep_folder(name) / "study-name"
        return file.read_text(encoding="utf-8").strip() if file.exists() else name

    def set_study_name(self, name: str, study_name: str) -> None:
        """Use `study_name` for the study of the sweep `name` from now on."""
        (self.sweep_folder(name) / "study-name").write_text(study_name, encoding="utf-8")

    def files_url_file(self, name: str) -> Path:
        """The file that stores the URL of a sweep's store for files, if it has one."""
        return self.sweep_folder(name) / "files-url"

    def run_table_file(self, name: str) -> Path:
        """The file that stores the URL path of a sweep's table of runs in the MLflow UI."""
        return self.sweep_folder(name) / "mlflow-table"

    def report_file(self, name: str) -> Path:
        """The HTML report of a sweep."""
        return self.sweep_folder(name) / "report.html"

    def log_file(self, name: str) -> Path:
        """The file with the log messages of libraries."""
        return self.sweep_folder(name) / "log.txt"

    @property
    def artifacts(self) -> Path:
        """The folder of MLflow's artifacts."""
        return self.root / "mlartifacts"

    def sweep_names(self) -> list[str]:
        """The names of all sweeps that have started in this workspace, newest first."""
        folders = [file.parent for file in (self.root / "sweeps").glob("*/plan.json")]
        return [folder.name for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True)]

    def set_aside(self, name: str) -> Path | None:
        """Rename the folder of a sweep so that its name is free.

        Returns the new folder, or None if there was none. The sweep keeps the name of its study, so
        that `sweep status` and `sweep clean` still find the study.
        """
        folder = self.sweep_folder(name)
        if not folder.exists():
            return None
        self.set_study_name(name, self.study_name(name))
        number = 1
        while (aside := folder.with_name(f"{name}.{number}")).exists():
            number += 1
        return folder.rename(aside)

    def is_locked(self, name: str) -> bool:
        """Return whether a process on this machine is running the sweep."""
        try:
            with (self.sweep_folder(name) / "lock").open("r") as lock_file:
                fcntl.flock(lock_file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Reserve the sweep for this process, and create its folder.

        Raises SweepError if another process holds the lock or the folder is not writable.
        """
        folder = self.sweep_folder(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock_file = (folder / "lock").open("a+")
        except OSError as error:
            hint = "free some disk space, or choose another folder with --root"
            raise SweepError(f"cannot write to {folder}: {error.strerror}", hint) from error
        with lock_file:
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock_file.seek(0)
                holder = lock_file.read().strip() or "unknown"
                hint = "wait for it, stop it, or give this sweep another `name:`"
                raise SweepError(f"sweep `{name}` is already running in process {holder}", hint) from None
            lock_file.truncate(0)
            lock_file.write(str(os.getpid()))
            lock_file.flush()
            yield
