"""Where examples come from: the text of `source:` or `fallback:` -> the parts that exist."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from backends.file_kind import kind_of
from sweeps.data import hub, snli
from sweeps.data.builtin.generated import DEFAULT_EXAMPLES, GENERATED_SOURCES, NLI_COMPLETION, NLI_PROMPT
from sweeps.data.builtin.nli_words import Split
from sweeps.data.findings import nearest_hint
from sweeps.data.hub import SourceUnavailableError
from sweeps.data.readers.files import is_data_file, known_endings, read_records
from sweeps.data.readers.record import Record, RecordStream
from sweeps.data.spec import DataSpec
from sweeps.errors import Problem, UserInputError

_STEMS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test",),
}


@dataclass(frozen=True)
class Source:
    """An available source. Calling a part reads it from its beginning; `train` always exists.

    The user cannot change the split of a `published` source (a benchmark, the hub). The parts of a
    `generated` source have the size that the sweep file asks for.
    """

    name: str
    description: str
    parts: Mapping[str, Callable[[], RecordStream]]
    kind: Literal["own", "published", "generated"] = "own"
    prompt: str | None = None
    completion: str | None = None


def locate(text: str, spec: DataSpec, data_path: Path | None = None) -> Source:
    """Find the source that `text` names. `data_path`, from the command line, replaces its place.

    Raises SourceUnavailableError if it does not exist or is unreachable. Raises UserInputError if
    it exists but cannot be used, or if `text` is a misspelled name.
    """
    if data_path is not None:
        if _kind(data_path, "--data") is None:
            hint = "pass the file or the folder with the data"
            raise UserInputError([Problem("--data", f"{data_path} does not exist", hint)])
        return _snli(*snli.in_directory(data_path)) if text == "snli" else on_disk(data_path, spec.encoding)
    if text == "snli":
        return _snli(*snli.from_hub())
    if text in GENERATED_SOURCES:
        return _generated(text, spec)
    if text.startswith("hf:"):
        return _hugging_face(text)
    path = Path(text).expanduser()
    if _kind(path, "data.source") is not None:
        return on_disk(path, spec.encoding)
    hint = nearest_hint(text, ("snli", *GENERATED_SOURCES))
    if text.startswith("builtin:") or (hint.startswith("did you mean") and not path.suffix):
        raise UserInputError([Problem("data.source", f"unknown source {text!r}", hint)])
    raise SourceUnavailableError(f"no such file or folder in {path.absolute().parent}")


def on_disk(path: Path, encoding: str = "utf-8") -> Source:
    """Return the source at a path.

    It is a file, or a directory with the official SNLI files, with files for the parts, or with a
    saved data set. Raises UserInputError for anything else.
    """
    try:
        return _on_disk(path, encoding)
    except OSError as error:
        raise unreadable(str(path), error) from None


def _on_disk(path: Path, encoding: str) -> Source:
    kind = kind_of(path)
    if kind not in ("a file", "a directory"):
        hint = "write the examples into a file first: a sweep reads its data more than once"
        raise UserInputError([Problem(str(path), f"is {kind}, not a file or a folder", hint)])
    if kind == "a file":
        if not is_data_file(path):
            raise UserInputError([Problem(str(path), "unknown file ending", f"known endings: {known_endings()}")])
        return Source(path.name, str(path), {"train": partial(read_records, path, encoding)})
    if snli.official_files(path):
        return _snli(*snli.in_directory(path))
    files = {part: file for part, stems in _STEMS.items() if (file := _part_file(path, stems))}
    if "train" in files:
        names = ", ".join(file.name for file in files.values())
        parts = {part: partial(read_records, file, encoding) for part, file in files.items()}
        return Source(path.name, f"{path} ({names})", parts)
    if hub.is_saved(path):
        tables = hub.open_saved(path)
        parts = {part: partial(hub.row_records, table, f"{path} {part}") for part, table in tables.items()}
        return Source(path.name, f"{path} (saved data set)", parts)
    hint = f"expected: train, valid and test with {known_endings()}; the official SNLI files; or a saved data set"
    raise UserInputError([Problem(str(path), "the directory has no training examples", hint)])


def _kind(path: Path, place: str) -> str | None:
    """Return the kind of what lies at the path, None if nothing does.

    Raises UserInputError if the path cannot be looked at.
    """
    try:
        return kind_of(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(place, error) from None


def unreadable(place: str, error: OSError) -> UserInputError:
    """Return the error for a path that the system does not let us read."""
    where = f"{error.filename} " if error.filename else ""
    hint = "check the path and its permissions"
    return UserInputError([Problem(place, f"{where}cannot be read: {error.strerror or error}", hint)])


def _part_file(directory: Path, stems: tuple[str, ...]) -> Path | None:
    """Return the file of one part. Raises UserInputError if several files could be it."""
    candidates = sorted(
        file
        for file in directory.iterdir()
        if file.is_file() and is_data_file(file) and file.name.split(".")[0].lower() in stems
    )
    if len(candidates) > 1:
        names = ", ".join(file.name for file in candidates)
        raise UserInputError([Problem(str(directory), f"several files for one part: {names}", "keep one of them")])
    return candidates[0] if candidates else None


def _snli(description: str, parts: Mapping[str, Callable[[], RecordStream]]) -> Source:
    return Source("snli", description, parts, "published", NLI_PROMPT, NLI_COMPLETION)


def _hugging_face(text: str) -> Source:
    repository, _, config = text.removeprefix("hf:").partition(":")
    tables = hub.open_hub(repository, config or None)
    parts = {part: partial(hub.row_records, table, f"hf:{repository} {part}") for part, table in tables.items()}
    return Source(repository, text, parts, "published")


def _generated(name: str, spec: DataSpec) -> Source:
    parts: dict[str, Callable[[], RecordStream]] = {
        part: partial(_generated_records, name, part, getattr(spec, f"{part}_examples") or default, spec)
        for part, default in DEFAULT_EXAMPLES.items()
    }
    source = GENERATED_SOURCES[name]
    return Source(name, name, parts, "generated", source.prompt, source.completion)


def _generated_records(name: str, part: Split, examples: int, spec: DataSpec) -> RecordStream:
    try:
        records = GENERATED_SOURCES[name].generate(part, examples, spec.seed, spec.label_noise)
    except ValueError as too_many:
        hint = f"lower data.{part}_examples"
        raise UserInputError([Problem(f"data.{part}_examples", f"{name}: {too_many}", hint)]) from None
    for number, record in enumerate(records, 1):
        yield Record(record, f"{name} {part}", number)
