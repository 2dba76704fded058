"""Sends a summary through Apprise. An address holds secrets: none is ever part of a message, an error or a log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.errors import SweepError


@dataclass(frozen=True)
class Address:
    """Where to send, and by what name people know it without seeing it: the variable or the file it came from."""

    url: str
    known_as: str


def check_installed() -> None:
    """Raise SweepError where Apprise is not installed."""
    try:
        import apprise  # noqa: F401
    except ImportError:
        hint = "install it: pip install 'finesweep[notify]'; without it the summaries are written to files only"
        raise SweepError("notices are sent by Apprise, which is not installed", hint) from None


def send(addresses: Sequence[Address], title: str, html: str, *, failure: bool) -> list[str]:
    """Send to every address. Returns what did not work, each in words without the address; never raises for that."""
    from apprise import Apprise, NotifyFormat, NotifyType

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its messages name hosts and users
    problems = []
    for address in addresses:
        sender = Apprise()
        if not sender.add(address.url):
            problems.append(f"an address in {address.known_as} is none that Apprise understands")
            continue
        kind = NotifyType.FAILURE if failure else NotifyType.INFO
        if not sender.notify(title=title, body=html, body_format=NotifyFormat.HTML, notify_type=kind):
            problems.append(f"the notice to an address in {address.known_as} was not delivered")
    return problems


def addresses(text: str, known_as: str) -> list[Address]:
    """Read addresses: one a line or separated by blanks; lines that begin with # are left out."""
    lines = (line.strip() for line in text.splitlines())
    return [Address(url, known_as) for line in lines if line and not line.startswith("#") for url in line.split()]
