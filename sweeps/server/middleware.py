"""The middleware for every request: API key, body size, counters, injected faults."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sweeps.server.auth import require_local_origin
from sweeps.server.errors import SERVER_ERROR, ApiError
from sweeps.server.service import Service

_PATHS_WITHOUT_KEY = frozenset({"/healthz", "/openapi.json"})

_COUNTED_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
"""The methods that are counted by name.

All others share one counter, so that a client cannot create new ones.
"""

_JOB_CREATION = ("POST", "/v1/fine_tuning/jobs")

_MAX_DISCARDED_BYTES = 2**26


class RequestChecks:
    """Counts requests, injects faults, and checks the key and the size of the body."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request as ASGI specifies."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._check_and_handle(scope, receive, send_and_note_status, send)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            metrics = self._service.metrics
            method = scope["method"] if scope["method"] in _COUNTED_METHODS else "other"
            metrics.requests.labels(method, route, str(status)).inc()
            metrics.request_seconds.labels(route).observe(time.monotonic() - started)

    async def _check_and_handle(self, scope: Scope, receive: Receive, send: Send, uvicorn_send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        faults = self._service.faults
        try:
            if scope["path"] not in _PATHS_WITHOUT_KEY:
                self._service.keys.authenticate(headers)
                if self._service.settings.local_only and not self._service.keys:
                    require_local_origin(headers)
            if faults and scope["path"].startswith("/v1/"):
                if faults.strike("connection_cut") is not None:
                    await _abort_connection(uvicorn_send)
                    return
                self._raise_injected_error(scope)
            if not headers.get("content-type", "").startswith("multipart/form-data"):
                receive = await self._buffer_body(receive)
        except ApiError as error:
            await _discard_body(receive)
            await _send_error(send, error)
            return
        if faults and (scope["method"], scope["path"]) == _JOB_CREATION:
            await self._create_job_with_faults(scope, receive, send, uvicorn_send)
        else:
            await self._app(scope, receive, send)

    async def _buffer_body(self, receive: Receive) -> Receive:
        """Read the whole body, and return a callable that delivers it again.

        Raises ApiError (413).
        """
        limit = self._service.settings.max_body_bytes
        chunks: list[bytes] = []
        size, has_more = 0, True
        while has_more:
            message = await receive()
            if message["type"] != "http.request":
                break
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise ApiError(413, f"The body is larger than the limit of {limit} bytes.", code="body_too_large")
            chunks.append(chunk)
            has_more = message.get("more_body", False)
        body = b"".join(chunks)
        is_delivered = False

        async def receive_again() -> Message:
            nonlocal is_delivered
            if is_delivered:
                return await receive()
            is_delivered = True
            return {"type": "http.request", "body": body, "more_body": False}

        return receive_again

    # --------------------------------------------------------------------------------------- faults
    def _raise_injected_error(self, scope: Scope) -> None:
        """Raise ApiError if a fault refuses the request before anything happens."""
        faults = self._service.faults
        if faults.strike("server_error") is not None:
            raise ApiError(503, "injected fault: server_error", type_=SERVER_ERROR, code="server_error")
        if (seconds := faults.strike("rate_limit")) is not None:
            headers = {"Retry-After": seconds}
            raise ApiError(429, "Rate limit reached.", code="rate_limit_exceeded", type_="requests", headers=headers)
        if (scope["method"], scope["path"]) != _JOB_CREATION:
            return
        if faults.strike("daily_limit") is not None:
            message = (
                "This fine-tune request has been rate-limited. Your organization has reached the maximum number of "
                "fine-tuning requests per day for this model."
            )
            raise ApiError(429, message, code="daily_rate_limit_exceeded")
        if faults.strike("training_not_available") is not None:
            message = "Your organization is no longer able to create new fine-tuning training jobs."
            raise ApiError(403, message, code="training_not_available")

    async def _create_job_with_faults(self, scope: Scope, receive: Receive, send: Send, uvicorn_send: Send) -> None:
        """Create a job, and lose, delay or replace the answer if a fault hits."""
        answer: list[Message] = []

        async def collect(message: Message) -> None:
            answer.append(message)

        await self._app(scope, receive, collect)
        faults = self._service.faults
        if answer and answer[0].get("status") == 200:
            if (seconds := faults.strike("slow_create")) is not None:
                await asyncio.sleep(float(seconds))
            if faults.strike("lost_answer") is not None:
                await _abort_connection(uvicorn_send)
                return
            if faults.strike("error_after_accept") is not None:
                message = "injected fault: error_after_accept"
                await _send_error(send, ApiError(500, message, type_=SERVER_ERROR, code="server_error"))
                return
        for part in answer:
            await send(part)


async def _discard_body(receive: Receive) -> None:
    """Read the rest of the body, up to a limit.

    A client that is still sending would miss the answer otherwise.
    """
    remaining = _MAX_DISCARDED_BYTES
    while remaining > 0:
        message = await receive()
        remaining -= len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


async def _send_error(send: Send, error: ApiError) -> None:
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _abort_connection(uvicorn_send: Send) -> None:
    """Break the connection without any answer.

    `uvicorn_send` is a method of an object that holds the transport.
    """
    protocol: Any = getattr(uvicorn_send, "__self__", None)
    protocol.transport.abort()
    # uvicorn notices the loss of the connection in the next rounds of the event loop
    await asyncio.sleep(0.01)
