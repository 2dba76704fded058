"""How much memory this machine has. Loads no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_NO_LIMIT = 2**60
_QUERY_S = 10.0


def machine_bytes() -> int | None:
    """Return the memory of the machine, or the limit of the container; None if it is unknown."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not on every system
        return None
    texts = [path.read_text(encoding="ascii").strip() for path in _CONTAINER_LIMITS if path.is_file()]
    return min([physical, *(int(text) for text in texts if text.isdigit() and int(text) < _NO_LIMIT)])


def smallest_gpu_bytes() -> int | None:
    """Return the memory of the smallest GPU, as nvidia-smi reports it; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_QUERY_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    sizes = [int(line) * 2**20 for line in answer.stdout.split() if line.isdigit()]
    return min(sizes, default=None)
