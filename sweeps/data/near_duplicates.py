"""Near duplicates: which examples have nearly the same prompt as another one.

MinHash signatures of four-character pieces (Broder 1997) with locality-sensitive hashing propose
pairs; the Jaccard similarity of the pieces decides. The memory is bounded: about 300 bytes for each
example, whatever the length of its texts.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from sweeps.data.examples import Example

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Signatures = NDArray[np.uint16]
    Pairs = NDArray[np.int64]

SIMILARITY = 0.7
"""The least Jaccard similarity of the pieces of two prompts that are near duplicates.

One word of six letters replaced in a text of 55 letters leaves 0.7.
"""

PIECE = 4
"""Characters of a piece."""

MIN_PIECES = 8
"""Texts with fewer pieces are near duplicates only if they are equal after normalization."""

COMMON_SHARE = 0.5
"""Pieces in a larger share of the texts are boilerplate (an instruction in each prompt).

They do not count.
"""

_BANDS, _ROWS = 20, 4
"""A pair with a similarity of 0.7 is proposed with a probability of 0.996, one of 0.3 with 0.15."""

_ESTIMATE_MARGIN = 0.15
"""Three standard errors of the similarity that 80 hashes estimate."""

_SEED = 1
_PIECES_AT_ONCE = 500_000
"""Pieces that are held in memory: about 50 MiB."""

MAX_CHARACTERS = 10_000
"""The first characters of a text whose pieces count, so that no document takes seconds."""

_BOILERPLATE_SAMPLE = 400

MAX_COMPARED = 200_000
"""Pairs whose texts are compared. Beyond it, the estimate of the signatures decides."""

_SEPARATORS = re.compile(r"[\W_]+")
_NUMBERS = re.compile(r"\d+")


class NearPair(NamedTuple):
    """Two examples by their indices, the earlier one first.

    `similarity` is 1 if the prompts are equal but for case, punctuation and spaces.
    """

    earlier: int
    later: int
    similarity: float


@dataclass(frozen=True)
class NearDuplicates:
    """What `near_duplicates` found.

    The pairs connect each example with at least one near duplicate if it has one, but do not list
    all pairs of a large cluster. `estimated` counts those that only the signatures decided.
    """

    pairs: tuple[NearPair, ...]
    estimated: int = 0

    def clusters(self) -> list[list[int]]:
        """Return the clusters that the pairs connect, each with its indices in ascending order."""
        roots: dict[int, int] = {}

        def root(index: int) -> int:
            while (parent := roots.setdefault(index, index)) != index:
                roots[index] = index = roots[parent]
            return index

        for pair in self.pairs:
            first, second = sorted((root(pair.earlier), root(pair.later)))
            roots[second] = first
        members: dict[int, list[int]] = {}
        for index in sorted(roots):
            members.setdefault(root(index), []).append(index)
        return list(members.values())


def normalized(text: str) -> str:
    """Return a text without case, punctuation, and repeated spaces, in Unicode's form NFKC."""
    folded = text if text.isascii() else unicodedata.normalize("NFKC", text)
    folded = folded.casefold()
    return _SEPARATORS.sub(" ", folded).strip() or folded.strip()


def near_duplicates(examples: Sequence[Example], labelled: bool, similarity: float = SIMILARITY) -> NearDuplicates:
    """Return the pairs of examples whose prompts are nearly the same. Deterministic.

    Where a prompt has several fields, each field must be similar. Two `labelled` examples must have
    the same completion. In other data, the completions must be similar, too, and prompts with
    different numbers are different questions unless their completions are equal; only prompts that
    are equal after normalization need no similar completions.

    The sequence is read twice, and again for each compared pair.
    """
    finder = _Finder(examples, labelled, similarity)
    return finder.find()


