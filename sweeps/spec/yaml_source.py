"""A strict YAML reader that remembers the line of every key, so that error messages can name it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweeps.errors import Problem, UserInputError

KeyPath = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9][0-9_]*\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_SPECIAL_FLOATS = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}
_WORDS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_PLAIN_TAGS = {
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")
}


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
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        nearby = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"{path.parent}/ has: {', '.join(nearby)}" if nearby else "`sweep init` writes a first one"
        raise UserInputError([Problem(str(path), "no such file", hint)]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError([Problem(str(path), f"cannot be read: {error}", "use a UTF-8 YAML file")]) from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Document:
    """Parse YAML text whose top level is a mapping.

    Scalars follow YAML 1.2: `1e-4` is a float, `no` and `12:30` are strings. Tags, recursive
    anchors and duplicate keys are errors. Raises UserInputError, which names the line.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        raise UserInputError(
            [Problem(place, f"is not valid YAML: {error.problem}", "check indentation and quotes")]
        ) from None
    except yaml.YAMLError as error:
        raise UserInputError([Problem(name, f"is not valid YAML: {error}")]) from None
    if not isinstance(node, yaml.MappingNode):
        raise UserInputError([Problem(name, "must be a mapping of keys to values", "`sweep init` writes an example")])
    lines: dict[KeyPath, int] = {}
    problems: list[Problem] = []
    value = _build(node, (), name, lines, problems)
    if problems:
        raise UserInputError(problems)
    return Document(name, value, lines)


def with_overrides(document: Document, assignments: Sequence[str]) -> Document:
    """Apply `a.b=c` assignments on top of a document; the values are YAML.

    Raises UserInputError for a malformed assignment.
    """
    value: dict[str, Any] = _copy(document.value)
    overridden = set(document.overridden)
    problems = []
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        parts = tuple(key.strip().split("."))
        if not separator or not all(parts):
            problems.append(
                Problem(f"--set {assignment}", "does not have the form a.b=value", "e.g. --set search.trials=8")
            )
            continue
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError:
            problems.append(Problem(f"--set {assignment}", "the value is not valid YAML", "quote it"))
            continue
        target = value
        for part in parts[:-1]:
            if not isinstance(target.get(part), dict):
                target[part] = {}
            target = target[part]
        target[parts[-1]] = None if node is None else _build(node, parts, "--set", {}, problems)
        overridden.add(parts)
    if problems:
        raise UserInputError(problems)
    return Document(document.name, value, document.lines, frozenset(overridden))


def _build(node: yaml.Node, path: KeyPath, name: str, lines: dict[KeyPath, int], problems: list[Problem]) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = f"{name}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                problems.append(Problem(place, "a key must be plain text"))
                continue
            key = str(key_node.value)
            if key in mapping:
                problems.append(Problem(place, f"`{key}` is given twice", "keep one of them"))
            lines[(*path, key)] = key_node.start_mark.line + 1
            mapping[key] = _build(value_node, (*path, key), name, lines, problems)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, index), name, lines, problems) for index, item in enumerate(node.value)]
    if node.tag not in _PLAIN_TAGS:
        problems.append(
            Problem(f"{name}:{node.start_mark.line + 1}", f"tag {node.tag} is not allowed", "remove the tag")
        )
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node.value) if node.style is None else node.value


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text.replace("_", ""))
    if _FLOAT.match(text):
        return float(text.replace("_", ""))
    return _SPECIAL_FLOATS.get(text.lower(), text)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
