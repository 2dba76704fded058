"""Lets the kernel end a process of this computer for lack of memory: a cgroup with a tiny limit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_LIMIT_BYTES = 0


def _parent() -> tuple[Path, str] | None:
    """Return where a group can be made, and the file of its limit; None if nowhere."""
    if (_GROUPS / "memory" / "memory.limit_in_bytes").exists():
        return _GROUPS / "memory", "memory.limit_in_bytes"
    enabled = _GROUPS / "cgroup.subtree_control"
    if enabled.exists() and "memory" in enabled.read_text().split():
        return _GROUPS, "memory.max"
    return None


def missing() -> str | None:
    """Return why the kernel cannot be made to do this here, or None if it can."""
    if _parent() is None:
        return "this computer has no memory cgroups"
    try:
        with _group():
            return None
    except OSError as error:
        return f"this process may make no memory cgroup: {error.strerror}"


@contextlib.contextmanager
def _group() -> Iterator[Path]:
    found = _parent()
    assert found is not None
    parent, limit = found
    group = parent / f"finesweep-test-{time.monotonic_ns()}"
    group.mkdir()
    try:
        (group / limit).write_text(str(_LIMIT_BYTES))
        if (swap := group / "memory.swap.max").exists():
            swap.write_text("0")
        yield group
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    for process in (group / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):
            (group.parent / "cgroup.procs").write_text(process)
    give_up_at = time.monotonic() + 30
    while True:
        try:
            group.rmdir()
            return
        except OSError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def starved(process: int) -> Iterator[None]:
    """Give a process no more memory than it has.

    The kernel ends it at one of its next allocations. What it occupies already does not count.
    """
    with _group() as group:
        (group / "cgroup.procs").write_text(str(process))
        yield
