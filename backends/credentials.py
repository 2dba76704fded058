"""Secrets by name.

The process passes in its environment once, and a backend asks for a secret when it opens.

Options name the variable that holds a secret and never the secret itself, so no plan, record or
fingerprint contains one. `NAME_FILE` names a file with the value, as container platforms mount
secrets. If both are set, NAME wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

from backends.contract import BackendError, Failure, FailureKind

_source: Mapping[str, str] = {}
_known: set[str] = set()

MASK = "<secret>"
SHORTEST_MASKED = 8
"""A shorter value is not masked, because it would match inside ordinary words."""

_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?$|_PASS$|^PASS$", re.IGNORECASE)
_IN_URL = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
_IN_HEADER = re.compile(r"(?i)(?<=bearer )[\w.~+/=-]{6,}")


def use_secrets_from(source: Mapping[str, str]) -> None:
    """Make `source`, usually the environment, the mapping in which `secret` looks.

    It is not copied.
    """
    global _source  # noqa: PLW0603  one process has one environment
    _source = source


def make_file_names_absolute(environment: MutableMapping[str, str]) -> None:
    """Make each `NAME_FILE` absolute whose value is the relative path of a file.

    Processes that inherit the environment may run in another folder, as Ray's workers do.
    """
    for name, value in list(environment.items()):
        path = Path(value.strip())
        if name.endswith("_FILE") and value.strip() and not path.is_absolute() and path.is_file():
            environment[name] = str(path.absolute())


def secret(name: str, source: Mapping[str, str] | None = None) -> str | None:
    """Return the secret of this name, or None if neither NAME nor NAME_FILE is set.

    Looks in `source` if given, otherwise in the mapping of `use_secrets_from`. Raises BackendError
    if the file cannot be read.
    """
    source = _source if source is None else source
    if value := source.get(name, "").strip():
        _known.add(value)
        return value
    if not (path := source.get(f"{name}_FILE", "").strip()):
        return None
    try:
        content = Path(path).read_text(encoding="utf-8").strip()
        _known.add(content)
        return content or None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        message = f"the file that {name}_FILE names cannot be read: {reason}"
        raise BackendError(Failure(FailureKind.USER, message, f"Set {name}, or correct {name}_FILE.")) from error


def required_secret(name: str, source: Mapping[str, str] | None = None) -> str:
    """Return the secret of this name, as `secret` does. Raises BackendError (user) without one."""
    value = secret(name, source)
    if value is None:
        message = f"a secret is missing: {name} is not set"
        remedy = f"Set {name}, or set {name}_FILE to the path of a file that contains it."
        raise BackendError(Failure(FailureKind.USER, message, remedy))
    return value


def masked(text: str) -> str:
    """Return the text with each known secret replaced by `MASK`.

    Known are the secrets that `secret` has returned, the values of variables whose names end like
    those of secrets (`..._KEY`, `..._TOKEN`), passwords in URLs, and bearer tokens.
    """
    for value in sorted(_secret_values(), key=len, reverse=True):
        text = text.replace(value, MASK)
    return _IN_HEADER.sub(MASK, _IN_URL.sub(MASK, text))


def _secret_values() -> Iterator[str]:
    named = {value.strip() for name, value in _source.items() if _SECRET_NAME.search(name)}
    for value in named | _known:
        if len(value) >= SHORTEST_MASKED:
            yield value
