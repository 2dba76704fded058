"""Where examples come from: the words a person may write as `source:` -> the parts that are really there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from sweeps.data import hub, snli
from sweeps.data.findings import nearest
from sweeps.data.formats import Read, Record, endings, is_data_file, read
from sweeps.data.hub import Absent
from sweeps.data.spec import BUILTIN_NLI, DataSpec
from sweeps.errors import Problem, UserInputError

Split: TypeAlias = Literal["train", "valid", "test"]

NLI_PROMPT = "{premise}\n{hypothesis}\n\n###\n\n"
NLI_COMPLETION = " {label}"
"""The templates of sentence pairs where the user writes none."""

NLI_EXAMPLES: Mapping[Split, int] = {"train": 2000, "valid": 500, "test": 500}
"""How many pairs of builtin:nli are generated where the user does not say."""

_STEMS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test",),
}


@dataclass(frozen=True)
class Source:
    """A place that is there. Each part is read anew by calling it; `train` is always among them.

    The division of a `published` set (a benchmark, the hub) is not its user's to change; the parts of a `generated`
    one have the size that was asked for.
    """

    name: str
    description: str
    parts: Mapping[str, Callable[[], Read]]
    kind: Literal["own", "published", "generated"] = "own"
    prompt: str | None = None
    completion: str | None = None


def locate(text: str, spec: DataSpec, located: Path | None = None) -> Source:
    """Find what `source:` or `fallback:` names; `located` is where the user says that it is, whatever the text says.

    Raises Absent where it is not there, and UserInputError where it is and cannot be used, or cannot be meant.
    """
    if located is not None:
        if not located.exists():
            hint = "give the file or the folder with the data"
            raise UserInputError([Problem("--data", f"{located} does not exist", hint)])
        return _snli(*snli.in_directory(located)) if text == "snli" else on_disk(located, spec.encoding)
    if text == "snli":
        return _snli(*snli.from_hub())
    if text == BUILTIN_NLI:
        return _builtin_nli(spec)
    if text.startswith("hf:"):
        return _hugging_face(text)
    path = Path(text).expanduser()
    if path.exists():
        return on_disk(path, spec.encoding)
    known = nearest(text, ("snli", BUILTIN_NLI))
    if text.startswith("builtin:") or (known.startswith("did you mean") and not path.suffix):
        raise UserInputError([Problem("data.source", f"there is no source {text!r}", known)])
    raise Absent(f"there is no such file or folder in {path.absolute().parent}")


def on_disk(path: Path, encoding: str = "utf-8") -> Source:
    """Return a file, or a directory of official SNLI files, of parts, or of a saved data set."""
    if path.is_file():
        if not is_data_file(path):
            raise UserInputError([Problem(str(path), "the ending is not known", f"known are {endings()}")])
        return Source(path.name, str(path), {"train": partial(read, path, encoding)})
    if snli.official_files(path):
        return _snli(*snli.in_directory(path))
    files = {part: path_of for part, stems in _STEMS.items() if (path_of := _part(path, stems))}
    if "train" in files:
        there = ", ".join(each.name for each in files.values())
        parts = {part: partial(read, each, encoding) for part, each in files.items()}
        return Source(path.name, f"{path} ({there})", parts)
    if hub.is_saved(path):
        tables = hub.open_saved(path)
        parts = {part: partial(hub.rows, table, f"{path} {part}") for part, table in tables.items()}
        return Source(path.name, f"{path} (saved data set)", parts)
    hint = f"it may hold train, valid and test with {endings()}; the official SNLI files; or a saved data set"
    raise UserInputError([Problem(str(path), "there are no training examples in this directory", hint)])


def _part(directory: Path, stems: tuple[str, ...]) -> Path | None:
    found = sorted(
        each
        for each in directory.iterdir()
        if each.is_file() and is_data_file(each) and each.name.split(".")[0].lower() in stems
    )
    if len(found) > 1:
        names = ", ".join(each.name for each in found)
        raise UserInputError([Problem(str(directory), f"only one of these can be the part: {names}")])
    return found[0] if found else None


def _snli(description: str, parts: Mapping[str, Callable[[], Read]]) -> Source:
    return Source("snli", description, parts, "published", NLI_PROMPT, NLI_COMPLETION)


def _hugging_face(text: str) -> Source:
    repository, _, config = text.removeprefix("hf:").partition(":")
    tables = hub.open_hub(repository, config or None)
    parts = {part: partial(hub.rows, table, f"hf:{repository} {part}") for part, table in tables.items()}
    return Source(repository, text, parts, "published")


def _builtin_nli(spec: DataSpec) -> Source:
    parts: dict[str, Callable[[], Read]] = {
        part: partial(_generated, part, getattr(spec, f"{part}_examples") or default, spec)
        for part, default in NLI_EXAMPLES.items()
    }
    return Source(BUILTIN_NLI, BUILTIN_NLI, parts, "generated", NLI_PROMPT, NLI_COMPLETION)


def _generated(part: Split, examples: int, spec: DataSpec) -> Read:
    from sweeps.data.nli import generate  # builds its vocabulary at import

    noise = spec.label_noise if part == "train" else 0.0
    for number, record in enumerate(generate(part, examples, spec.seed, noise), 1):
        yield Record(record, f"{BUILTIN_NLI} {part}", number)
