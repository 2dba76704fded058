"""Authentication: API keys, and the rule for servers that have none.

Keys are compared by digest in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from sweeps.server.errors import ApiError

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
"""The host names under which only this machine can reach a server."""

_CHALLENGE = {"WWW-Authenticate": "Bearer"}


class ApiKeys:
    """The accepted API keys; only their digests stay in memory.

    Without any key, every request is accepted.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def authenticate(self, headers: Mapping[str, str]) -> None:
        """Accept `Authorization: Bearer KEY`, and `api-key: KEY` as Azure's clients send it.

        Raises ApiError (401) if the key is missing or wrong. The key is compared with all accepted
        keys, so that the response time reveals nothing.
        """
        if not self._digests:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            key = headers.get("api-key", "")
        if not key.strip():
            message = "You didn't provide an API key. Send it in an Authorization header: Bearer YOUR_KEY."
            raise ApiError(401, message, code="missing_api_key", headers=_CHALLENGE)
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, accepted) for accepted in self._digests]
        if not any(matches):
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key", headers=_CHALLENGE)


def named_hosts(headers: Mapping[str, str]) -> list[str | None]:
    """Return the host names in `Host` and `Origin`; None for an empty one.

    Raises ApiError (400) if one of them cannot be read.
    """
    hosts = []
    for name, prefix in (("host", "//"), ("origin", "")):
        if name in headers or name == "host":
            try:
                hosts.append(urlsplit(prefix + headers.get(name, "")).hostname)
            except ValueError:
                message = f"The header {name.capitalize()} cannot be read: {headers[name][:64]!r}"
                raise ApiError(400, message, code="invalid_header") from None
    return hosts


def require_local(hosts: Iterable[str | None]) -> None:
    """Accept only requests from programs on this machine. A local server without keys needs this.

    A web page that is open in a browser on this machine can also send requests: under its own name
    (`Origin`), or through a host name of its own that resolves to 127.0.0.1 (`Host`). Raises
    ApiError (403) for both.
    """
    for host in hosts:
        if host not in LOOPBACK_HOSTS:
            name = "a request without a host name" if host is None else repr(host[:64])
            message = f"Without API keys this server accepts requests from this machine only, not {name}."
            raise ApiError(403, message, code="host_not_allowed")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
