"""The text of a log: any usual encoding, plain or compressed with gzip."""

from __future__ import annotations

import codecs
import zlib
from pathlib import Path

from backends.file_kind import is_shell_stream, kind_of
from backends.training_logs.errors import TrainingLogError

MAX_UNPACKED = 2**31
"""A compressed log may unpack to at most two gigabytes."""

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def content_of(source: Path | bytes, name: str) -> bytes:
    """Return the bytes of a log, unpacked.

    Raises TrainingLogError for a source that cannot be read or is empty.
    """
    try:
        if isinstance(source, Path) and _could_block(source):
            raise TrainingLogError(name, "this is a pipe or a device, not a file", "give a CSV or JSON file")
        content = source if isinstance(source, bytes) else source.read_bytes()
    except FileNotFoundError:
        raise TrainingLogError(name, "no such file", "give a CSV or JSON file, or mlflow:RUN_ID") from None
    except OSError as error:
        message = f"the file cannot be read: {error.strerror}"
        raise TrainingLogError(name, message, "give a file that you may read") from None
    if content.startswith(b"\x1f\x8b"):
        content = _unpacked(content, name)
    if not content.strip():
        raise TrainingLogError(name, "the file is empty")
    return content


def text_of(content: bytes, name: str) -> tuple[str, str]:
    """Return the text of a log, and its encoding if it is not UTF-8.

    Raises TrainingLogError for bytes that are no text.
    """
    encoding = next((encoding for mark, encoding in _MARKS if content.startswith(mark)), None)
    encoding = encoding or _without_mark(content[:4096])
    for candidate in (encoding, "utf-8", "cp1252"):
        if candidate is None:
            continue
        try:
            text = content.decode(candidate)
        except UnicodeDecodeError:
            continue
        if "\0" not in text and not (candidate == "cp1252" and _is_binary(text)):
            return text, "" if candidate.startswith("utf-8") else candidate
    message = "the file is neither CSV nor JSON in a known encoding"
    raise TrainingLogError(name, message, "give the log as text; models and images cannot be read")


def _could_block(path: Path) -> bool:
    return not is_shell_stream(path) and kind_of(path) in ("a pipe", "a socket", "a device")


def _unpacked(content: bytes, name: str) -> bytes:
    unpacking = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacking.decompress(content, MAX_UNPACKED)
    except zlib.error as error:
        message = f"the compressed file is damaged: {error}"
        raise TrainingLogError(name, message, "copy it again, or unpack it yourself") from None
    if not unpacking.eof:
        problem = "it is damaged, because its end is missing" if len(unpacked) < MAX_UNPACKED else "it is too large"
        raise TrainingLogError(name, f"the compressed file cannot be read: {problem}", "unpack it yourself")
    return unpacked


def _without_mark(beginning: bytes) -> str | None:
    """Recognise UTF-16 without a byte order mark: every second byte of plain text is zero."""
    if len(beginning) < 4:
        return None
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros = beginning[first::2]
        if zeros.count(0) > 0.9 * len(zeros) and beginning[1 - first :: 2].count(0) == 0:
            return encoding
    return None


def _is_binary(text: str) -> bool:
    """Return whether a text in a one-byte encoding has characters that no text has."""
    controls = sum(character < " " and character not in "\t\r\n" for character in text[:4096])
    return controls > 0
