"""The texts of a part as numbers, so that comparing a million examples needs little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from sweeps.data.examples import Example

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.uint64]


@dataclass(frozen=True)
class TextDigests:
    """64-bit digests of the prompts, and of the prompts with their completions, by example.

    Equal texts have equal digests. A million different texts have two equal ones with a probability
    of 3e-8.
    """

    prompts: Numbers
    examples: Numbers


def text_digests(examples: Iterable[Example]) -> TextDigests:
    """Read the examples once, and return their digests."""
    import numpy as np

    prompts, both = array("Q"), array("Q")
    for example in examples:
        prompts.append(digest(example.prompt))
        both.append(digest(f"{example.prompt}\0{example.completion}"))
    return TextDigests(np.array(prompts, dtype=np.uint64), np.array(both, dtype=np.uint64))


def digest(text: str) -> int:
    """Return 64 bits of the BLAKE2 hash of a text."""
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def position(digests: Numbers, wanted: np.uint64) -> int:
    """Return the index of the first of some digests that is the wanted one, which must occur."""
    import numpy as np

    return int(np.flatnonzero(digests == wanted)[0])
