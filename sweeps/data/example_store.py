"""A sequence of examples whose texts lie on disk once they are many.

A data set may be larger than memory. Only the place of each example in the file stays in memory:
8 bytes.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from sweeps.data.examples import Example

MEMORY_LIMIT = 2**25
"""Characters of prompts and completions that stay in memory: all of a set of usual size."""

_READ_BYTES = 2**22
"""How much an iteration reads at once."""


class ExampleSequence(Sequence[Example]):
    """A sequence of examples whose slices copy no texts. A subclass says where an example is."""

    def _at(self, index: int) -> Example:
        """Return the example at an index from 0 to the last one."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        chosen = range(len(self))[index]
        return Selection(self, chosen) if isinstance(chosen, range) else self._at(chosen)


class ExampleStore(ExampleSequence):
    """Examples in the order in which they were appended.

    Beyond `limit` characters all lie in a file without a name below `folder`, which vanishes with
    the store or its process. Reading then gives new objects each time. An iteration over all is a
    sequential read; an example by its index costs one read of the file.
    """

    def __init__(self, folder: Path, limit: int = MEMORY_LIMIT) -> None:
        self._folder = folder
        self._limit = limit
        self._characters = 0
        self._in_memory: list[Example] = []
        self._file: int | None = None
        self._ends = array("Q")
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0

    def append(self, example: Example) -> None:
        """Add an example at the end. Raises OSError if the disk is full."""
        if self._file is not None:
            self._write(example)
            return
        self._in_memory.append(example)
        self._characters += len(example.prompt) + len(example.completion)
        if self._characters > self._limit:
            self._move_to_disk()

    def __len__(self) -> int:
        return len(self._in_memory) if self._file is None else len(self._ends)

    def _at(self, index: int) -> Example:
        if self._file is None:
            return self._in_memory[index]
        self._flush()
        start = self._ends[index - 1] if index else 0
        return _loaded(_read(self._file, start, self._ends[index] - start))

    def __iter__(self) -> Iterator[Example]:
        if self._file is None:
            yield from self._in_memory
            return
        self._flush()
        first = 0
        while first < len(self._ends):
            start = self._ends[first - 1] if first else 0
            last = first + 1
            while last < len(self._ends) and self._ends[last] - start <= _READ_BYTES:
                last += 1
            block = _read(self._file, start, self._ends[last - 1] - start)
            position = 0
            for end in self._ends[first:last]:
                yield _loaded(block[position : end - start])
                position = end - start
            first = last

    def _move_to_disk(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)
        for example in self._in_memory:
            self._write(example)
        self._in_memory = []

    def _write(self, example: Example) -> None:
        content = pickle.dumps(tuple(example), protocol=pickle.HIGHEST_PROTOCOL)
        self._unwritten.append(content)
        self._unwritten_bytes += len(content)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(content))
        if self._unwritten_bytes > _READ_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._unwritten or self._file is None:
            return
        rest = memoryview(b"".join(self._unwritten))
        position = self._ends[-1] - len(rest)
        while rest:
            written = os.pwrite(self._file, rest, position)
            position, rest = position + written, rest[written:]
        self._unwritten, self._unwritten_bytes = [], 0


class Selection(ExampleSequence):
    """Some examples of a sequence, by their indices, without a copy of the texts."""

    def __init__(self, examples: Sequence[Example], indices: Iterable[int]) -> None:
        self._examples = examples
        self._indices = array("Q", indices)

    def __len__(self) -> int:
        return len(self._indices)

    def _at(self, index: int) -> Example:
        return self._examples[self._indices[index]]

    def __iter__(self) -> Iterator[Example]:
        ascending = all(earlier < later for earlier, later in zip(self._indices, self._indices[1:], strict=False))
        if not ascending:
            yield from (self._examples[index] for index in self._indices)
            return
        wanted = iter(self._indices)
        next_index = next(wanted, None)
        for index, example in enumerate(self._examples):
            if index == next_index:
                yield example
                next_index = next(wanted, None)
                if next_index is None:
                    return


def _read(file: int, start: int, length: int) -> bytes:
    pieces = []
    while length:
        piece = os.pread(file, length, start)
        if not piece:
            raise OSError(None, "the file of the examples has become shorter")
        pieces.append(piece)
        start, length = start + len(piece), length - len(piece)
    return b"".join(pieces)


def _loaded(content: bytes) -> Example:
    return Example(*pickle.loads(content))