class _Finder:
    """The steps of one search."""

    def __init__(self, examples: Sequence[Example], labelled: bool, similarity: float) -> None:
        self._examples = examples
        self._labelled = labelled
        self._similarity = similarity
        self._ignored = _boilerplate(examples)

    def find(self) -> NearDuplicates:
        """Find the pairs."""
        is_first, equal = self._equal()
        signatures, indices = self._signatures(is_first)
        compared, estimated = self._similar(signatures, indices)
        pairs = sorted([*equal, *compared], key=lambda pair: (pair.later, pair.earlier))
        return NearDuplicates(tuple(pairs), estimated)

    def _equal(self) -> tuple[NDArray[np.bool_], list[NearPair]]:
        """Return which examples are the first with their normalized prompt, and pairs of others."""
        import numpy as np

        keys = array("Q")
        for example in self._examples:
            text = "\0".join([*map(normalized, _texts(example)), example.completion if self._labelled else ""])
            digest = blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
            keys.append(int.from_bytes(digest, "big"))
        _, firsts, groups = np.unique(np.array(keys, dtype=np.uint64), return_index=True, return_inverse=True)
        first_of = firsts[groups]
        is_first = first_of == np.arange(len(keys))
        later = np.flatnonzero(~is_first)
        pairs = zip(first_of[later].tolist(), later.tolist(), strict=True)
        return is_first, [NearPair(first, index, 1.0) for first, index in pairs]

    def _signatures(self, wanted: NDArray[np.bool_]) -> tuple[Signatures, NDArray[np.int64]]:
        """Return the signatures of the wanted examples with enough pieces, and their indices."""
        import numpy as np
        from rensa import RMinHash

        blocks: list[Signatures] = [np.empty((0, _BANDS * _ROWS), dtype=np.uint16)]
        numbers: list[NDArray[np.int64]] = []
        fields: list[tuple[int, int, str]] = []
        held = 0

        def sign() -> None:
            indices, hashes, ends = _piece_hashes(fields, self._ignored)
            if len(indices):
                rows = RMinHash.digest_matrix_from_flat_token_hashes(hashes, ends, _BANDS * _ROWS, _SEED).to_rows()
                blocks.append(np.array(rows, dtype=np.uint32).astype(np.uint16))
                numbers.append(indices)
            fields.clear()

        for index, example in itertools.compress(enumerate(self._examples), wanted):
            for field, text in enumerate(_texts(example)):
                fields.append((index, field, normalized(text)[:MAX_CHARACTERS]))
                held += len(fields[-1][2])
            if held > _PIECES_AT_ONCE:
                sign()
                held = 0
        sign()
        return np.concatenate(blocks), np.concatenate([np.empty(0, dtype=np.int64), *numbers])

    def _pieces(self, text: str) -> set[str]:
        """Return the pieces of a normalized text that are no boilerplate."""
        return _pieces(text) - self._ignored if self._ignored else _pieces(text)

    def _similar(self, signatures: Signatures, indices: NDArray[np.int64]) -> tuple[list[NearPair], int]:
        """Return the near pairs among the proposed ones."""
        proposed, estimates = _proposed_pairs(signatures, self._similarity - _ESTIMATE_MARGIN)
        found: list[NearPair] = []
        estimated = 0
        remembered = _Remembered(self._examples, self._prepared)
        for number, ((first, second), estimate) in enumerate(zip(proposed.tolist(), estimates.tolist(), strict=True)):
            earlier, later = int(indices[first]), int(indices[second])
            if number < MAX_COMPARED:
                similarity = self._compare(remembered.get(earlier), remembered.get(later))
            else:
                similarity, estimated = estimate, estimated + 1
            if similarity >= self._similarity:
                found.append(NearPair(earlier, later, min(similarity, 0.999)))
        return found, estimated

    def _prepared(self, example: Example) -> _Prepared:
        texts = list(map(normalized, _texts(example)))
        numbers: tuple[str, ...] = ()
        if not self._labelled:
            numbers = tuple(_NUMBERS.findall(" ".join(example.segments)))
            texts.append(normalized(example.completion))
        return _Prepared(tuple(self._pieces(text) for text in texts), tuple(texts), numbers, example.completion)

    def _compare(self, first: _Prepared, second: _Prepared) -> float:
        """Return the similarity of the least similar texts; 0 if examples are not comparable."""
        is_same_answer = first.completion == second.completion
        if len(first.pieces) != len(second.pieces) or (self._labelled and not is_same_answer):
            return 0.0
        if first.numbers != second.numbers and not is_same_answer:
            return 0.0
        least = 1.0
        for number, (pieces, others) in enumerate(zip(first.pieces, second.pieces, strict=True)):
            if min(len(pieces), len(others)) < MIN_PIECES:
                least = min(least, float(first.texts[number] == second.texts[number]))
            else:
                least = min(least, len(pieces & others) / len(pieces | others))
            if least < self._similarity:
                break
        return least


class _Prepared(NamedTuple):
    """An example as it is compared. The last text of unlabelled ones is the completion."""

    pieces: tuple[set[str], ...]
    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    completion: str


class _Remembered:
    """The pieces of the examples that were compared last: pairs come in the order of examples."""

    def __init__(self, examples: Sequence[Example], prepare: Callable[[Example], _Prepared]) -> None:
        self._examples = examples
        self._prepare = prepare
        self._known: dict[int, _Prepared] = {}
        self._held = 0

    def get(self, index: int) -> _Prepared:
        """Return an example as it is compared."""
        known = self._known.get(index)
        if known is None:
            if self._held > _PIECES_AT_ONCE:
                self._known.clear()
                self._held = 0
            known = self._known[index] = self._prepare(self._examples[index])
            self._held += sum(map(len, known.pieces))
        return known


def _texts(example: Example) -> tuple[str, ...]:
    """Return the fields of the prompt. A conversation is one text, since its turns are its own."""
    return example.segments if example.messages is None else (" ".join(example.segments),)


def _pieces(text: str) -> set[str]:
    return {text[start : start + PIECE] for start in range(min(len(text), MAX_CHARACTERS) - PIECE + 1)}


