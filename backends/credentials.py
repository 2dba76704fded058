"""Secrets by name.

The process passes in its environment once, and a backend asks for a secret when it opens.

Options name the variable that holds a secret and never the secret itself, so no plan, record or
fingerprint contains one. `NAME_FILE` names a file with the value, as container platforms mount
secrets. If both are set, NAME wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backends.contract import BackendError, Failure, FailureKind

_source: Mapping[str, str] = {}


def use_secrets_from(source: Mapping[str, str]) -> None:
    """Make `source`, usually the environment, the mapping in which `secret` looks.

    It is not copied.
    """
    global _source  # noqa: PLW0603  one process has one environment
    _source = source


def secret(name: str, source: Mapping[str, str] | None = None) -> str | None:
    """Return the secret of this name, or None if neither NAME nor NAME_FILE is set.

    Looks in `source` if given, otherwise in the mapping of `use_secrets_from`. Raises BackendError
    if the file cannot be read.
    """
    source = _source if source is None else source
    if value := source.get(name, "").strip():
        return value
    if not (path := source.get(f"{name}_FILE", "").strip()):
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        message = f"the file that {name}_FILE names cannot be read: {reason}"
        raise BackendError(Failure(FailureKind.USER, message, f"Set {name}, or correct {name}_FILE.")) from error
