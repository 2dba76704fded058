"""Webhooks: notify a URL that a job has ended, signed and with retries for about a day.

They follow the specification at https://www.standardwebhooks.com.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
import urllib.error
import urllib.request

from sweeps.server.background_loop import BackgroundLoop
from sweeps.server.records import Delivery, new_id
from sweeps.server.storage import Store

_LOG = logging.getLogger("sweeps.server")

ATTEMPTS = 12
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 3600.0
TIMEOUT_S = 10.0


class Webhooks:
    """Delivers webhooks in the background.

    Those that are pending at a restart are delivered after it.
    """

    def __init__(self, store: Store, url: str | None, secret: str | None) -> None:
        self._store, self._url, self._secret = store, url, secret
        self._loop = BackgroundLoop("webhooks", self._deliver_due, pause_s=0.5)

    def notify(self, event_type: str, job_id: str) -> None:
        """Queue the notification that a job has ended. Without a URL, do nothing."""
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
        """Stop delivering."""
        self._loop.close()

    def _deliver_due(self) -> None:
        if self._url is None:
            return
        for delivery in self._store.due_deliveries(time.time()):
            if self._loop.closing.is_set():
                return
            self._deliver(self._url, delivery)

    def _deliver(self, url: str, delivery: Delivery) -> None:
        request = urllib.request.Request(url, delivery.body.encode(), self._headers(delivery), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                self._store.delete_delivery(delivery.id)
                return
        except urllib.error.HTTPError as error:
            reason = f"answered {error.code}"
            error.close()
        except (OSError, ValueError) as error:
            reason = f"cannot be reached: {error}"
        if delivery.attempts + 1 >= ATTEMPTS:
            _LOG.warning("gave up on webhook %s after %d attempts: the URL %s", delivery.id, ATTEMPTS, reason)
            self._store.delete_delivery(delivery.id)
            return
        pause_s = min(FIRST_PAUSE_S * 4.0**delivery.attempts, LONGEST_PAUSE_S)
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
