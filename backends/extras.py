"""The optional parts of an installation: which libraries each extra adds, and what to type when one
is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "local": ("torch", "transformers", "peft", "datasets", "safetensors"),
    "metrics": ("math_verify",),
    "s3": ("s3fs",),
    "server": ("fastapi", "uvicorn", "python_multipart", "prometheus_client"),
}
"""The import names of the libraries of each extra. pyproject.toml holds their version ranges."""


def missing_libraries(extra: str) -> tuple[str, ...]:
    """Return the libraries of `extra` that are not installed. Imports none of them."""
    return tuple(library for library in EXTRAS[extra] if find_spec(library) is None)


def install_command(extra: str) -> str:
    """Return the command that installs `extra`."""
    return f"pip install 'finesweep[{extra}]'"
