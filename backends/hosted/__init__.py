"""The hosted backend: fine-tuning at any host with the OpenAI protocol.

Each host is a profile, which is data.

`HostedBackend` loads on first access. Opening a backend loads the `openai` package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.hosted.backend import HostedBackend

__all__ = ["HostedBackend"]


def __getattr__(name: str) -> object:
    if name == "HostedBackend":
        from backends.hosted.backend import HostedBackend

        return HostedBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