def _piece_hashes(
    fields: Sequence[tuple[int, int, str]], ignored: frozenset[str]
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the hashes of the pieces of examples, one example after the other.

    `fields` are (example, number of the field, text), ordered by example. The first result names
    the examples that have enough pieces, the last one where the pieces of each begin and end.
    """
    import numpy as np

    text = "".join(written for _, _, written in fields)
    lengths = np.array([len(written) for _, _, written in fields], dtype=np.int64)
    hashes = _hashes(text)
    # A piece belongs to the field in which it begins, if it ends there, too.
    field_of = np.repeat(np.arange(len(fields)), lengths)[: len(hashes)]
    ends = np.cumsum(lengths)[field_of] if len(hashes) else np.empty(0, dtype=np.int64)
    kept = np.arange(len(hashes)) + PIECE <= ends
    if ignored:
        unwanted = np.sort(np.concatenate([_hashes(piece) for piece in sorted(ignored)]))
        found = np.minimum(np.searchsorted(unwanted, hashes), len(unwanted) - 1)
        kept &= unwanted[found] != hashes
    hashes, field_of = hashes[kept], field_of[kept]
    numbers = np.array([number for _, number, _ in fields], dtype=np.uint64)
    examples = np.array([example for example, _, _ in fields], dtype=np.int64)
    # The same piece in another field is another piece.
    hashes = _mixed(hashes + numbers[field_of] * np.uint64(_MULTIPLIERS[0]))
    example_of = examples[field_of]
    indices, counts = np.unique(example_of, return_counts=True)
    enough = counts >= MIN_PIECES
    hashes = hashes[np.repeat(enough, counts)]
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts[enough])]).astype(np.uint64)
    return indices[enough], hashes, offsets


_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)
"""Odd 64-bit constants, of the golden ratio and of the hash function xxHash."""


def _hashes(text: str) -> NDArray[np.uint64]:
    """Return the hashes of all pieces of a text, by their positions."""
    import numpy as np

    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    count = max(0, len(codes) - PIECE + 1)
    hashes = np.zeros(count, dtype=np.uint64)
    for position, multiplier in enumerate(_MULTIPLIERS):
        hashes = _mixed((hashes ^ codes[position : position + count]) * np.uint64(multiplier))
    return hashes


def _mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    import numpy as np

    return hashes ^ (hashes >> np.uint64(29))


def _boilerplate(examples: Sequence[Example]) -> frozenset[str]:
    """Return the pieces that more than `COMMON_SHARE` of the texts have, from a sample."""
    step = max(1, len(examples) // _BOILERPLATE_SAMPLE)
    counts: Counter[str] = Counter()
    sampled = 0
    for number in range(0, len(examples), step):
        sampled += 1
        example = examples[number]
        texts_of_example = (*_texts(example), example.completion)
        counts.update({piece for text in texts_of_example for piece in _pieces(normalized(text))})
    if sampled < 20:
        return frozenset()
    return frozenset(piece for piece, count in counts.items() if count > COMMON_SHARE * sampled)


def _proposed_pairs(signatures: Signatures, least: float) -> tuple[Pairs, NDArray[np.float64]]:
    """Return pairs of rows that share a band, each with its estimated similarity.

    In each band, a row is paired with the first row that has the same hashes, and with up to three
    before it.
    """
    import numpy as np

    bands = signatures.view(np.uint64)
    rows = len(signatures)
    distinct: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    for band in range(_BANDS if rows > 1 else 0):
        order = np.argsort(bands[:, band], kind="stable").astype(np.int64)
        keys = bands[order, band]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        firsts = np.repeat(order[starts], np.diff(np.r_[starts, rows]))
        codes = [_close(signatures, firsts, order, firsts != order, least)]
        for lag in (1, 2, 3):
            codes.append(_close(signatures, order[:-lag], order[lag:], keys[lag:] == keys[:-lag], least))
        distinct = np.unique(np.concatenate([distinct, *codes]))
    pairs = np.stack(np.divmod(distinct, max(rows, 1)), axis=1)
    return pairs, _estimates(signatures, pairs[:, 0], pairs[:, 1])


def _close(signatures: Signatures, first: Any, second: Any, mask: Any, least: float) -> NDArray[np.int64]:
    """Return the pairs with at least this estimated similarity, each as `first * rows + second`."""
    first, second = first[mask], second[mask]
    close = _estimates(signatures, first, second) >= least
    codes: NDArray[np.int64] = first[close] * len(signatures) + second[close]
    return codes


def _estimates(signatures: Signatures, first: Any, second: Any) -> NDArray[np.float64]:
    import numpy as np

    estimates = np.empty(len(first))
    for start in range(0, len(first), 50_000):
        chosen = slice(start, start + 50_000)
        estimates[chosen] = (signatures[first[chosen]] == signatures[second[chosen]]).mean(axis=1)
    return estimates
