"""The text of a sweep file: a regular file or a pipe, of moderate size, in UTF-8."""

from __future__ import annotations

import codecs
from pathlib import Path

from backends.file_kind import is_shell_stream, kind_of
from sweeps.errors import Problem, UserInputError

MAX_BYTES = 2**18
"""The largest sweep file. A long one has some kilobytes; PyYAML reads about 50 KB per second."""

_OTHER_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read_text(path: Path) -> str:
    """Return the text of a sweep file, without a byte order mark.

    Reads from a pipe only if the shell writes it, because any other pipe could block for ever.
    Raises UserInputError if the file is missing, unreadable, too large, or not UTF-8.
    """
    name = str(path)
    try:
        kind = kind_of(path)
        if kind != "a file" and not (kind in ("a pipe", "a device") and is_shell_stream(path)):
            raise _problem(name, f"is {kind}, not a file", "name a sweep file; `sweep init` writes a first one")
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        nearby = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"files in {path.parent}/: {', '.join(nearby)}" if nearby else "`sweep init` writes a first one"
        raise _problem(name, "no such file", hint) from None
    except OSError as error:
        raise _problem(name, f"cannot be read: {error.strerror or error}", "check its permissions") from None
    if len(content) > MAX_BYTES:
        raise _problem(
            name, f"is larger than {MAX_BYTES // 1024} KiB", "put the examples into a file that `data.source` names"
        )
    for mark, encoding in _OTHER_ENCODINGS:
        if content.startswith(mark):
            raise _problem(name, f"is {encoding} text", "save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise _problem(f"{name}:{line}", f"the byte 0x{byte:02x} is not UTF-8", "save the file as UTF-8") from None


def _problem(place: str, message: str, hint: str) -> UserInputError:
    return UserInputError([Problem(place, message, hint)])
