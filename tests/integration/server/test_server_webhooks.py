"""Webhooks, verified by the real client."""

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
    """Receives webhooks. It answers the first `refusals` requests with 500."""

    def __init__(self, refusals: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refusals = refusals
        self.accepted: queue.Queue[tuple[str, dict[str, str]]] = queue.Queue()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        is_refused = self.server.refusals > 0
        self.server.refusals -= 1
        if not is_refused:
            self.server.accepted.put((body, dict(self.headers)))
        self.send_response(500 if is_refused else 204)
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


def test_a_webhook_reports_each_end_of_a_job_and_is_signed(
    serve: Any, make_client: Any, receiver: Receiver, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    pace = ("--set", "seconds_per_epoch=0.2", "--webhook", url)
    server = serve(*pace, environment={"SWEEP_WEBHOOK_SECRET": SECRET})
    client = make_client(server.client(webhook_secret=SECRET))
    good = client.create(hyperparameters={"n_epochs": 1})
    bad = client.create(b"{broken")
    long = client.create(hyperparameters={"n_epochs": 50})
    client.wait(long.id, "running")
    client.api.fine_tuning.jobs.cancel(long.id)
    job_ids = {}
    for _ in range(3):
        body, headers = receiver.accepted.get(timeout=30)
        event = client.api.webhooks.unwrap(body, headers)
        job_ids[event.type] = event.data.id
        with pytest.raises(ValueError, match=r"(?i)signature"):
            client.api.webhooks.verify_signature(body + " ", headers)
    assert job_ids == {
        "fine_tuning.job.succeeded": good.id,
        "fine_tuning.job.failed": bad.id,
        "fine_tuning.job.cancelled": long.id,
    }
    assert receiver.accepted.empty()
    server.stop()
    written = b"".join(path.read_bytes() for path in (tmp_path / "root").rglob("*") if path.is_file())
    assert SECRET[6:].encode() not in written + "".join(server.log).encode()
