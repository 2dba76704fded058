"""The hosted backend: any service that speaks the OpenAI fine-tuning protocol; hosts are profiles, which are data.

`HostedBackend` is loaded when it is asked for; the `openai` package comes with the first connection.
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
