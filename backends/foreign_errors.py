"""Words for an exception that is not ours: its type, its message and its place, in one line.

Works for every exception: also for one whose `__str__` fails, and for one that ends a process.
"""

from __future__ import annotations

import dis
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from backends import credentials

SHOWN_CHARACTERS = 300
"""A longer message of an exception is cut. Its traceback has all of it."""

_RAISE = dis.opmap["RAISE_VARARGS"]


def in_one_line(error: BaseException, source: type | None = None) -> str:
    """Return `Type: message (file.py:12)` without secrets.

    The place is the last line that ran in the package of `source`, else the line that raised.
    """
    message = credentials.masked(" ".join(_message(error).split()))
    if len(message) > SHOWN_CHARACTERS:
        message = message[:SHOWN_CHARACTERS].rstrip() + " ..."
    place = _place(error, source)
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"{text} ({place})" if place else text


def full_text(error: BaseException) -> str:
    """Return the traceback with all causes, without secrets."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as secondary:  # noqa: BLE001  an exception of others can fail in each method
        text = f"{type(error).__name__}, whose traceback cannot be written: {type(secondary).__name__}"
    return credentials.masked(text)


def is_signal(error: BaseException) -> bool:
    """Return whether a signal to this process raised the error, and not the code that ran then.

    Ctrl-C raises KeyboardInterrupt between two instructions, without a `raise`. A signal handler
    raises from its own frame.
    """
    if isinstance(error, GeneratorExit):
        return True
    if not isinstance(error, KeyboardInterrupt | SystemExit):
        return False
    innermost = _innermost(error.__traceback__)
    if innermost is None:
        return True
    module = str(innermost.tb_frame.f_globals.get("__name__", ""))
    if module.split(".", maxsplit=1)[0] in ("ray", "sweeps", "asyncio", "signal"):
        return True
    if isinstance(error, SystemExit):
        return False
    return innermost.tb_frame.f_code.co_code[innermost.tb_lasti] != _RAISE


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as secondary:  # noqa: BLE001  as in `full_text`
        return f"its message is unreadable, because its __str__ raised {type(secondary).__name__}"


def _place(error: BaseException, source: type | None) -> str:
    frames = list(_frames(error.__traceback__))
    if not frames:
        return ""
    root = _root_of(source)
    inside = [frame for frame in frames if root is not None and frame[0].is_relative_to(root)]
    file, line = (inside or frames)[-1]
    base = root if inside and root is not None else file
    shown = file.relative_to(base.parent) if base != file else Path(file.name)
    return f"{shown}:{line}"


def _frames(found: TracebackType | None) -> Iterator[tuple[Path, int]]:
    while found is not None:
        if found.tb_lineno is not None:
            yield Path(found.tb_frame.f_code.co_filename), found.tb_lineno
        found = found.tb_next


def _innermost(found: TracebackType | None) -> TracebackType | None:
    while found is not None and found.tb_next is not None:
        found = found.tb_next
    return found


def _root_of(source: type | None) -> Path | None:
    """Return the folder of the top package that defines `source`, or its file if it is a module."""
    if source is None:
        return None
    package = sys.modules.get(source.__module__.split(".")[0])
    file = getattr(package, "__file__", None)
    if package is None or file is None:
        return None
    return Path(file).parent if inspect.ismodule(package) and hasattr(package, "__path__") else Path(file)
