"""Telling a URL that a job has ended, signed as in Standard Webhooks, until it is taken or a day has gone by."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import threading
import time
import urllib.error
import urllib.request

from sweeps.server.records import new_id
from sweeps.server.storage import Store

_LOG = logging.getLogger("sweeps.server")

ATTEMPTS = 12
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 3600.0
TIMEOUT_S = 10.0


class Webhooks:
    """Delivers in the background what `announce` has written down; a restart forgets nothing."""

    def __init__(self, store: Store, url: str | None, secret: str | None) -> None:
        self._store, self._url, self._secret = store, url, secret
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="webhooks", daemon=True)

    def announce(self, type_: str, job_id: str) -> None:
        """Note that a job has ended; does nothing where nobody is to be told."""
        if self._url is None:
            return
        id_ = new_id("evt_")
        body = {"id": id_, "object": "event", "created_at": int(time.time()), "type": type_, "data": {"id": job_id}}
        self._store.post(id_, json.dumps(body))
        self._wake.set()

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def close(self) -> None:
        """Stop delivering."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        while not self._closing.is_set():
            if self._url is not None:
                for id_, body, attempts in self._store.due(time.time()):
                    if self._closing.is_set():
                        return
                    self._deliver(self._url, id_, body, attempts)
            self._wake.wait(0.5)
            self._wake.clear()

    def _deliver(self, url: str, id_: str, body: str, attempts: int) -> None:
        request = urllib.request.Request(url, body.encode(), self._headers(id_, body), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                self._store.delivered(id_)
                return
        except urllib.error.HTTPError as error:
            reason = f"answered {error.code}"
            error.close()
        except (OSError, ValueError) as error:
            reason = f"cannot be reached: {error}"
        if attempts + 1 >= ATTEMPTS:
            _LOG.warning("the webhook %s was given up: the address %s", id_, reason)
            self._store.delivered(id_)
            return
        self._store.postpone(id_, time.time() + min(FIRST_PAUSE_S * 4.0**attempts, LONGEST_PAUSE_S))

    def _headers(self, id_: str, body: str) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "finesweep", "webhook-id": id_}
        timestamp = str(int(time.time()))
        headers["webhook-timestamp"] = timestamp
        if self._secret is not None:
            headers["webhook-signature"] = signature(self._secret, id_, timestamp, body)
        return headers


def signature(secret: str, id_: str, timestamp: str, body: str) -> str:
    """Return `v1,` and the HMAC-SHA256 of `id.timestamp.body`; a secret may begin with `whsec_`, then it is base64."""
    digest = hmac.new(_key(secret), f"{id_}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def usable(secret: str) -> bool:
    """Whether a secret can be used."""
    try:
        return bool(_key(secret))
    except ValueError:
        return False


def _key(secret: str) -> bytes:
    return base64.b64decode(secret[6:], validate=True) if secret.startswith("whsec_") else secret.encode()
