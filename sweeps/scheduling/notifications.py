"""Sends a summary through Apprise.

An address contains secrets, so no message, error or log includes one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from sweeps.errors import SweepError


@dataclass(frozen=True)
class Address:
    """An Apprise URL, and the variable or file that it came from. Messages name only the latter."""

    url: str = field(repr=False)
    source: str


def check_installed() -> None:
    """Raise SweepError if Apprise is not installed."""
    try:
        import apprise  # noqa: F401
    except ImportError:
        hint = "Run: pip install 'finesweep[notify]'. Without it, summaries are only written to files."
        raise SweepError("notifications need apprise, which is not installed", hint) from None


def send(addresses: Sequence[Address], title: str, html: str, *, failure: bool) -> list[str]:
    """Send to every address, and return one message per failed delivery, without the address.

    A failed delivery raises nothing.
    """
    from apprise import Apprise, NotifyFormat, NotifyType

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its messages name hosts and users
    problems = []
    for address in addresses:
        sender = Apprise()
        if not sender.add(address.url):
            problems.append(f"Apprise does not understand an address in {address.source}")
            continue
        kind = NotifyType.FAILURE if failure else NotifyType.INFO
        if not sender.notify(title=title, body=html, body_format=NotifyFormat.HTML, notify_type=kind):
            problems.append(f"could not deliver to an address in {address.source}")
    return problems


def parse_addresses(text: str, source: str) -> list[Address]:
    """Read addresses separated by line breaks or blanks. Lines that begin with # are comments."""
    lines = (line.strip() for line in text.splitlines())
    return [Address(url, source) for line in lines if line and not line.startswith("#") for url in line.split()]
