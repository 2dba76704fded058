"""Compressed files: gzip, and zip archives with data files in them."""

from __future__ import annotations

import gzip
import io
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection
from functools import partial
from pathlib import PurePosixPath
from typing import cast

from sweeps.data.readers.damage import FileFaultError
from sweeps.data.readers.input_file import Inflated, InputFile

_PASSWORD_BIT = 0x1
_BUFFER_BYTES = 2**20
_UNKNOWN_SIZE = 2**30

DAMAGE: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)
"""What reading a damaged archive raises."""

UNREADABLE: tuple[type[Exception], ...] = (*DAMAGE, NotImplementedError, UnicodeError, ValueError)
"""What opening an archive raises that is damaged, or of a kind that Python cannot read."""

_WRONG_MEMBER: tuple[type[Exception], ...] = (*UNREADABLE, OSError, RuntimeError, KeyError)
"""The same for a member; an OSError is a wrong position in the archive."""


def gunzipped(opens: Callable[[], io.BufferedReader]) -> io.BufferedReader:
    """Open the content of a gzip stream."""
    stream = opens()
    try:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
    except (OSError, io.UnsupportedOperation):
        size = _UNKNOWN_SIZE
    inner = gzip.GzipFile(fileobj=stream, mode="rb")
    return io.BufferedReader(Inflated(inner, size, _too_large, (stream,)), _BUFFER_BYTES)


def members(archive: InputFile, is_data: Callable[[str], bool]) -> list[InputFile]:
    """Return the data files in a zip archive, in order of name.

    What systems and people add to archives (`__MACOSX`, hidden files, a README) is left out.
    Raises FileFaultError if it cannot be read, OSError as opening does.
    """
    try:
        with _open_seekable(archive) as stream, zipfile.ZipFile(stream) as opened:
            found = [info for info in opened.infolist() if _is_visible(info.filename) and is_data(info.filename)]
    except UNREADABLE as damage:
        hint = "copy the file again; its name must end as its format says"
        raise FileFaultError("archive", f"not a zip archive that can be read: {damage}", hint) from None
    if any(info.flag_bits & _PASSWORD_BIT for info in found):
        raise FileFaultError("archive", "the zip archive has a password", "unpack it, and name the unpacked file")
    return [
        InputFile(f"{archive.name}/{info.filename}", partial(_open_member, archive, info.filename))
        for info in sorted(found, key=lambda info: info.filename)
    ]


def relative_names(files: Collection[InputFile], archive: InputFile) -> dict[str, InputFile]:
    """Return the members of an archive by their names inside it."""
    return {file.name.removeprefix(f"{archive.name}/"): file for file in files}


def _open_member(archive: InputFile, name: str) -> io.BufferedReader:
    stream = _open_seekable(archive)
    try:
        opened = zipfile.ZipFile(stream)
        info = opened.getinfo(name)
        inner = cast("zipfile.ZipExtFile", opened.open(info))
    except _WRONG_MEMBER as damage:
        stream.close()
        raise FileFaultError("archive", f"{name} in the archive cannot be read: {damage}", "pack it again") from None
    inflated = Inflated(inner, info.compress_size, _too_large, (opened, stream))
    return io.BufferedReader(inflated, _BUFFER_BYTES)


def _open_seekable(archive: InputFile) -> io.BufferedReader:
    """Open an archive, or a copy of it where its bytes come only from beginning to end."""
    stream = archive.opens()
    if stream.seekable():
        return stream
    with stream:
        copy = tempfile.TemporaryFile(prefix="finesweep-")  # noqa: SIM115  # the caller closes it
        shutil.copyfileobj(stream, copy, _BUFFER_BYTES)
    copy.seek(0)
    return cast("io.BufferedReader", copy)


def _is_visible(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return not name.endswith("/") and not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _too_large(limit: int) -> FileFaultError:
    message = f"unpacks to more than {limit // 2**20:,} MiB, far more than text can: it is not read further"
    return FileFaultError("archive", message, "if the content is right, unpack it, and name the unpacked file")
