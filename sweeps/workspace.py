"""The workspace: the folder that holds every file of every sweep, `.sweep/` by default."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from sweeps.errors import SweepError

DEFAULT_ROOT = ".sweep"
"""The workspace if neither an option nor SWEEP_ROOT names one."""


@dataclass(frozen=True)
class RunCommand:
    """What was typed to run a sweep: the folder, the sweep file, and the options."""

    folder: str
    file: str
    overrides: tuple[str, ...] = ()
    data: str | None = None
    address: str | None = None
    strict: bool = False
    accepted: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = ["sweep", "run", self.file, *(["--strict"] if self.strict else [])]
        for code in self.accepted:
            words += ["--accept", code]
        for option, value in (("--data", self.data), ("--address", self.address)):
            words += [option, value] if value is not None else []
        for override in self.overrides:
            words += ["--set", override]
        return shlex.join(words)


@dataclass(frozen=True)
class Workspace:
    """A root folder with this content:

    - `data/`: prepared data sets
    - `mlflow.db` with its lock, and `mlartifacts/`: MLflow
    - `sweeps/<name>/`: one sweep, with `study.journal`, `jobs/` (the runs of the backend),
      `sweep.yaml` and `plan.json` of its last run, `report.html`, `data-report.html`, and `log.txt`
      (log messages of libraries). Its process keeps `lock`, `command.json` (for `sweep resume`),
      `mlflow.json` (what MLflow was sent) and `ray.json` (the processes of its Ray).
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
        write_text(self.sweep_folder(name) / "study-name", study_name)

    def files_url_file(self, name: str) -> Path:
        """The file that stores the URL of a sweep's store for files, if it has one."""
        return self.sweep_folder(name) / "files-url"

    def last_command(self, name: str) -> RunCommand | None:
        """Return the last `sweep run` command of a sweep; None if there was none."""
        try:
            stored = json.loads((self.sweep_folder(name) / "command.json").read_text(encoding="utf-8"))
            lists = {name: tuple(stored.get(name, ())) for name in ("overrides", "accepted")}
            return RunCommand(**{**stored, **lists})
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def store_command(self, name: str, command: RunCommand) -> None:
        """Remember the command that runs a sweep. The caller holds its lock."""
        write_text(self.sweep_folder(name) / "command.json", json.dumps(asdict(command)))

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

    def is_study_name_taken(self, name: str) -> bool:
        """Return whether a sweep that was set aside keeps the study of this name.

        The new sweep of the name must then choose another; see `set_study_name`.
        """
        asides = (self.root / "sweeps").glob(f"{glob.escape(name)}.*/study-name")
        own = (self.sweep_folder(name) / "study-name").exists()
        return not own and any(file.read_text(encoding="utf-8").strip() == name for file in asides)

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
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock_file = (folder / "lock").open("a+")
            except FileNotFoundError:
                continue  # another process has just set the folder aside
            except OSError as error:
                hint = "free some disk space, or choose another folder with --root"
                raise SweepError(f"cannot write to {folder}: {error.strerror}", hint) from error
            with lock_file:
                try:
                    fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    lock_file.seek(0)
                    holder = lock_file.read().strip() or "unknown"
                    hint = f"wait for it, stop it with `sweep stop {name}`, or give this sweep another `name:`"
                    raise SweepError(f"sweep `{name}` is already running in process {holder}", hint) from None
                if not _is_at(lock_file.fileno(), folder / "lock"):
                    continue  # the folder was set aside before this process held the lock
                lock_file.truncate(0)
                lock_file.write(str(os.getpid()))
                lock_file.flush()
                yield
                return

    @contextlib.contextmanager
    def lock_afresh(self, name: str) -> Iterator[Path | None]:
        """Reserve the sweep for this process, in a new folder.

        Renames the folder of an earlier sweep, so that its name is free, and yields the renamed
        folder; None if there was none. That sweep keeps the name of its study, so that `sweep
        status` and `sweep clean` still find it. Raises the errors of `lock`, and changes nothing if
        the earlier sweep is running.
        """
        with contextlib.ExitStack() as earlier, contextlib.ExitStack() as lock:
            aside = None
            if self.sweep_folder(name).exists():
                earlier.enter_context(self.lock(name))
                aside = self._set_aside(name)
            lock.enter_context(self.lock(name))
            earlier.close()
            yield aside

    def _set_aside(self, name: str) -> Path:
        folder = self.sweep_folder(name)
        self.set_study_name(name, self.study_name(name))
        number = 1
        while (aside := folder.with_name(f"{name}.{number}")).exists():
            number += 1
        return folder.rename(aside)


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole: a reader sees the earlier content or the new one. Raises OSError.

    Removes the drafts that processes that were killed have left in the folder.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    for other in path.parent.glob(".*.draft"):
        if other != draft:
            remove_if_abandoned(other)
    try:
        while True:
            with draft.open("a") as mark:
                fcntl.flock(mark, fcntl.LOCK_EX)
                if not _is_at(mark.fileno(), draft):
                    continue  # another process took it for abandoned before it was locked
                draft.write_text(text, encoding="utf-8")
                draft.replace(path)
                return
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def remove_if_abandoned(draft: Path) -> None:
    """Remove the draft of a file or folder, unless a living process holds a lock on it.

    The kernel ends the lock of a process that dies.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(draft, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(descriptor, draft):
                return  # its process has finished it, and may write another one there
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                draft.unlink()
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
