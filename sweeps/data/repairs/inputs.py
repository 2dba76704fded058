"""What a preparation reads: the source that the user names, and where each part comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from sweeps.data.hub import SourceUnavailableError
from sweeps.data.inspection import inspect
from sweeps.data.loading import DEFAULT_FRACTION
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


def find(text: str, spec: DataSpec, split_again: bool = False) -> Inputs:
    """Find what `text` names, and decide for each part whether to read it or to split it off.

    A part that the source has is read, unless the user asks for a file or a fraction, or to
    `split_again` the rows of all parts. A part that an earlier preparation left out is not made
    now. Raises UserInputError if something is not there.
    """
    source = _source(text, spec)
    readers = {"train": source.parts["train"]}
    fractions: dict[str, float] = {}
    is_prepared = read_manifest(Path(text).expanduser()) is not None and not split_again
    if split_again:
        every_part = list(source.parts.values())
        readers["train"] = lambda: chain.from_iterable(read() for read in every_part)
    for part, asked in (("valid", spec.validation), ("test", spec.test)):
        if isinstance(asked, str):
            readers[part] = own_data(asked, spec.encoding).parts["train"]
        elif asked == 0:
            continue
        elif part in source.parts and asked is None and not split_again:
            readers[part] = source.parts[part]
        elif asked is not None:
            fractions[part] = asked
        elif not is_prepared:
            fractions[part] = DEFAULT_FRACTION
    return Inputs(source, readers, fractions)


def completed(text: str, spec: DataSpec) -> tuple[DataSpec, bool]:
    """Return the section with templates and encoding, and whether the content chose the templates.

    What the user gives stays, and so do the templates of a known data set; records that need no
    templates get none. Raises UserInputError if it is unclear what to learn.
    """
    if spec.prompt is not None or spec.completion is not None or _is_known(text):
        return spec, False
    if (source := own_data(text, spec.encoding)).prompt is not None:
        return spec.model_copy(update={"prompt": source.prompt, "completion": source.completion}), False
    found = inspect(text)
    chosen: dict[str, object] = {"prompt": found.prompt, "completion": found.completion}
    if "encoding" not in spec.model_fields_set:
        chosen["encoding"] = found.encoding
    return spec.model_copy(update=chosen), found.prompt is not None


def _is_known(text: str) -> bool:
    return text == "snli" or text.startswith(("hf:", "builtin:"))


def _source(text: str, spec: DataSpec) -> Source:
    if _is_known(text):
        try:
            return locate(text, spec)
        except SourceUnavailableError as unavailable:
            raise UserInputError([Problem(text, f"unavailable: {unavailable.reason}")]) from None
    return own_data(text, spec.encoding)
