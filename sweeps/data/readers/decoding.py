"""Bytes -> lines of text: recognises the encoding, and finds what is not text."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from sweeps.data.findings import Finding, error, quoted
from sweeps.data.readers.damage import FileFaultError

LINE_LIMIT = 2**26
"""The most characters in one line: 64 Mi. A longer one is a file without line breaks."""

_BLOCK_BYTES = 2**20
_SNIFFED_BYTES = 4096
_UTF_8_NAMES = ("utf-8", "utf8", "utf_8", "u8", "utf-8-sig", "utf_8_sig")

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_OTHER_FORMATS = (
    (b"\x1f\x8b", "gzip data", "let its name end in .gz"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "let its name end in .zip or .xlsx"),
    (b"PAR1", "a Parquet file", "let its name end in .parquet"),
    (b"ARROW1", "an Arrow file", "let its name end in .arrow"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)", "save it as .xlsx or .csv"),
    (b"%PDF", "a PDF document", "export the table as .csv"),
    (b"version https://git-lfs", "a Git LFS pointer, not the data", "run: git lfs pull"),
)
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE)

_NOT_WESTERN = re.compile(
    # Three letters in a row that are not ASCII, or a sign in a word: another alphabet.
    r"[ŒœŠšŽžŸÀ-ÖØ-öø-ÿ]{3}|[A-Za-zÀ-ÿ][ƒ†‡ˆ¡¢¤¥¦¨©ª¬®¯±²³µ¶¸¹º¼½¾¿][A-Za-zÀ-ÿ]"
)
_BY_CHANCE = 20
"""In a Windows-1252 file, one line in so many may be valid UTF-8 by chance."""

_CLEAR_SHARE = 0.9
"""Windows-1252 is assumed if at least this share of the lines that are not UTF-8 look like it."""


def is_utf8(text: str) -> bool:
    """Return whether UTF-8 can encode the text. It cannot encode unpaired surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class DecodedText:
    """The text of a stream, in blocks of whole lines.

    With `encoding` utf-8, the default, UTF-16 and UTF-32 are recognised at the beginning, and
    Windows-1252 where UTF-8 first fails; a byte order mark is removed. Once `suspicious` is true,
    the caller passes each piece of text through `mended`, which counts for `findings` what is not
    text. Memory does not grow with the file.
    """

    def __init__(self, stream: io.BufferedReader, encoding: str = "utf-8") -> None:
        self._stream = stream
        self._first = stream.read(_SNIFFED_BYTES)
        _check_format(self._first)
        self._is_utf8 = encoding.lower() in _UTF_8_NAMES
        self.encoding = (_recognised(self._first) or "utf-8") if self._is_utf8 else encoding
        self._is_utf8 = self.encoding == "utf-8"
        if self._is_utf8:
            self._first = self._first.removeprefix(codecs.BOM_UTF8) or stream.read(_SNIFFED_BYTES)
        self.suspicious = False
        self._has_utf8 = False
        self._undecodable: list[int] = []
        self._undecodable_count = 0
        self._utf8_count = 0
        self._western = 0
        self._zero_bytes = 0
        self._first_zero_byte = 0
        self._sample = b""

    def lines(self) -> Iterator[str]:
        """Return an iterator over the lines with their line ends, as they stand in the file."""
        return chain.from_iterable(split_lines(block) for block in self.blocks())

    def blocks(self) -> Iterator[str]:
        """Yield the text in blocks that end at the end of a line.

        Raises FileFaultError for a line above `LINE_LIMIT`, UnicodeError where the encoding that
        the user set cannot be continued.
        """
        decoder = codecs.getincrementaldecoder(self.encoding)("strict")
        carried: list[str] = []
        carried_size = 0
        block = self._first
        self._first = b""
        while block:
            text, decoder = self._decode(block, decoder, final=False)
            end = text.rfind("\n") + 1 or text.rfind("\r", 0, -1) + 1
            if end:
                yield "".join([*carried, text[:end]])
                carried, carried_size = [], 0
                text = text[end:]
            if text:
                carried.append(text)
                carried_size += len(text)
            if carried_size > LINE_LIMIT:
                message = f"a line has more than {LINE_LIMIT:,} characters; the rest of the file is not read"
                raise FileFaultError("long-line", message, "write one record per line")
            block = self._stream.read1(_BLOCK_BYTES)
        text, decoder = self._decode(b"", decoder, final=True)
        if rest := "".join([*carried, text]):
            yield rest

    def _decode(
        self, block: bytes, decoder: codecs.IncrementalDecoder, final: bool
    ) -> tuple[str, codecs.IncrementalDecoder]:
        state = decoder.getstate()
        try:
            text = decoder.decode(block, final)
        except UnicodeDecodeError:
            decoder = codecs.getincrementaldecoder(self.encoding)("surrogateescape")
            decoder.setstate(state)
            text = decoder.decode(block, final)
            self.suspicious = True
        else:
            self._has_utf8 = self._has_utf8 or not (self.suspicious or text.isascii())
        if "\0" in text:
            self.suspicious = True
        return text, decoder

    def mended(self, cells: Sequence[str], line: int) -> list[str] | None:
        """Return the texts of one record as they were meant, or None if that is unknown.

        `line` is where the record begins.
        """
        joined = "\n".join(cells)
        if "\0" in joined:
            self._zero_bytes += 1
            self._first_zero_byte = self._first_zero_byte or line
            return None
        if joined.isascii():
            return list(cells)
        if is_utf8(joined):
            if self._is_utf8 and not self._has_utf8 and self._undecodable_count > self._utf8_count * _BY_CHANCE + 10:
                return [cell.encode("utf-8").decode("cp1252", "replace") for cell in cells]
            self._utf8_count += 1
            return list(cells)
        self._undecodable_count += 1
        if len(self._undecodable) < 10:
            self._undecodable.append(line)
        self._sample = self._sample or joined.encode(self._codec(), "surrogateescape")
        if not self._is_utf8:
            return None
        try:
            western = [cell.encode("utf-8", "surrogateescape").decode("cp1252") for cell in cells]
        except UnicodeError:
            return None
        if any(not character.isascii() and not "\udc80" <= character <= "\udcff" for character in joined):
            self._utf8_count += 1
        self._western += not _NOT_WESTERN.search("\n".join(western))
        return western

    def findings(self, file: str) -> Iterator[Finding]:
        """Yield what is wrong with the encoding, after the last record."""
        if self._zero_bytes:
            message = f"{self._zero_bytes:,} records contain zero bytes, which are not text"
            hint = "copy the file again, or set its encoding, e.g. encoding: utf-16"
            yield error("zero-bytes", f"{file}:{self._first_zero_byte}", message, hint, self._zero_bytes)
        if not self._undecodable:
            return
        count = self._undecodable_count
        place = f"{file}:{self._undecodable[0]}"
        places = tuple(f"{file}:{line}" for line in self._undecodable)
        sample = quoted(self._around(self._sample, "cp1252"))
        is_mixed = self._has_utf8 or self._utf8_count * _BY_CHANCE > count
        if self._is_utf8 and not is_mixed and self._western >= _CLEAR_SHARE * count:
            message = f"the file is not UTF-8; it was read as Windows-1252 ({count:,} lines, this one has {sample})"
            hint = "if that is wrong, set encoding; if it is right, encoding: cp1252 ends this warning"
            yield Finding("warning", "encoding", message, place, hint, count, places)
            return
        more = f", nor {'is 1 other line' if count == 2 else f'are {count - 1:,} other lines'}" if count > 1 else ""
        name = "utf-8" if self._is_utf8 else self.encoding
        if self._is_utf8 and is_mixed:
            hint = f"most of the file is UTF-8: correct these lines (this one has {sample}), or set encoding"
        else:
            hint = f"set encoding: {self._guess()}"
        yield Finding("error", "encoding", f"the line is not {name} text{more}", place, hint, count, places)

    def _codec(self) -> str:
        return "utf-8" if self._is_utf8 else "latin-1"

    def _guess(self) -> str:
        """Return an encoding in which the bytes of the sample are valid, cp1252 before latin-1."""
        for candidate in ("utf-8", "cp1252"):
            try:
                self._sample.decode(candidate)
            except UnicodeDecodeError:
                continue
            return candidate
        return "latin-1"

    @staticmethod
    def _around(sample: bytes, encoding: str) -> str:
        """Return the text around the first byte that is not ASCII."""
        at = next((number for number, byte in enumerate(sample) if byte > 127), 0)
        return " ".join(sample[max(0, at - 12) : at + 16].decode(encoding, "replace").split())


def split_lines(text: str) -> Iterable[str]:
    """Split at line feeds and carriage returns only; `str.splitlines` has more line ends."""
    return io.StringIO(text, newline="")


def _recognised(start: bytes) -> str | None:
    """Return the encoding that the first bytes prove, or None."""
    for mark, encoding in _MARKS:
        if start.startswith(mark):
            return encoding
    pairs = len(start) // 2
    if pairs < 2:
        return None
    even, odd = start[0 : 2 * pairs : 2].count(0), start[1 : 2 * pairs : 2].count(0)
    if odd > 0.7 * pairs and not even:
        return "utf-16-le"
    if even > 0.7 * pairs and not odd:
        return "utf-16-be"
    return None


def _check_format(start: bytes) -> None:
    """Raise FileFaultError if the bytes are of another format than a text file."""
    for magic, name, hint in _OTHER_FORMATS:
        if start.startswith(magic):
            raise FileFaultError("format", f"the file is {name}", hint)
    if _WEB_PAGE.match(start):
        raise FileFaultError("format", "the file is a web page, not the data", "download the file itself")
