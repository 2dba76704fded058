"""A strict YAML reader that remembers the line of every key, so that error messages can name it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweeps.errors import Problem, UserInputError
from sweeps.spec.sweep_file_text import read_text

KeyPath = tuple[str | int, ...]

MAX_DEPTH = 40
"""The deepest nesting of a sweep file. The documented sections need seven levels."""

MAX_VALUES = 100_000
"""The most keys and values, counted after aliases are filled in."""

_INT = re.compile(r"[-+]?[0-9][0-9_]*\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_SPECIAL_FLOATS = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}
_WORDS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_LARGEST_INT = 2**63 - 1
_LARGEST_INT_DIGITS = 19
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that neither a database nor a UTF-8 file can hold."""


@dataclass(frozen=True)
class Document:
    """A parsed mapping and the line of each of its keys and items.

    `overridden` holds the paths that came from `--set`.
    """

    name: str
    value: dict[str, Any]
    lines: Mapping[KeyPath, int]
    overridden: frozenset[KeyPath] = frozenset()

    def place(self, path: Sequence[str | int]) -> str:
        """Return `file:line` of the deepest part of `path` that the file has, or its `--set`."""
        for end in range(len(path), -1, -1):
            prefix = tuple(path[:end])
            if prefix in self.overridden:
                return "--set " + ".".join(str(part) for part in prefix)
            if prefix in self.lines:
                return f"{self.name}:{self.lines[prefix]}"
        return self.name


def read(path: Path) -> Document:
    """Read a YAML file. Raises UserInputError if it is missing, unreadable or malformed."""
    return parse(read_text(path), str(path))


def parse(text: str, name: str) -> Document:
    """Parse YAML text whose top level is a mapping.

    Scalars follow YAML 1.2: `1e-4` is a float, `no` and `12:30` are strings. Tags, merge keys,
    anchors that contain themselves and duplicate keys are errors. Raises UserInputError, which
    names the line.
    """
    builder = _Builder(name)
    node = _compose(text, builder)
    if not isinstance(node, yaml.MappingNode):
        raise UserInputError([Problem(name, "must be a mapping of keys to values", "`sweep init` writes an example")])
    value = builder.build(node, ())
    if builder.problems:
        raise UserInputError(builder.problems)
    return Document(name, value, builder.lines)


def from_mapping(mapping: Mapping[str, Any], name: str = "the mapping") -> Document:
    """Return the content of a sweep file that a program made; a path counts as text.

    Raises UserInputError for a value that a YAML file could not hold.
    """
    try:
        text = json.dumps(mapping, default=_as_text)
    except (TypeError, ValueError, RecursionError) as error:
        hint = "use mappings, lists, text, numbers, true, false and null"
        raise UserInputError([Problem(name, f"is not plain data: {error}", hint)]) from None
    value: dict[str, Any] = json.loads(text)
    if problems := [problem for found in _texts(value) if (problem := _character_problem(found, name))]:
        raise UserInputError(problems)
    return Document(name, value, {})


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _as_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not a type of YAML")


def with_overrides(document: Document, assignments: Sequence[str]) -> Document:
    """Apply `a.b=c` assignments on top of a document; the values are YAML.

    Raises UserInputError for a malformed assignment.
    """
    value: dict[str, Any] = _copy(document.value)
    overridden = set(document.overridden)
    problems: list[Problem] = []
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        parts = tuple(key.strip().split("."))
        if not separator or not all(parts):
            problems.append(
                Problem(
                    f"--set {_shortened(assignment)}", "does not have the form a.b=value", "e.g. --set search.trials=8"
                )
            )
            continue
        builder = _Builder(f"--set {key.strip()}", has_lines=False)
        if problem := _character_problem(key, builder.name):
            problems.append(problem)
            continue
        try:
            node = _compose(text, builder)
            new_value = None if node is None else builder.build(node, parts)
        except UserInputError as error:
            problems += [
                Problem(f"--set {assignment}", problem.message, "quote the value") for problem in error.problems
            ]
            continue
        problems += builder.problems
        target = value
        for part in parts[:-1]:
            if not isinstance(target.get(part), dict):
                target[part] = {}
            target = target[part]
        target[parts[-1]] = new_value
        overridden.add(parts)
    if problems:
        raise UserInputError(problems)
    return Document(document.name, value, document.lines, frozenset(overridden))


