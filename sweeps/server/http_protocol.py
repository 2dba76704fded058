"""HTTP connections with limits: their number, the time for headers, the time for answers to leave.

uvicorn waits without end for the headers of a request and for a client that does not read its
answer. Some hundred such clients would take every file descriptor of the process. The time for
bodies is limited in `request_bodies`.
"""

from __future__ import annotations

import asyncio
import json
import resource
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sweeps.server.errors import SERVER_ERROR, ApiError

HEADER_TIMEOUT_S = 20.0
"""How long a client may take to send the headers of a request, and how long it may stay idle."""

WRITE_TIMEOUT_S = 60.0
"""How long a client may take to read 64 KiB of an answer."""

ACCEPTED_AT_ONCE = 128
"""How many waiting connections the event loop accepts before it looks at the first of them."""

_MIN_IDLE_S = 1.0
_MOST_CONNECTIONS = 512
_FEWEST_CONNECTIONS = 16
_DESCRIPTORS_FOR_WORK = 192


def max_connections() -> int:
    """Return how many connections the process can hold and still have descriptors for its work.

    A connection may need a second descriptor for the file that it sends or receives.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    free = limit - _DESCRIPTORS_FOR_WORK - ACCEPTED_AT_ONCE
    return max(_FEWEST_CONNECTIONS, min(_MOST_CONNECTIONS, free // 2))


def limited_protocol(connections: int) -> type[H11Protocol]:
    """Return the protocol class of a server that holds at most so many connections."""
    return type("LimitedProtocol", (LimitedProtocol,), {"max_connections": connections})


class LimitedProtocol(H11Protocol):
    """One connection.

    If there are too many, the server closes the one that has waited longest for a request; if none
    waits, it refuses the new one with 503.
    """

    max_connections: ClassVar[int] = _MOST_CONNECTIONS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waits_since: float | None = None
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    # ----------------------------------------------------------------------------------- connection
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, or refuse it."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections and not self._close_an_idle_connection():
            message = f"The server has reached its limit of {self.max_connections} connections. Try again later."
            headers = {"Retry-After": "5"}
            self._answer_and_close(ApiError(503, message, code="overloaded", type_=SERVER_ERROR, headers=headers))
            return
        self._note_progress()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._cancel_header_timer()
        self._cancel_write_timer()
        super().connection_lost(exc)

    def _close_an_idle_connection(self) -> bool:
        now = self.loop.time()
        idle = [
            (connection._waits_since, connection)
            for connection in self.connections
            if isinstance(connection, LimitedProtocol) and connection._waits_since is not None
        ]
        since, oldest = min(idle, key=lambda pair: pair[0], default=(now, None))
        if oldest is None or oldest is self or now - since < _MIN_IDLE_S:
            return False
        self.connections.discard(oldest)  # its place is free at once, not in the next round of the loop
        oldest.transport.abort()
        return True

    # ------------------------------------------------------------------------------------- requests
    def handle_events(self) -> None:
        """Handle what has arrived."""
        super().handle_events()
        self._note_progress()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._note_progress()

    def _note_progress(self) -> None:
        """Start the clock if the connection waits for a request, and stop it otherwise."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._waits_since = None
            self._cancel_header_timer()
        elif self._header_timer is None and not self.transport.is_closing():
            self._waits_since = self.loop.time()
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._handle_header_timeout)

    def _handle_header_timeout(self) -> None:
        self._header_timer = None
        if self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size() or self.conn.our_state is not h11.IDLE:
            self.transport.abort()
            return
        message = f"The headers of the request did not arrive within {HEADER_TIMEOUT_S:.0f} seconds."
        self._answer_and_close(ApiError(408, message, code="request_timeout"))

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _should_upgrade(self) -> bool:
        """Answer in HTTP, and advise nobody to install WebSockets: the server has none."""
        return False

    # -------------------------------------------------------------------------------------- answers
    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            # the body is broken: whoever reads it learns that the client has gone
            has_begun = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if has_begun:
                self.transport.close()
                return
        self._answer_and_close(ApiError(400, msg, code="invalid_http"))

    def _answer_and_close(self, error: ApiError) -> None:
        body = json.dumps(error.body()).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        headers += error.headers.items()
        events: list[Any] = [
            h11.Response(status_code=error.status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        try:
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # an answer has begun: there is nothing left to say
        self.transport.close()

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read its answer."""
        super().pause_writing()
        self._cancel_write_timer()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Continue: the client has read."""
        super().resume_writing()
        self._cancel_write_timer()

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
