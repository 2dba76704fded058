"""Where the examples of a prepared file come from: a line of the user's own data for each line."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sweeps.data.examples import Example


@dataclass(frozen=True)
class Places:
    """The places of the examples of a part, by their number in the prepared file.

    Takes 12 bytes an example: the index of its file among `files`, and its line.
    """

    files: tuple[str, ...]
    indices: array[int]
    lines: array[int]

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Places:
        """Remember the places of these examples, in their order."""
        files: dict[str, int] = {}
        indices, lines = array("I"), array("Q")
        for example in examples:
            indices.append(files.setdefault(example.file, len(files)))
            lines.append(example.line)
        return cls(tuple(files), indices, lines)

    def of_line(self, number: int) -> str:
        """Return the `file:line` of an example, whose number begins at 1."""
        return f"{self.files[self.indices[number - 1]]}:{self.lines[number - 1]}"


def own_place(path: str, number: int, places: Mapping[str, Places]) -> str:
    """Return the place in the user's data of line `number` of the prepared file at `path`.

    It is that line itself if nobody knows where it comes from.
    """
    known = places.get(path)
    return f"{path}:{number}" if known is None or not 0 < number <= len(known.lines) else known.of_line(number)


def with_own_places(text: str, places: Mapping[str, Places]) -> str:
    """Return a message of a backend in which lines of prepared files stand as the places that they
    come from. The message names them as `train.jsonl, lines 3, 8`, with or without the folder.
    """
    for path in places:
        folder, name = map(re.escape, (f"{path.rpartition('/')[0]}/", path.rpartition("/")[2]))
        pattern = re.compile(rf"(?<![\w/])(?:{folder})?{name}, lines? (\d+(?:, \d+)*)")
        text = pattern.sub(lambda found, path=path: _listed(path, found[1], places), text)  # type: ignore[misc]
    return text


def _listed(path: str, numbers: str, places: Mapping[str, Places]) -> str:
    return ", ".join(own_place(path, int(number), places) for number in numbers.split(", "))
