"""Webhooks: notify a URL that a job has ended, signed and with retries for about a day.

They follow the specification at https://www.standardwebhooks.com.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import logging
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sweeps.server.background_loop import BackgroundLoop
from sweeps.server.records import Delivery, new_id
from sweeps.server.storage import LONGEST_POSTPONEMENT_S, Store

_LOG = logging.getLogger("sweeps.server")

ATTEMPTS = 30
"""With pauses of 1, 4, 16, ... seconds up to an hour, these take about a day."""

FIRST_PAUSE_S = 1.0
TIMEOUT_S = 10.0
"""How long a delivery may take, from the connection to the receiver's answer."""


class Webhooks:
    """Delivers webhooks in the background.

    Those that are pending at a restart are delivered after it.
    """

    def __init__(self, store: Store, url: str | None, secret: str | None) -> None:
        self._store, self._url, self._secret = store, url, secret
        self._post = _Poster()
        self._loop = BackgroundLoop("webhooks", self._deliver_due, pause_s=0.5)

    def notify(self, event_type: str, job_id: str) -> None:
        """Queue the notification that a job has ended. Without a URL, do nothing.

        In the transaction that ends the job, so that neither is stored without the other.
        """
        if self._url is None:
            return
        delivery_id = new_id("evt_")
        body = {
            "id": delivery_id,
            "object": "event",
            "created_at": int(time.time()),
            "type": event_type,
            "data": {"id": job_id},
        }
        self._store.add_delivery(delivery_id, json.dumps(body))
        self._loop.wake()

    def start(self) -> None:
        """Begin to deliver."""
        self._loop.start()

    def close(self) -> None:
        """Stop delivering. A delivery at hand is broken off; the next server repeats it."""
        self._loop.closing.set()
        self._post.abort()
        self._loop.close()

    def _deliver_due(self) -> None:
        if self._url is None:
            return
        for delivery in self._store.due_deliveries(time.time()):
            if self._loop.closing.is_set():
                return
            self._deliver(self._url, delivery)

    def _deliver(self, url: str, delivery: Delivery) -> None:
        """Deliver a webhook, or note when to try again. No answer raises an error."""
        reason = self._post(url, delivery.body.encode(), self._headers(delivery))
        if reason is None:
            self._store.delete_delivery(delivery.id)
            return
        if self._loop.closing.is_set():
            return  # this server has broken it off: not a failure of the receiver
        if delivery.attempts + 1 >= ATTEMPTS:
            _LOG.warning("gave up on webhook %s after %d attempts: the URL %s", delivery.id, ATTEMPTS, reason)
            self._store.delete_delivery(delivery.id)
            return
        _LOG.info("webhook %s: the URL %s; the server tries again", delivery.id, reason)
        pause_s = min(FIRST_PAUSE_S * 4.0**delivery.attempts, LONGEST_POSTPONEMENT_S)
        self._store.postpone_delivery(delivery.id, time.time() + pause_s)

    def _headers(self, delivery: Delivery) -> dict[str, str]:
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "finesweep",
            "webhook-id": delivery.id,
            "webhook-timestamp": timestamp,
        }
        if self._secret is not None:
            headers["webhook-signature"] = signature(self._secret, delivery.id, timestamp, delivery.body)
        return headers


class _Poster:
    """Sends requests, one at a time, each within `TIMEOUT_S`. Another thread may abort it."""

    def __init__(self) -> None:
        self._connection: http.client.HTTPConnection | None = None
        self._opener = urllib.request.OpenerDirector()
        for handler in (urllib.request.ProxyHandler(), _HttpHandler(self._remember), _HttpsHandler(self._remember)):
            self._opener.add_handler(handler)

    def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> str | None:
        """Send a request. Return None if the receiver has accepted it, else what it did instead.

        A redirection is no acceptance. Raises nothing: the receiver may answer anything.
        """
        watch = threading.Timer(TIMEOUT_S, self.abort)
        watch.daemon = True
        watch.start()
        try:
            request = urllib.request.Request(url, body, dict(headers), method="POST")
            with self._opener.open(request, timeout=TIMEOUT_S) as response:
                status = response.status
            return None if 200 <= status < 300 else f"answered {status}"
        except (OSError, ValueError) as error:
            return f"cannot be reached: {error}"
        except http.client.HTTPException as error:
            return f"did not answer in HTTP: {type(error).__name__} {str(error)[:200]!r}"
        except Exception as error:  # noqa: BLE001  whatever the receiver sends, the others must be delivered
            return f"cannot be reached: {type(error).__name__}: {error}"
        finally:
            watch.cancel()
            self._connection = None

    def abort(self) -> None:
        """Break off the request at hand, if there is one."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _remember(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection


_Remember = Callable[[http.client.HTTPConnection], None]
_Connection = TypeVar("_Connection", bound=http.client.HTTPConnection)


def _remembered(kind: type[_Connection], remember: _Remember) -> Callable[..., _Connection]:
    """Return a function that opens a connection of this kind and passes it to `remember`."""

    def connect(host: str, **options: Any) -> _Connection:
        connection = kind(host, **options)
        remember(connection)
        return connection

    return connect


class _HttpHandler(urllib.request.HTTPHandler):
    """Opens http URLs, and tells which connection it uses."""

    def __init__(self, remember: _Remember) -> None:
        super().__init__()
        self._remember = remember

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_remembered(http.client.HTTPConnection, self._remember), req)


class _HttpsHandler(urllib.request.HTTPSHandler):
    """Opens https URLs, and tells which connection it uses."""

    def __init__(self, remember: _Remember) -> None:
        super().__init__()
        self._remember = remember

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_remembered(http.client.HTTPSConnection, self._remember), req)


def signature(secret: str, webhook_id: str, timestamp: str, body: str) -> str:
    """Return `v1,` and the HMAC-SHA256 of `id.timestamp.body`, as the specification demands.

    The part of the secret after the prefix `whsec_` is base64; a secret without this prefix is used
    as it is.
    """
    digest = hmac.new(_key(secret), f"{webhook_id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def is_valid_secret(secret: str) -> bool:
    """Return whether a secret can sign: it is not empty, and what follows `whsec_` is base64."""
    try:
        return bool(_key(secret))
    except ValueError:
        return False


def _key(secret: str) -> bytes:
    return base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else secret.encode()
