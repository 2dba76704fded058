"""Secrets, by name: handed in once a process by whoever may read the environment, asked for by a backend that opens.

A secret is never an option, so it is in no plan, no record and no fingerprint; options name the variable that holds it.
`NAME_FILE` names a file with the value, as container platforms mount secrets; the variable itself wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backends.contract import BackendError, Failure, FailureKind

_source: Mapping[str, str] = {}


def hand_in(source: Mapping[str, str]) -> None:
    """Make a mapping (the environment, as a rule) what `secret` looks into from now on. It is not copied."""
    global _source  # noqa: PLW0603  one process has one environment
    _source = source


def secret(name: str, source: Mapping[str, str] | None = None) -> str | None:
    """Return the secret of this name, or None where neither NAME nor NAME_FILE is set.

    Looks into `source`, else into what was handed in. Raises BackendError where the file cannot be read.
    """
    source = _source if source is None else source
    if value := source.get(name, "").strip():
        return value
    if not (path := source.get(f"{name}_FILE", "").strip()):
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        message = f"the file that {name}_FILE names cannot be read: {reason}"
        raise BackendError(Failure(FailureKind.USER, message, f"set {name}, or repair {name}_FILE")) from error
