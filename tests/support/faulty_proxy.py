"""An HTTP proxy in front of a real server that misbehaves as servers and networks do."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, TypeAlias

Fault: TypeAlias = Literal["none", "500", "429", "html", "hang", "reset", "lost answer"]


class FaultyProxy:
    """Forwards requests to `127.0.0.1:port` while `fault` is `none`.

    - `500`, `429`: answers with this status.
    - `html`: answers 200 with a web page, as the login page of a company's proxy.
    - `hang`: accepts requests and answers nothing until the fault is over.
    - `reset`: breaks the connection.
    - `lost answer`: forwards the request, then breaks the connection instead of answering.
    """

    def __init__(self, port: int) -> None:
        self.fault: Fault = "none"
        self.faults = 0
        self.over = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_arguments: Any) -> None:
                """Say nothing."""

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.answer(self, body, port)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _handle  # noqa: N815 - http.server demands these names

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def break_with(self, fault: Fault) -> None:
        """Misbehave from now on."""
        self.fault = fault
        self.faults = 0
        self.over.clear()

    def mend(self) -> None:
        """Behave from now on. Requests that hang end."""
        self.fault = "none"
        self.over.set()

    def answer(self, request: BaseHTTPRequestHandler, body: bytes, port: int) -> None:
        """Answer one request."""
        fault = self.fault
        self.faults += fault != "none"
        match fault:
            case "none":
                self._reply(request, *self._forwarded(request, body, port))
            case "500" | "429":
                self._reply(request, int(fault), b"<html>the server has a problem</html>", "text/html")
            case "html":
                self._reply(request, 200, b"<html><body>Please log in</body></html>", "text/html")
            case "hang":
                self.over.wait(120)
                request.close_connection = True
            case "reset" | "lost answer":
                if fault == "lost answer":
                    self._forwarded(request, body, port)
                request.close_connection = True
                with contextlib.suppress(OSError):
                    request.connection.shutdown(socket.SHUT_RDWR)

    def _forwarded(self, request: BaseHTTPRequestHandler, body: bytes, port: int) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "connection"}
            connection.request(request.command, request.path, body or None, headers)
            response = connection.getresponse()
            return response.status, response.read(), response.headers.get("Content-Type", "application/json")
        finally:
            connection.close()

    def _reply(self, request: BaseHTTPRequestHandler, status: int, body: bytes, kind: str) -> None:
        with contextlib.suppress(OSError):
            request.send_response(status)
            request.send_header("Content-Type", kind)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)

    def close(self) -> None:
        """Stop the proxy."""
        self.mend()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def faulty_proxy(port: int) -> Iterator[FaultyProxy]:
    """Run a proxy in front of the server at this port."""
    proxy = FaultyProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
