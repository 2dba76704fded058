"""Watches a Ray that is starting, so that its death ends the command in one sentence.

Ray's own code would wait for its head as long as for that of a cluster, for an hour.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeps.execution import ray_processes

LOOK_EVERY_S = 1.0

LOST_LOOKS = 10
"""The head is gone after this many looks in a row without it. Between two attempts to start Ray
there is none for a moment."""

HEAD = "gcs_server"


@contextmanager
def ends_without_head(say: Callable[[str], None], clean_up: Callable[[], None]) -> Iterator[None]:
    """End this process with exit code 1 if the head that it starts in the block dies.

    The main thread cannot leave Ray's code. `clean_up` removes the files of this Ray; its processes
    are ended before.
    """
    is_ready = threading.Event()

    def watch() -> None:
        had_head, misses = False, 0
        while not is_ready.wait(LOOK_EVERY_S):
            children = ray_processes.descendants(os.getpid())
            heads = [process for process in children if _is_head(process.pid)]
            had_head = had_head or bool(heads)
            misses = 0 if any(head.is_alive for head in heads) or not had_head else misses + 1
            if misses >= LOST_LOOKS:
                say("error: the head process of Ray died while Ray started\n  Run the same command again.")
                ray_processes.end(children)
                clean_up()
                os._exit(1)

    threading.Thread(target=watch, name="ray-start", daemon=True).start()
    try:
        yield
    finally:
        is_ready.set()


def _is_head(pid: int) -> bool:
    """Return whether a process is the head, or a zombie that was."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip() == HEAD
    except OSError:
        return False
