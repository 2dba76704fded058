"""The configuration file of a trial: a template in YAML, JSON or TOML with some values replaced.

Comments and the order of keys stay where the format has them; `ruamel.yaml` and `tomlkit` keep
both.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from itertools import islice
from pathlib import Path
from typing import Any

import ruamel.yaml
import tomlkit
import yaml
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import SingleQuotedScalarString
from tomlkit.exceptions import TOMLKitError

from backends.contract import BackendError, Failure, FailureKind

YAML, JSON, TOML = "yaml", "json", "toml"
_FORMATS = {".yml": YAML, ".yaml": YAML, ".json": JSON, ".toml": TOML}


_YAML_1_1, _TEXT_TAG = yaml.resolver.Resolver(), "tag:yaml.org,2002:str"

MAX_SETTINGS = 100_000
"""Nobody writes more. YAML aliases of aliases can stand for any number."""


def format_of(name: str) -> str | None:
    """Return the format that the name of a file stands for, or None."""
    return _FORMATS.get(Path(name).suffix.lower())


def read_template(path: Path | None, name: str) -> MutableMapping[str, Any]:
    """Return the content of a template, or an empty configuration without one.

    Raises BackendError with the line where the file cannot be read.
    """
    kind = format_of(path.name if path is not None else name)
    if kind is None:
        hint = "name a file that ends in .yml, .yaml, .json or .toml"
        raise BackendError(Failure(FailureKind.USER, f"config: the format of {path or name} is unknown", hint))
    if path is None:
        return _parsed("" if kind != JSON else "{}", kind, name)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BackendError(Failure(FailureKind.USER, f"config: the template {path} does not exist")) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BackendError(Failure(FailureKind.USER, f"config: {path} cannot be read: {reason}")) from None
    return _parsed(text, kind, str(path))


def written(content: Mapping[str, Any], name: str) -> str:
    """Return a configuration as the text of a file of this name."""
    kind = format_of(name)
    if kind == JSON:
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if kind == TOML:
        return tomlkit.dumps(content)
    stream = io.StringIO()
    _yaml().dump(content, stream)
    return stream.getvalue()


def _tag_in_yaml_1_1(text: str) -> str:
    tag: str = _YAML_1_1.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return tag


def flattened(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of nested settings with dots, and their values: `{a: {b: 1}}` gives `a.b`."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def set_value(content: MutableMapping[str, Any], key: str, value: Any) -> None:
    """Set one value; dots in the key lead into nested mappings, which are created where missing.

    A key of the file that contains dots itself counts as it is. Raises BackendError where the key
    leads into something that is no mapping.
    """
    value = _unambiguous(value)
    if key in content:
        content[key] = value
        return
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        nested = content.setdefault(_unambiguous(parent), {})
        if not isinstance(nested, MutableMapping):
            inner = ".".join(parents[: depth + 1])
            raise BackendError(
                Failure(FailureKind.USER, f"config: `{key}` cannot be set, because `{inner}` is not a mapping")
            )
        content = nested
    content[_unambiguous(last)] = value


def _unambiguous(value: Any) -> Any:
    """Return a value whose texts stay texts in YAML 1.1, where a plain `no` is false.

    What the template has is left as it is, so that the program reads it as before.
    """
    if isinstance(value, Mapping):
        return {_unambiguous(key): _unambiguous(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_unambiguous(item) for item in value]
    if isinstance(value, str) and _tag_in_yaml_1_1(value) != _TEXT_TAG:
        return SingleQuotedScalarString(value)
    return value


def has_key(content: Mapping[str, Any], key: str) -> bool:
    """Return whether a configuration has this key; see `set_value`."""
    if key in content:
        return True
    first, _, rest = key.partition(".")
    nested = content.get(first)
    return bool(rest) and isinstance(nested, Mapping) and has_key(nested, rest)


def _parsed(text: str, kind: str, name: str) -> MutableMapping[str, Any]:
    try:
        content = _PARSERS[kind](text)
        if isinstance(content, MutableMapping) and any(islice(flattened(content), MAX_SETTINGS, None)):
            raise _invalid(name, kind, None, f"it has more than {MAX_SETTINGS} settings")
    except json.JSONDecodeError as error:
        raise _invalid(name, kind, error.lineno, error.msg) from None
    except TOMLKitError as error:
        raise _invalid(name, kind, getattr(error, "line", None), str(error)) from None
    except YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        raise _invalid(name, kind, mark and mark.line + 1, problem or str(error).splitlines()[0]) from None
    except RecursionError:  # also of an alias inside of what it stands for
        raise _invalid(name, kind, None, "it is nested too deeply") from None
    except ValueError as error:  # such as a date that does not exist
        raise _invalid(name, kind, None, str(error)) from None
    if not isinstance(content, MutableMapping):
        raise BackendError(Failure(FailureKind.USER, f"config: {name} is not a mapping of keys to values"))
    return content


def _invalid(name: str, kind: str, line: int | None, problem: str) -> BackendError:
    place = f"{name}:{line}" if line else name
    return BackendError(Failure(FailureKind.USER, f"config: {place} is not valid {kind.upper()}: {problem}"))


def _yaml() -> ruamel.yaml.YAML:
    parser = ruamel.yaml.YAML()  # round trip: keeps comments, quotes and order
    parser.width = 4096
    parser.preserve_quotes = True
    parser.representer.add_representer(float, _represented_float)
    return parser


def _represented_float(representer: Any, value: float) -> Any:
    """Write 1e-05 as 1.0e-05: a reader of YAML 1.1, such as PyYAML, takes 1e-05 for a text."""
    text = {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan" if math.isnan(value) else repr(value))
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return representer.represent_scalar("tag:yaml.org,2002:float", text)


def _read_yaml(text: str) -> Any:
    content = _yaml().load(text)
    return CommentedMap() if content is None else content


_PARSERS: Mapping[str, Callable[[str], Any]] = {YAML: _read_yaml, JSON: json.loads, TOML: tomlkit.parse}
