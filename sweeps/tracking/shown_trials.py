"""The set of trials whose end MLflow shows, as text that fits into a tag."""

from __future__ import annotations

import base64
import binascii
import zlib

MAX_CHARS = 7900
"""Less than MLflow's limit for a tag. Enough for 47,000 trials of which any may be missing, and for
millions without gaps."""


class ShownTrials:
    """A set of trial numbers.

    A resumed sweep reads it from one tag, instead of asking MLflow for every trial.
    """

    def __init__(self, text: str = "") -> None:
        """Read `text`. A text that is none of ours counts as the empty set: all is shown again."""
        self._bits = bytearray()
        try:
            self._bits += zlib.decompress(base64.b64decode(text, validate=True)) if text else b""
        except (binascii.Error, zlib.error, ValueError):
            self._bits.clear()

    def __contains__(self, number: int) -> bool:
        byte, bit = divmod(number, 8)
        return byte < len(self._bits) and bool(self._bits[byte] & 1 << bit)

    def add(self, number: int) -> None:
        """Add the number of a trial."""
        byte, bit = divmod(number, 8)
        self._bits.extend(bytes(max(0, byte + 1 - len(self._bits))))
        self._bits[byte] |= 1 << bit

    def remove(self, number: int) -> None:
        """Remove the number of a trial, if it is there."""
        if number in self:
            byte, bit = divmod(number, 8)
            self._bits[byte] &= ~(1 << bit)

    @property
    def text(self) -> str:
        """The set as text. Empty for the empty set.

        If it is too long, the highest numbers are left out.
        """
        bits = bytes(self._bits)
        if not any(bits):
            return ""
        while len(text := base64.b64encode(zlib.compress(bits, 6)).decode()) > MAX_CHARS:
            bits = bits[: len(bits) * 9 // 10]
        return text
