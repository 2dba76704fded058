"""Webhooks, as the genuine client verifies them."""

from __future__ import annotations

import base64
import http.server
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

SECRET = "whsec_" + base64.b64encode(b"a secret of twenty-four b").decode()


class Receiver(http.server.ThreadingHTTPServer):
    """Takes webhooks; the first `refusals` are answered with 500."""

    def __init__(self, refusals: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refusals = refusals
        self.taken: queue.Queue[tuple[str, dict[str, str]]] = queue.Queue()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        refused = self.server.refusals > 0
        self.server.refusals -= 1
        if not refused:
            self.server.taken.put((body, dict(self.headers)))
        self.send_response(500 if refused else 204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(refusals=1) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_ends_of_jobs_are_told_and_signed(serve: Any, make_client: Any, receiver: Receiver, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    pace = ("--set", "seconds_per_epoch=0.2", "--webhook", url)
    server = serve(*pace, environment={"SWEEP_WEBHOOK_SECRET": SECRET})
    client = make_client(server.client(webhook_secret=SECRET))
    good = client.create(hyperparameters={"n_epochs": 1})
    bad = client.create(b"{broken")
    long = client.create(hyperparameters={"n_epochs": 50})
    client.wait(long.id, "running")
    client.api.fine_tuning.jobs.cancel(long.id)
    told = {}
    for _ in range(3):
        body, headers = receiver.taken.get(timeout=30)
        event = client.api.webhooks.unwrap(body, headers)
        told[event.type] = event.data.id
        with pytest.raises(ValueError, match=r"(?i)signature"):
            client.api.webhooks.verify_signature(body + " ", headers)
    assert told == {
        "fine_tuning.job.succeeded": good.id,
        "fine_tuning.job.failed": bad.id,
        "fine_tuning.job.cancelled": long.id,
    }
    assert receiver.taken.empty()
    server.stop()
    written = b"".join(each.read_bytes() for each in (tmp_path / "root").rglob("*") if each.is_file())
    assert SECRET[6:].encode() not in written + "".join(server.log).encode()