def _compose(text: str, builder: _Builder) -> yaml.Node | None:
    """Return the nodes of a YAML text; reports the tags in it to `builder`.

    Raises UserInputError if the text is not YAML or is nested too deeply: PyYAML would exhaust the
    stack.
    """
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if (tag := getattr(event, "tag", None)) is not None:
                shown = tag.replace("tag:yaml.org,2002:", "!!")
                place = builder.place(_line(event.start_mark))
                builder.problems.append(Problem(place, f"tag {shown} is not allowed", "remove the tag"))
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                message = f"is nested more than {MAX_DEPTH} levels deep"
                place = builder.place(_line(event.start_mark))
                raise UserInputError([Problem(place, message, "check brackets and indentation")])
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        place = builder.place(text.count("\n", 0, error.position))
        message = f"has the character U+{ord(text[error.position]):04X}, which YAML does not allow"
        raise UserInputError([Problem(place, message, "remove it")]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = builder.place(mark.line) if mark else builder.name
        raise UserInputError(
            [Problem(place, f"is not valid YAML: {error.problem}", "check indentation and quotes")]
        ) from None
    except yaml.YAMLError as error:
        raise UserInputError([Problem(builder.name, f"is not valid YAML: {error}")]) from None


def _line(mark: Any) -> int:
    return 0 if mark is None else int(mark.line)


class _Builder:
    """Turns nodes into plain values, and collects the lines of the keys and the mistakes.

    An alias counts as a copy of its anchor, whose lines it has.
    """

    def __init__(self, name: str, *, has_lines: bool = True) -> None:
        self.name = name
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[Problem] = []
        self._has_lines = has_lines
        self._values = 0
        self._open: set[int] = set()

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        """Return the value of a node. Raises UserInputError for more than MAX_VALUES values."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._values += 1
        if self._values > MAX_VALUES:
            message = f"has more than {MAX_VALUES:,} values, aliases (*name) filled in"
            raise UserInputError([Problem(self._place(node), message, "put examples into a data file")])
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            problem = Problem(self._place(node), "the anchor (&name) contains itself", "remove the alias (*name) in it")
            self.problems.append(problem)
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            assert isinstance(node, yaml.SequenceNode)
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        finally:
            self._open.remove(id(node))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(place, "a key must be plain text", "quote it"))
                continue
            key = str(key_node.value)
            if key == "<<" and key_node.style is None:
                message = "a merge key (<<) is not part of YAML 1.2"
                self.problems.append(Problem(place, message, "write the keys out, or use an alias for a whole value"))
                continue
            if key in mapping:
                self.problems.append(Problem(place, f"`{key}` is given twice", "keep one of them"))
            self._check_characters(key, place)
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            mapping[key] = self.build(value_node, (*path, key))
        return mapping

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, place = str(node.value), self._place(node)
        self._check_characters(text, place)
        if node.style is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.match(text):
            digits = text.replace("_", "")
            if len(digits.lstrip("+-0")) <= _LARGEST_INT_DIGITS and abs(int(digits)) <= _LARGEST_INT:
                return int(digits)
            self.problems.append(Problem(place, f"{_shortened(text)} is too large", "quote it if it is text"))
            return 0
        if _FLOAT.match(text):
            number = float(text.replace("_", ""))
            mantissa = re.split("[eE]", text)[0]
            if abs(number) == float("inf") or (number == 0 and re.search("[1-9]", mantissa)):
                size = "small" if number == 0 else "large"
                self.problems.append(Problem(place, f"{_shortened(text)} is too {size}", "quote it if it is text"))
            return number
        return _SPECIAL_FLOATS.get(text.lower(), text)

    def _check_characters(self, text: str, place: str) -> None:
        if problem := _character_problem(text, place):
            self.problems.append(problem)

    def place(self, line: int) -> str:
        """Return the place of a line, counted from 0."""
        return f"{self.name}:{line + 1}" if self._has_lines else self.name

    def _place(self, node: yaml.Node) -> str:
        return self.place(node.start_mark.line)


def _character_problem(text: str, place: str) -> Problem | None:
    found = _UNSTORABLE.search(text)
    if found is None:
        return None
    return Problem(place, f"the text holds the character U+{ord(found[0]):04X}, which cannot be stored", "remove it")


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
