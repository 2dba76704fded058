"""Where things lie on disk: everything that a sweep writes is below one folder, `.sweep/` by default."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweeps.errors import SweepError


@dataclass(frozen=True)
class Workspace:
    """The root folder and what is where below it.

    `data/` prepared data sets · `mlflow.db` and `mlartifacts/` · `sweeps/<name>/` one sweep: `study.journal`, `jobs/`
    (the backend's runs), `sweep.yaml` and `plan.json` as they were run, `report.html`, `log.txt` (the chatter of
    the libraries).
    """

    root: Path

    def sweep(self, name: str) -> Path:
        """The folder of the sweep of this name."""
        return self.root / "sweeps" / name

    def study(self, name: str) -> Path:
        """The journal file of a sweep's study."""
        return self.sweep(name) / "study.journal"

    def study_name(self, name: str) -> str:
        """The name of the sweep's study in its storage: the sweep's own, but for a sweep that was begun anew."""
        file = self.sweep(name) / "study-name"
        return file.read_text(encoding="utf-8").strip() if file.exists() else name

    def rename_study(self, name: str, study_name: str) -> None:
        """Make `study_name` the name of the sweep's study from now on."""
        (self.sweep(name) / "study-name").write_text(study_name, encoding="utf-8")

    def run_table(self, name: str) -> Path:
        """The file with the path, at a server of the MLflow UI, of the sweep's table of runs."""
        return self.sweep(name) / "mlflow-table"

    def report(self, name: str) -> Path:
        """The HTML report of the sweep."""
        return self.sweep(name) / "report.html"

    def log(self, name: str) -> Path:
        """The file that the libraries' own messages go to."""
        return self.sweep(name) / "log.txt"

    @property
    def artifacts(self) -> Path:
        """Where MLflow keeps its artifacts."""
        return self.root / "mlartifacts"

    def names(self) -> list[str]:
        """The names of all sweeps that have begun here, the newest first."""
        folders = [each.parent for each in (self.root / "sweeps").glob("*/plan.json")]
        return [each.name for each in sorted(folders, key=lambda each: each.stat().st_mtime, reverse=True)]

    def set_aside(self, name: str) -> Path | None:
        """Move an earlier sweep of this name out of the way. Returns where it is now, or None where there is none."""
        folder = self.sweep(name)
        if not folder.exists():
            return None
        # its study keeps its name, by which `sweep status` and `sweep clean` find it
        self.rename_study(name, self.study_name(name))
        number = 1
        while (aside := folder.with_name(f"{name}.{number}")).exists():
            number += 1
        return folder.rename(aside)

    def is_claimed(self, name: str) -> bool:
        """Return whether a process of this machine runs the sweep now."""
        try:
            with (self.sweep(name) / "lock").open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    @contextlib.contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """Hold the sweep for this process. Raises SweepError where another process holds it, or the disk refuses."""
        folder = self.sweep(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "lock").open("a+")
        except OSError as error:
            hint = "free some disk space, or give another folder with --root"
            raise SweepError(f"{folder} cannot be written: {error.strerror}", hint) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                hint = "wait for it, stop it, or give this sweep another `name:`"
                raise SweepError(f"sweep `{name}` is being run by process {holder}", hint) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield
