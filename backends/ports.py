"""Free ports for processes that train together, from a range that the kernel does not hand out."""

from __future__ import annotations

import random
import socket
from collections.abc import Container

PORTS = range(20_000, 30_000)
"""Outgoing connections get ports from 32768 on (Linux), so none of these is taken by chance."""


def free_port(taken: Container[int] = ()) -> int | None:
    """Return a port that no process of this machine listens on, and that is not `taken`; or None.

    The choice is random, so that two callers at the same time seldom get the same port.
    """
    for port in random.sample(PORTS, len(PORTS)):
        if port not in taken and _is_free(port):
            return port
    return None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
