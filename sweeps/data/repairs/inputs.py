"""What a preparation reads: the source that the user names, and where each part comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sweeps.data.builtin.generated import GENERATED_SOURCES
from sweeps.data.hub import SourceUnavailableError
from sweeps.data.prepare import DEFAULT_FRACTION
from sweeps.data.prepared_folder import read_manifest
from sweeps.data.readers.record import RecordStream
from sweeps.data.sources import Source, locate, own_data
from sweeps.data.spec import DataSpec
from sweeps.errors import Problem, UserInputError


@dataclass(frozen=True)
class Inputs:
    """The source, the parts to read, and the fractions to take from the training examples."""

    source: Source
    readers: Mapping[str, Callable[[], RecordStream]]
    fractions: Mapping[str, float] = field(default_factory=dict)


def find(text: str, spec: DataSpec) -> Inputs:
    """Find what `text` names, and decide for each part whether to read it or to split it off.

    A part that the source has is read, unless the user asks for a file or a fraction. A part that
    an earlier preparation left out is not made now. Raises UserInputError if something is not
    there.
    """
    source = _source(text, spec)
    readers = {"train": source.parts["train"]}
    fractions: dict[str, float] = {}
    is_prepared = read_manifest(Path(text).expanduser()) is not None
    for part, asked in (("valid", spec.validation), ("test", spec.test)):
        if isinstance(asked, str):
            readers[part] = own_data(asked, spec.encoding).parts["train"]
        elif asked == 0:
            continue
        elif part in source.parts and asked is None:
            readers[part] = source.parts[part]
        elif asked is not None:
            fractions[part] = asked
        elif not is_prepared:
            fractions[part] = DEFAULT_FRACTION
    return Inputs(source, readers, fractions)


def _source(text: str, spec: DataSpec) -> Source:
    if text == "snli" or text in GENERATED_SOURCES or text.startswith(("hf:", "builtin:")):
        try:
            return locate(text, spec)
        except SourceUnavailableError as unavailable:
            raise UserInputError([Problem(text, f"unavailable: {unavailable.reason}")]) from None
    return own_data(text, spec.encoding)
