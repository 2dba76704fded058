"""Read a file in any known format: chooses the reader by the ending of its name."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from sweeps.data.findings import error
from sweeps.data.readers.archives import DAMAGE, gunzipped, members
from sweeps.data.readers.damage import Damage, FileFaultError
from sweeps.data.readers.decoding import DecodedText
from sweeps.data.readers.delimited import read_csv, read_tsv
from sweeps.data.readers.input_file import InputFile
from sweeps.data.readers.json_documents import read_json
from sweeps.data.readers.json_lines import read_json_lines
from sweeps.data.readers.record import RecordStream
from sweeps.data.readers.tables import read_arrow, read_parquet
from sweeps.data.readers.workbook import read_workbook

_TEXT_READERS: Mapping[str, Callable[[DecodedText, Damage], RecordStream]] = {
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
}

_TABLE_READERS: Mapping[str, Callable[[str, Damage], RecordStream]] = {
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
    ".xlsx": read_workbook,
}

_ARCHIVE = ".zip"


def format_of(name: str | Path) -> str:
    """Return the ending that says the format, without `.gz`: `.csv` for `train.csv.gz`."""
    return PurePosixPath(str(name).lower().removesuffix(".gz")).suffix


def is_data_file(name: str | Path) -> bool:
    """Return whether `read_records` knows the format that the name's ending says."""
    return is_plain_data_file(name) or is_archive(name)


def is_plain_data_file(name: str | Path) -> bool:
    """Return whether it is a data file, but no archive of files."""
    return format_of(name) in _TEXT_READERS or format_of(name) in _TABLE_READERS


def is_archive(name: str | Path) -> bool:
    """Return whether it is an archive that may hold several data files."""
    return str(name).lower().endswith(_ARCHIVE)


def known_endings() -> str:
    """Return the known endings for a message."""
    return f"{', '.join([*_TEXT_READERS, *_TABLE_READERS])}, each also with .gz or in a .zip"


def read_records(path: Path | InputFile, encoding: str = "utf-8") -> RecordStream:
    """Read a file as a stream: JSON lines, JSON, delimited text, Parquet, Arrow, Excel; compressed.

    Never raises for the content of the file; every record that is not yielded is part of a finding.
    Memory does not grow with the file, except with an Excel workbook, whose size is limited. The
    encoding is that of text files; with utf-8, others are recognised where the evidence is clear.
    """
    file = path if isinstance(path, InputFile) else InputFile.at(path)
    damage = Damage(file.name)
    ending = format_of(file.name)
    try:
        if is_archive(file.name):
            yield from _read_archive(file, encoding)
        elif ending in _TABLE_READERS:
            opens = partial(gunzipped, file.opens) if _is_gzip(file.name) else None
            with file.on_disk(opens) as place:
                yield from _TABLE_READERS[ending](place, damage)
        elif ending in _TEXT_READERS:
            yield from _read_text(file, encoding, _TEXT_READERS[ending], damage)
        else:
            suffix = PurePosixPath(file.name).suffix
            yield error("format", file.name, f"unknown file ending {suffix!r}", f"known endings: {known_endings()}")
    except FileFaultError as fault:
        yield fault.finding(file.name)
    except DAMAGE as problem:
        is_gzip = _is_gzip(file.name)
        message = f"the {'gzip stream' if is_gzip else 'archive'} is damaged: {problem}"
        yield error("gzip" if is_gzip else "archive", file.name, message, "copy the file again")
    except OSError as failure:
        yield error("unreadable", file.name, f"cannot be read: {failure.strerror or failure}")
    yield from damage.findings()


def read_all(files: Iterable[Path | InputFile], encoding: str = "utf-8") -> RecordStream:
    """Read the files of one part, one after another."""
    for file in files:
        yield from read_records(file, encoding)


def _read_text(
    file: InputFile, encoding: str, reader: Callable[[DecodedText, Damage], RecordStream], damage: Damage
) -> RecordStream:
    with _open(file) as stream:
        text = DecodedText(stream, encoding)
        damage.later.append(text.findings)
        try:
            yield from reader(text, damage)
        except UnicodeError as problem:
            message = f"the text is not {text.encoding}: {problem}"
            yield error("encoding", file.name, message, "set encoding: utf-8")


def _read_archive(archive: InputFile, encoding: str) -> RecordStream:
    found = members(archive, is_plain_data_file)
    if not found:
        raise FileFaultError("archive", "the archive has no data file", f"known endings: {known_endings()}")
    if len(found) > 1:
        names = ", ".join(file.name.removeprefix(f"{archive.name}/") for file in found[:5])
        message = f"the archive has several data files: {names}"
        raise FileFaultError("archive", message, "name the archive as the source, or unpack it and name one file")
    yield from read_records(found[0], encoding)


def _is_gzip(name: str) -> bool:
    return name.lower().endswith(".gz")


def _open(file: InputFile) -> io.BufferedReader:
    return gunzipped(file.opens) if _is_gzip(file.name) else file.opens()
