"""Where examples come from: the text of `source:` or `fallback:` -> the parts that exist.

`locate` reads what a sweep file names, `own_data` what a user names on the command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from backends.file_kind import kind_of
from sweeps.data import hub, snli
from sweeps.data.builtin.generated import DEFAULT_EXAMPLES, GENERATED_SOURCES, NLI_COMPLETION, NLI_PROMPT
from sweeps.data.builtin.nli_words import Split
from sweeps.data.findings import nearest_hint
from sweeps.data.hub import SourceUnavailableError
from sweeps.data.part_files import FOLDER_DEPTH, PART_NAMES, arrange
from sweeps.data.prepared_folder import written_delimiters
from sweeps.data.readers.archives import members, relative_names
from sweeps.data.readers.damage import FileFaultError
from sweeps.data.readers.files import (
    is_archive,
    is_data_file,
    is_plain_data_file,
    known_endings,
    read_all,
    read_records,
)
from sweeps.data.readers.input_file import InputFile
from sweeps.data.readers.record import Record, RecordStream
from sweeps.data.spec import DataSpec
from sweeps.errors import Problem, UserInputError
from sweeps.file_store.remote_files import RemoteError, RemoteFolder, is_url

_CHECK_THE_URL = "check the address, the network and the credentials in the environment"
_URL_AS_PATH = re.compile(r"([a-z][a-z0-9+.-]+):/(?!/)")


@dataclass(frozen=True)
class Source:
    """An available source. Calling a part reads it from its beginning; `train` always exists.

    The user cannot change the split of a `published` source (a benchmark, the hub). The parts of a
    `generated` source have the size that the sweep file asks for. A folder of `sweep prepare` knows
    its separator and stop sequence.
    """

    name: str
    description: str
    parts: Mapping[str, Callable[[], RecordStream]]
    kind: Literal["own", "published", "generated"] = "own"
    prompt: str | None = None
    completion: str | None = None
    separator: str | None = None
    stop: str | None = None


def locate(text: str, spec: DataSpec, data_path: Path | None = None) -> Source:
    """Find the source that `text` names. `data_path`, from the command line, replaces its place.

    Raises SourceUnavailableError if it does not exist or is unreachable. Raises UserInputError if
    it exists but cannot be used, or if `text` is a misspelled name.
    """
    if data_path is not None:
        return _at_data_option(text, data_path, spec.encoding)
    if text == "snli":
        return _snli(*snli.from_hub())
    if text in GENERATED_SOURCES:
        return _generated(text, spec)
    if text.startswith("hf:"):
        return _hugging_face(text)
    if is_url(text):
        return at_url(text, spec.encoding)
    path = Path(text).expanduser()
    if _kind(path, "data.source") is not None:
        return on_disk(path, spec.encoding)
    hint = nearest_hint(text, ("snli", *GENERATED_SOURCES))
    if text.startswith("builtin:") or (hint.startswith("did you mean") and not path.suffix):
        raise UserInputError([Problem("data.source", f"unknown source {text!r}", hint)])
    raise SourceUnavailableError(f"no such file or folder in {path.absolute().parent}")


def own_data(text: str | Path, encoding: str = "utf-8") -> Source:
    """Return what a user names on the command line: a file, a folder, a zip archive, or a URL.

    The way to read "the user's data" outside a sweep file: `own_data(argument).parts["train"]()`
    yields its records and findings, of any format. Raises UserInputError if there is nothing, or
    nothing that can be read.
    """
    if is_url(str(text)):
        try:
            return at_url(str(text), encoding)
        except SourceUnavailableError as unavailable:
            raise UserInputError([Problem(str(text), unavailable.reason, _CHECK_THE_URL)]) from None
    path = Path(text).expanduser()
    if _kind(path, str(text)) is None:
        raise UserInputError([Problem(str(text), "does not exist", "name a file or a folder with examples")])
    return on_disk(path, encoding)


def url_of(path: Path) -> str | None:
    """Return the URL that an option for paths was given, else None.

    A path has one slash where a URL has two.
    """
    if (scheme := _URL_AS_PATH.match(str(path))) is None:
        return None
    return f"{scheme[1]}://{'/' if scheme[1] == 'file' else ''}{str(path)[scheme.end() :]}"


def on_disk(path: Path, encoding: str = "utf-8") -> Source:
    """Return the source at a path.

    It is a file, a zip archive, or a directory: with the official SNLI files, with files for the
    parts, or with a saved data set. Raises UserInputError for anything else.
    """
    try:
        return _on_disk(path, encoding)
    except OSError as error:
        raise unreadable(str(path), error) from None


def at_url(url: str, encoding: str = "utf-8", place: str = "data.source") -> Source:
    """Return the source behind a URL of any store that fsspec knows: a file, archive or folder.

    Raises SourceUnavailableError if there is nothing, or it cannot be reached. Raises
    UserInputError if it cannot be used.
    """
    remote = RemoteFolder(url, place)
    try:
        names = remote.names()
    except RemoteError as failure:
        raise SourceUnavailableError(failure.reason) from failure
    name = remote.url.rpartition("/")[2]
    if names is None:
        return _single_file(InputFile(remote.url, remote.open), name, encoding)
    files = {name: InputFile(f"{remote.url}/{name}", partial(remote.open, name)) for name in names}
    return _source_of_files(name, remote.url, files, encoding)


def named_part(text: str, encoding: str) -> tuple[Callable[[], RecordStream], str]:
    """Return the reader and the origin of one part: a file, an archive of one file, or a URL.

    Raises SourceUnavailableError with the reason if there is no such file. What is wrong in the
    file is left to the reader.
    """
    if is_url(text):
        source = at_url(text, encoding)
        if len(source.parts) > 1:
            raise SourceUnavailableError(f"{text} has several parts, not the examples of one")
        return source.parts["train"], source.description
    path = Path(text).expanduser()
    try:
        kind = kind_of(path)
    except (FileNotFoundError, NotADirectoryError):
        raise SourceUnavailableError(f"the file {path} does not exist") from None
    except OSError as error:
        raise SourceUnavailableError(f"the file {path} cannot be read: {error.strerror or error}") from None
    if kind != "a file":
        raise SourceUnavailableError(f"{path} is {kind}, not a file")
    return partial(read_records, path, encoding), str(path)


def _at_data_option(text: str, path: Path, encoding: str) -> Source:
    if url := url_of(path):
        try:
            return at_url(url, encoding, "--data")
        except SourceUnavailableError as unavailable:
            raise UserInputError([Problem("--data", f"{url}: {unavailable.reason}", _CHECK_THE_URL)]) from None
    if _kind(path, "--data") is None:
        hint = "pass the file or the folder with the data"
        raise UserInputError([Problem("--data", f"{path} does not exist", hint)])
    return _snli(*snli.in_directory(path)) if text == "snli" else on_disk(path, encoding)


def _on_disk(path: Path, encoding: str) -> Source:
    kind = kind_of(path)
    if kind not in ("a file", "a directory"):
        hint = "write the examples into a file first: a sweep reads its data more than once"
        raise UserInputError([Problem(str(path), f"is {kind}, not a file or a folder", hint)])
    if kind == "a file":
        return _single_file(InputFile.at(path), path.name, encoding)
    if snli.official_files(path):
        return _snli(*snli.in_directory(path))
    if hub.is_saved(path):
        tables = hub.open_saved(path)
        parts = {part: partial(hub.row_records, table, f"{path} {part}") for part, table in tables.items()}
        return Source(path.name, f"{path} (saved data set)", parts)
    names = [file.relative_to(path).as_posix() for file in _files_below(path, FOLDER_DEPTH)]
    found = _source_of_files(path.name, str(path), {name: InputFile.at(path / name) for name in names}, encoding)
    separator, stop = written_delimiters(path)
    return replace(found, separator=separator, stop=stop)


def _files_below(folder: Path, depth: int) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_file():
            yield entry
        elif depth > 1 and entry.is_dir() and not entry.name.startswith("."):
            yield from _files_below(entry, depth - 1)


def _single_file(file: InputFile, name: str, encoding: str) -> Source:
    if not is_data_file(name):
        raise UserInputError([Problem(file.name, "unknown file ending", f"known endings: {known_endings()}")])
    if not is_archive(name):
        return Source(name, file.name, {"train": partial(read_records, file, encoding)})
    try:
        found = members(file, is_plain_data_file)
    except FileFaultError as fault:
        raise UserInputError([Problem(file.name, fault.message, fault.hint)]) from None
    if len(found) == 1:
        return Source(name, found[0].name, {"train": partial(read_records, found[0], encoding)})
    return _source_of_files(name, file.name, relative_names(found, file), encoding)


def _source_of_files(name: str, place: str, files: Mapping[str, InputFile], encoding: str) -> Source:
    """Return the source of a folder or archive. Raises UserInputError without a train part."""
    arranged = arrange(files, is_data_file, place)
    if "train" not in arranged:
        expected = "expected: files named train, valid and test, the official SNLI files, or a saved data set"
        hint = f"{expected}; known endings: {known_endings()}"
        raise UserInputError([Problem(place, "the directory has no training examples", hint)])
    shown = ", ".join(_shown_files(arranged[part]) for part in PART_NAMES if part in arranged)
    parts = {
        part: partial(read_all, [files[member] for member in arranged[part]], encoding)
        for part in PART_NAMES
        if part in arranged
    }
    return Source(name, f"{place} ({shown})", parts)


def _shown_files(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}, {len(names)} files"


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
