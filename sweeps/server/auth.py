"""API keys: compared by their digests, in constant time; the keys themselves are not kept."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from sweeps.server.errors import ApiError

LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
"""The names by which only this machine is reached."""


class Keys:
    """The accepted keys. Without any, every request is let in."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def admit(self, headers: Mapping[str, str]) -> None:
        """Let a request in by `Authorization: Bearer KEY`, or by `api-key: KEY` as Azure's clients send it.

        Raises ApiError (401) otherwise. Every key is compared, so that the time tells nothing.
        """
        if not self._digests:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = headers.get("api-key", "")
        if not given.strip():
            message = "You didn't provide an API key. Send it in an Authorization header: Bearer YOUR_KEY."
            raise ApiError(401, message, code="missing_api_key", headers=_CHALLENGE)
        digest = _digest(given.strip())
        if not any([hmac.compare_digest(digest, each) for each in self._digests]):  # noqa: C419  all are compared
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key", headers=_CHALLENGE)


def admit_neighbour(headers: Mapping[str, str]) -> None:
    """Let a request in that a program of this machine sends; for a server without keys that only listens locally.

    A web page that is open in a browser here can send requests, too, in its own name (`Origin`) or through a name of
    its own that leads to 127.0.0.1 (`Host`). Raises ApiError (403) for those.
    """
    names = [urlsplit(f"//{headers.get('host', '')}").hostname]
    if "origin" in headers:
        names.append(urlsplit(headers["origin"]).hostname)
    for name in names:
        if name not in LOCAL:
            message = f"Without API keys this server answers this machine alone, not {str(name)[:64]!r}."
            raise ApiError(403, message, code="host_not_allowed")


_CHALLENGE = {"WWW-Authenticate": "Bearer"}


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
