"""What every request passes before a route: the key, the size of the body, the counters, the injected faults."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sweeps.server.auth import admit_neighbour
from sweeps.server.errors import SERVER, ApiError
from sweeps.server.service import Service

_OPEN = frozenset({"/healthz", "/openapi.json"})
"""Paths that ask for no key."""

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
"""Those that are counted under their names: a client must not be able to make up counters."""

_CREATE = ("POST", "/v1/fine_tuning/jobs")


class Gate:
    """Counts, misbehaves where it shall, asks for the key, and refuses bodies that are too large."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._admit(scope, receive, counting, send)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            counters = self._service.counters
            method = scope["method"] if scope["method"] in _METHODS else "other"
            counters.requests.labels(method, route, str(status)).inc()
            counters.seconds.labels(route).observe(time.monotonic() - started)

    async def _admit(self, scope: Scope, receive: Receive, send: Send, raw: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            if scope["path"] not in _OPEN:
                self._service.keys.admit(headers)
                if self._service.settings.local_only and not self._service.keys:
                    admit_neighbour(headers)
            if self._service.faults and scope["path"].startswith("/v1/"):
                if self._service.faults.strikes("connection_cut") is not None:
                    await _cut(raw)
                    return
                self._fault_before(scope)
            if not headers.get("content-type", "").startswith("multipart/form-data"):
                receive = await self._whole(receive)
        except ApiError as error:
            await _drain(receive)
            await _refuse(send, error)
            return
        if self._service.faults and (scope["method"], scope["path"]) == _CREATE:
            await self._create(scope, receive, send, raw)
        else:
            await self._app(scope, receive, send)

    async def _whole(self, receive: Receive) -> Receive:
        """Read the whole body, and return what gives it once more. Raises ApiError (413)."""
        limit = self._service.settings.max_body_bytes
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                break
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise ApiError(413, f"The body is larger than the limit of {limit} bytes.", code="body_too_large")
            chunks.append(chunk)
            more = message.get("more_body", False)
        body = b"".join(chunks)
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return again

    # ----------------------------------------------------------------------------------------------------------- faults
    def _fault_before(self, scope: Scope) -> None:
        """Raise the error that a request gets before anything is done, where a fault says so."""
        faults = self._service.faults
        if faults.strikes("server_error") is not None:
            raise ApiError(503, "injected fault: server_error", type_=SERVER, code="server_error")
        if (seconds := faults.strikes("rate_limit")) is not None:
            headers = {"Retry-After": seconds}
            raise ApiError(429, "Rate limit reached.", code="rate_limit_exceeded", type_="requests", headers=headers)
        if (scope["method"], scope["path"]) != _CREATE:
            return
        if faults.strikes("daily_limit") is not None:
            message = (
                "This fine-tune request has been rate-limited. Your organization has reached the maximum number of "
                "fine-tuning requests per day for this model."
            )
            raise ApiError(429, message, code="daily_rate_limit_exceeded")
        if faults.strikes("training_not_available") is not None:
            message = "Your organization is no longer able to create new fine-tuning training jobs."
            raise ApiError(403, message, code="training_not_available")

    async def _create(self, scope: Scope, receive: Receive, send: Send, raw: Send) -> None:
        """Create a job, and lose or delay the answer where a fault says so."""
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        await self._app(scope, receive, hold)
        faults = self._service.faults
        if held and held[0].get("status") == 200:
            if (seconds := faults.strikes("slow_create")) is not None:
                await asyncio.sleep(float(seconds))
            if faults.strikes("lost_answer") is not None:
                await _cut(raw)
                return
            if faults.strikes("error_after_accept") is not None:
                error = ApiError(500, "injected fault: error_after_accept", type_=SERVER, code="server_error")
                await _refuse(send, error)
                return
        for message in held:
            await send(message)


async def _drain(receive: Receive) -> None:
    """Read what the client still sends, up to a limit: one that is cut off while it sends never sees the answer."""
    left = 2**26
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


async def _refuse(send: Send, error: ApiError) -> None:
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _cut(raw: Send) -> None:
    """Cut the connection without a byte of an answer. `raw` is a method of uvicorn's, which holds the transport."""
    owner: Any = getattr(raw, "__self__", None)
    owner.transport.abort()
    await asyncio.sleep(0.01)  # the connection's loss is noticed in the loop's next rounds
