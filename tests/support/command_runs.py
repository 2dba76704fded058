"""Runs of the command backend with the gated trainer, and the processes that they have.

`python command_runs.py WORKSPACE OPTIONS KEY` is a worker: it submits the run and follows it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.command import CommandBackend
from backends.command.options import CommandOptions
from backends.contract import (
    TERMINAL_EVENTS,
    DataFile,
    Dataset,
    EvaluationSettings,
    Event,
    Handle,
    Measured,
    Placement,
    TrainingRequest,
)

TRAINER = Path(__file__).parent / "programs" / "gated_trainer.py"
TIMEOUT_S = 120.0
EPOCHS = 3


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until the condition holds. Raises AssertionError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.02)


@dataclass(frozen=True)
class GatedRun:
    """One run of the gated trainer in `folder`, which also has the gates."""

    folder: Path
    options: Mapping[str, Any]
    key: str = "trial"

    @property
    def workspace(self) -> Path:
        """The workspace of the backend."""
        return self.folder / "workspace"

    @property
    def run_folder(self) -> Path:
        """The folder of the run."""
        return self.workspace / "programs" / self.key

    # --------------------------------------------------------------------------------- the backend
    @contextlib.contextmanager
    def opened(self) -> Iterator[CommandBackend]:
        """Open the backend as a sweep does."""
        options = CommandOptions.model_validate(self.options)
        backend = CommandBackend.open(options, self.workspace, Placement())
        yield backend
        backend.close()

    def request(self) -> TrainingRequest:
        """Return the request of the run."""
        nothing = DataFile("", 0, "")
        values = {"learning_rate": 0.1, "n_epochs": EPOCHS}
        data = Dataset(nothing, nothing, "completion")
        return TrainingRequest(self.key, "", data, values, 0, EvaluationSettings(keep_metric="valid_loss"))

    def submitted(self, backend: CommandBackend) -> Handle:
        """Submit the run, or adopt it."""
        return backend.submit(self.request())

    def finish(self) -> list[Event]:
        """Submit or adopt the run as a new worker, and follow it to its end."""
        with self.opened() as backend:
            return drained(backend, self.submitted(backend))

    # ----------------------------------------------------------------------------------- the gates
    def has_reached(self, phase: str) -> bool:
        """Whether the program waits at its gate."""
        return (self.folder / f"{phase}.reached").exists()

    def open_gate(self, phase: str) -> None:
        """Let every program pass this gate from now on."""
        (self.folder / f"open-{phase}").touch()

    @property
    def starts(self) -> list[dict[str, Any]]:
        """The starts of the program: its process and the epoch from which it went on."""
        file = self.folder / "starts.txt"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    # ------------------------------------------------------------------------------- the processes
    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a process that submits the run and follows it."""
        command = [sys.executable, __file__, str(self.folder), json.dumps(dict(self.options)), self.key]
        root = str(Path(__file__).parents[2])
        with (self.folder / "worker.txt").open("ab") as output:
            return subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": root}, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def supervisors(self) -> list[int]:
        """The processes that watch the program."""
        return [pid for pid, line in self._commands() if "supervisor.py" in line and str(self.run_folder) in line]

    @property
    def processes(self) -> list[int]:
        """All processes of the run: the supervisor, the program, and what it has started.

        They are found by the folder in their command line, their environment or their output, and
        by the parents of these.
        """
        parents = {pid: _parent(pid) for pid in _pids()}
        found = {pid for pid, line in self._commands() if str(self.run_folder) in line}
        found |= {pid for pid in parents if self._has_sign(pid)}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(pid for pid in found if _state(pid) not in ("Z", "X", "") and pid != os.getpid())

    def _commands(self) -> Iterator[tuple[int, str]]:
        for pid in _pids():
            with contextlib.suppress(OSError):
                yield pid, Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")

    def _has_sign(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            if str(self.run_folder).encode() in Path(f"/proc/{pid}/environ").read_bytes():
                return True
            return os.readlink(f"/proc/{pid}/fd/1") == str(self.run_folder / "output.log")
        return False

    def end_all(self) -> None:
        """Kill whatever is left of the run."""
        while left := self.processes:
            for pid in left:
                kill(pid)
            time.sleep(0.02)


def run_in(folder: Path, behaviour: str = "good", gate: str = "", **options: Any) -> GatedRun:
    """Return a run of the gated trainer that waits at `gate`. `options` replace others."""
    arguments = f"--behaviour {behaviour} --gates {folder} --gate '{gate}' --output {{output}} --seed {{seed}}"
    written = {
        "run": f"{sys.executable} -S -E {TRAINER} --lr {{learning_rate}} --epochs {{n_epochs}} {arguments}",
        "metrics": ["output"],
        "checkpoints": "{output}/checkpoint-*",
        "resume": "--resume {checkpoint}",
        "hyperparameters": {
            "learning_rate": {"low": 1e-6, "high": 1.0, "log": True},
            "n_epochs": {"type": "int", "low": 1, "high": 100},
        },
        "grace_s": 1.0,
        "abandoned_after_s": 60.0,
    }
    merged = {**written, **options}
    return GatedRun(folder, {name: value for name, value in merged.items() if value is not None})


def drained(backend: CommandBackend, handle: Handle, timeout_s: float = TIMEOUT_S) -> list[Event]:
    """Follow a run to its end, and return its events. No event may ever change or vanish."""
    events: list[Event] = []
    deadline = time.monotonic() + timeout_s
    while not (events and isinstance(events[-1], TERMINAL_EVENTS)):
        assert time.monotonic() < deadline, f"the run did not end within {timeout_s:.0f} s: {events}"
        now = list(backend.events(handle, 0))
        assert repr(now[: len(events)]) == repr(events), "events are a prefix of later ones"
        events = now
        time.sleep(0.05)
    return events


def epochs_of(events: Sequence[Event]) -> list[float]:
    """Return the epochs of the evaluations."""
    return [event.epoch for event in events if isinstance(event, Measured) and event.scope == "evaluation"]


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _pids() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _state(pid: int) -> str:
    fields = _stat(pid)
    return fields[0] if fields else ""


def main() -> None:
    """Submit a run and follow it to its end."""
    run = GatedRun(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])
    run.finish()


if __name__ == "__main__":
    main()
