"""Checks of SWEEP_STORAGE that need no database: mistakes in the URL, and missing drivers."""

from __future__ import annotations

from typing import Any

from sweeps.errors import Problem, UserInputError

CONNECT_TIMEOUT_S = 10
"""Without a limit, an address that drops packets holds a command up for two minutes."""

_LIMITS_OF_LIBPQ = {
    "tcp_user_timeout": 6_000,
    "keepalives_idle": 6,
    "keepalives_interval": 3,
    "keepalives_count": 3,
}
"""When a connection counts as lost, in milliseconds, seconds and packets. Without them a network
that drops everything holds up a query for a quarter of an hour. The kernel of a server that is only
busy still answers."""

_EXAMPLE = "write a URL such as postgresql+psycopg://USER:PASSWORD@HOST/DATABASE or sqlite:////PATH/studies.db"


def check_storage_url(url: str) -> None:
    """Raise UserInputError if no database can have this URL. Contacts nothing.

    The message contains no part of the URL that could be a password.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise _problem("is not the URL of a database", _EXAMPLE) from None
    try:
        dialect = parsed.get_dialect()
        dialect.import_dbapi()
    except NoSuchModuleError:
        raise _problem(f"names an unknown kind of database, {parsed.drivername}", _EXAMPLE) from None
    except ImportError as error:
        hint = "install it (PostgreSQL: pip install 'finesweep[postgres]'), or name another driver"
        raise _problem(f"needs the Python package {error.name} for {parsed.drivername}", hint) from None
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise _problem("names a database in memory, which would be lost at the end", _EXAMPLE)


def connect_arguments(url: str) -> dict[str, Any]:
    """Return the driver's arguments that bound the wait for a server that never answers.

    What the URL itself sets wins.
    """
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return {}
    limits = {"connect_timeout": CONNECT_TIMEOUT_S}
    if parsed.get_driver_name() in ("psycopg", "psycopg2"):
        limits |= _LIMITS_OF_LIBPQ
    return {name: value for name, value in limits.items() if name not in parsed.query}


def _problem(message: str, hint: str) -> UserInputError:
    return UserInputError([Problem("SWEEP_STORAGE", message, hint)])
