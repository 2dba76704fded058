"""What lies at a path: only a regular file can be read twice, and never blocks."""

from __future__ import annotations

import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

_SHELL_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


def is_shell_stream(path: Path) -> bool:
    """Return whether the shell writes into this pipe, as in `sweep fit <(program)`.

    Any other pipe could block for ever.
    """
    return str(path).startswith(_SHELL_STREAMS)


def kind_of(path: Path) -> str:
    """Return `a file`, `a directory`, `a pipe`, `a socket` or `a device`; follows links.

    Opens nothing. Raises OSError if there is nothing at the path or it cannot be looked at, also
    for a path that no file system accepts.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # such as a zero byte in the path
        raise OSError(str(error)) from None
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a file")
