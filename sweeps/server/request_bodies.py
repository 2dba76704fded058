"""The bodies of requests, limited by the bytes and the time that they really take.

No header decides about a limit: a client may announce a length or a type that is wrong, or none.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from starlette.types import Message, Receive, Scope

from sweeps.server.errors import SERVER_ERROR, ApiError
from sweeps.server.routes.uploads import MAX_PART_BYTES
from sweeps.server.settings import MIB, ServerSettings

IDLE_TIMEOUT_S = 30.0
"""How long the server waits for the next bytes of a body."""

GRACE_S = 60.0
MIN_BYTES_PER_SECOND = 1000
"""After `GRACE_S` of waiting for it, a body must have arrived at this rate on average."""

MAX_BUFFERED_BYTES = 256 * MIB
"""The most bytes that the bodies in memory may have together."""

_MAX_DISCARDED_BYTES = 64 * MIB
_FORM_OVERHEAD_BYTES = MIB
"""What the other fields and the separators of a multipart body may have."""

_PART_PATH = re.compile(r"/v1/uploads/[^/]+/parts")


class ClientGone(Exception):  # noqa: N818  not an error of the server
    """The client has closed the connection before the end of its body."""


def streams_to_disk(scope: Scope) -> bool:
    """Return whether the route of a request writes its body to the disk as it arrives."""
    path = scope["path"]
    return scope["method"] == "POST" and (path == "/v1/files" or _PART_PATH.fullmatch(path) is not None)


def size_limit(scope: Scope, settings: ServerSettings) -> int:
    """Return the most bytes that the body of a request may have."""
    if not streams_to_disk(scope):
        return settings.max_body_bytes
    largest = settings.max_file_bytes if scope["path"] == "/v1/files" else MAX_PART_BYTES
    return largest + _FORM_OVERHEAD_BYTES


class LimitedBody:
    """The ASGI function `receive` of a request, with limits.

    Raises ApiError 413 for a body that is too large, and 408 for one that arrives too slowly.
    """

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive, self._max_bytes = receive, max_bytes
        self._bytes, self._waited_s, self._has_ended = 0, 0.0, False

    async def __call__(self) -> Message:
        """Return the next message."""
        if self._has_ended:
            return await self._receive()
        allowed_s = GRACE_S + self._bytes / MIN_BYTES_PER_SECOND - self._waited_s
        started = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, min(IDLE_TIMEOUT_S, allowed_s))):
                message = await self._receive()
        except TimeoutError:
            self._has_ended = True
            headers = {"Connection": "close"}
            raise ApiError(
                408, "The body of the request arrives too slowly.", code="request_timeout", headers=headers
            ) from None
        self._waited_s += time.monotonic() - started
        self._bytes += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._has_ended = True
        if self._bytes > self._max_bytes:
            raise ApiError(413, f"The body is larger than the limit of {self._max_bytes} bytes.", code="body_too_large")
        return message

    async def discard(self) -> None:
        """Read the rest, up to a limit.

        A client that is still sending would miss the answer otherwise.
        """
        self._max_bytes = self._bytes + _MAX_DISCARDED_BYTES
        while not self._has_ended:
            try:
                await self()
            except ApiError:
                return


class BodyMemory:
    """Bodies that are read into memory, with a limit for all of them together."""

    def __init__(self) -> None:
        self._bytes = 0

    async def read(self, body: LimitedBody) -> bytes:
        """Return a whole body. The caller passes its length to `release` later.

        Raises ApiError as `LimitedBody` does, and 503 if too many bodies are in memory; ClientGone
        if the body is incomplete.
        """
        chunks: list[bytes] = []
        size = 0
        is_complete = False
        try:
            while not is_complete:
                message = await body()
                if message["type"] != "http.request":
                    raise ClientGone
                chunk = message.get("body", b"")
                if self._bytes + len(chunk) > MAX_BUFFERED_BYTES:
                    message_text = "The server holds too many large requests. Try again later."
                    headers = {"Retry-After": "5"}
                    raise ApiError(503, message_text, code="overloaded", type_=SERVER_ERROR, headers=headers)
                self._bytes += len(chunk)
                size += len(chunk)
                chunks.append(chunk)
                is_complete = not message.get("more_body", False)
        except BaseException:
            self.release(size)
            raise
        return b"".join(chunks)

    def release(self, size: int) -> None:
        """Make room for other bodies."""
        self._bytes -= size


def deliver_once(body: bytes, then: Receive) -> Receive:
    """Return an ASGI function `receive` that delivers a body, and later whatever `then` says."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await then()

    return receive
