"""The middleware for every request: API key, limits of the body, counters, injected faults."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sweeps.server.auth import named_hosts, require_local
from sweeps.server.errors import SERVER_ERROR, ApiError
from sweeps.server.request_bodies import (
    BodyMemory,
    ClientGone,
    LimitedBody,
    deliver_once,
    size_limit,
    streams_to_disk,
)
from sweeps.server.service import Service

_PATHS_WITHOUT_KEY = frozenset({"/healthz", "/openapi.json"})

_COUNTED_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
"""The methods that are counted by name.

All others share one counter, so that a client cannot create new ones.
"""

_JOB_CREATION = ("POST", "/v1/fine_tuning/jobs")

_HEADERS_THAT_OCCUR_ONCE = frozenset({"authorization", "api-key", "host", "origin", "content-type"})


class RequestChecks:
    """Counts requests, injects faults, and checks the key and the body."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._memory = BodyMemory()

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
        except asyncio.CancelledError:
            if not self._service.is_stopping:
                raise
            # the request has had its time: its client has not sent it, or does not read the answer
            _abort_connection(send)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            metrics = self._service.metrics
            method = scope["method"] if scope["method"] in _COUNTED_METHODS else "other"
            metrics.requests.labels(method, route, str(status)).inc()
            metrics.request_seconds.labels(route).observe(time.monotonic() - started)

    async def _check_and_handle(self, scope: Scope, receive: Receive, send: Send, uvicorn_send: Send) -> None:
        faults = self._service.faults
        limited_body = LimitedBody(receive, size_limit(scope, self._service.settings))
        size = 0
        try:
            headers = _single_headers(scope)
            if scope["path"] not in _PATHS_WITHOUT_KEY:
                self._service.keys.authenticate(headers)
            hosts = named_hosts(headers)
            if scope["path"] not in _PATHS_WITHOUT_KEY and self._service.settings.local_only and not self._service.keys:
                require_local(hosts)
            if faults and scope["path"].startswith("/v1/"):
                if faults.strike("connection_cut") is not None:
                    _abort_connection(uvicorn_send)
                    return
                self._raise_injected_error(scope)
            if streams_to_disk(scope):
                receive = limited_body
            else:
                body = await self._memory.read(limited_body)
                size = len(body)
                receive = deliver_once(body, receive)
        except ApiError as error:
            await limited_body.discard()
            await _send_error(send, error)
            return
        except ClientGone:
            return
        try:
            if faults and (scope["method"], scope["path"]) == _JOB_CREATION:
                await self._create_job_with_faults(scope, receive, send, uvicorn_send)
            else:
                await self._app(scope, receive, send)
        finally:
            self._memory.release(size)

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
                _abort_connection(uvicorn_send)
                return
            if faults.strike("error_after_accept") is not None:
                message = "injected fault: error_after_accept"
                await _send_error(send, ApiError(500, message, type_=SERVER_ERROR, code="server_error"))
                return
        for part in answer:
            await send(part)


def _single_headers(scope: Scope) -> dict[str, str]:
    """Return the headers by their names in lower case.

    Raises ApiError (400) if a header that decides who may do what occurs twice: programs on the way
    could take the one, and the server the other.
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1")
        if name in _HEADERS_THAT_OCCUR_ONCE and name in headers:
            raise ApiError(400, f"The request has the header {name} twice.", code="duplicate_header")
        headers[name] = raw_value.decode("latin-1")
    return headers


async def _send_error(send: Send, error: ApiError) -> None:
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _abort_connection(uvicorn_send: Send) -> None:
    """Break the connection without any answer.

    `uvicorn_send` is a method of the object that holds the transport.
    """
    cycle: Any = getattr(uvicorn_send, "__self__", None)
    cycle.transport.abort()
    # uvicorn would notice it a little later, and until then report a missing answer
    cycle.disconnected = True
