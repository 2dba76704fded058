"""Messages to the person who waits for a call that takes long.

The command line registers a listener. Without one, as in a worker or a test, messages are dropped.
"""

from __future__ import annotations

from collections.abc import Callable

_listeners: list[Callable[[str], None]] = []


def listen(listener: Callable[[str], None]) -> None:
    """Pass all messages of this process to `listener` from now on, and to no other."""
    _listeners[:] = [listener]


def notice(text: str) -> None:
    """Tell why a call takes long."""
    for listener in _listeners:
        listener(text)
