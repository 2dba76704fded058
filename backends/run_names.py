"""The name of a run's folder and of its handle, for backends that keep runs on disk."""

from __future__ import annotations

import hashlib
import re

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def run_id(key: str) -> str:
    """Return the folder name for `key`: the key if it is a safe file name, else its digest."""
    return key if _SAFE.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()
