"""What the runs of a workspace have left behind: processes, and the files of programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from backends.cleanup import ORPHANS, Leftover
from backends.command import supervisor
from backends.command.run_folder import RunFolder
from backends.contract import Finished, Stopped

PROGRAM, OUTPUT = "running program", "output"


def of_runs(programs: Path) -> list[Leftover]:
    """Return the processes of each run before its files."""
    return [leftover for run in _runs(programs) for leftover in _of_run(run)]


def remove(programs: Path, leftover: Leftover) -> str:
    """End the processes of a run, or delete its files. Return why they stay, or an empty string."""
    run = next((run for run in _runs(programs) if str(run.path) == leftover.name), None)
    if run is None:
        return ""
    if leftover.kind == PROGRAM:
        run.request_stop()
    if left := supervisor.end_processes(run.path, 0.0):
        return f"process {left[0].pid} cannot be ended"
    if leftover.kind == OUTPUT:
        run.delete_output()
    return ""


def _runs(programs: Path) -> Iterator[RunFolder]:
    """Yield the runs, and their parts that ran as other nodes of a trial."""
    for request in sorted((*programs.glob("*/request.json"), *programs.glob("node-*/*/request.json"))):
        yield RunFolder(request.parent.parent, request.parent.name)


def _of_run(run: RunFolder) -> Iterator[Leftover]:
    key, name = run.request().key, str(run.path)
    if run.is_supervised:
        yield Leftover(PROGRAM, name, key)
    elif supervisor.processes_of(run.path):
        yield Leftover(ORPHANS, name, key)
    size_bytes = run.size_bytes()
    if size_bytes:
        last = run.events()[-1] if run.events() else None
        model = last.model if isinstance(last, Finished | Stopped) else None
        yield Leftover(OUTPUT, name, key, model, size_bytes)
