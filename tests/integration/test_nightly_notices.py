"""Notifications: the way of a summary through Apprise to a real SMTP and a real HTTP server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from example_night import DONE, SCHEDULE

from sweeps.cli.nights import claimed, notify
from sweeps.scheduling import notifications, summary
from sweeps.scheduling.schedule import NotificationSettings
from sweeps.scheduling.store import ScheduleStore
from sweeps.workspace import Workspace

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Mailbox:
    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.messages.append((envelope.rcpt_tos, message_from_bytes(envelope.content, policy=policy.default)))
        return "250 OK"


@pytest.fixture
def smtp() -> Iterator[tuple[Mailbox, int]]:
    mailbox = Mailbox()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    yield mailbox, port
    controller.stop()


@pytest.fixture
def http() -> Iterator[tuple[list[dict[str, Any]], list[int], int]]:
    posted: list[dict[str, Any]] = []
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers.pop(0) if answers else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield posted, answers, server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_mail_and_webhook_deliver_the_summary(
    smtp: tuple[Mailbox, int], http: tuple[list[dict[str, Any]], list[int], int]
) -> None:
    mailbox, port = smtp
    posted, _, webhook_port = http
    text = f"""
    # by mail and by webhook
    mailto://127.0.0.1:{port}/?from=night@example.org&to=team@example.org&mode=insecure
    json://127.0.0.1:{webhook_port}/hook
    """
    addresses = notifications.parse_addresses(text, "TEAM")
    assert [address.source for address in addresses] == ["TEAM", "TEAM"]
    page = summary.html(SCHEDULE, DONE)
    assert notifications.send(addresses, summary.title(SCHEDULE, DONE), page, failure=False) == []
    [(recipients, mail)] = mailbox.messages
    assert recipients == ["team@example.org"]
    assert mail["Subject"] == "snli, night of 2027-01-15: done · new champion"
    body = mail.get_body(("html",)).get_content()
    for text in (
        "12 tonight",
        "9 healthy, 3 overfit",
        "$1.23",
        "snli version 7 is the new champion",
        "0.876",
        "&lt;b&gt;x",
    ):
        assert text in body
    assert "<b>x" not in body
    [request] = posted
    assert request["title"] == mail["Subject"]
    assert request["type"] == "info"
    assert "9 healthy, 3 overfit" in request["message"]


def test_a_failed_delivery_is_reported_without_the_address(
    http: tuple[list[dict[str, Any]], list[int], int], caplog: pytest.LogCaptureFixture
) -> None:
    posted, answers, webhook_port = http
    answers.append(500)
    text = f"json://user:hidden-word@127.0.0.1:{webhook_port}/\nnonsense-hidden-word://x\njson://user:hidden-word@127.0.0.1:9/"
    problems = notifications.send(notifications.parse_addresses(text, "TEAM"), "t", "<p>b</p>", failure=True)
    assert problems == [
        "could not deliver to an address in TEAM",
        "Apprise does not understand an address in TEAM",
        "could not deliver to an address in TEAM",
    ]
    assert posted[0]["type"] == "failure"
    assert "hidden-word" not in caplog.text


def test_a_notification_that_reached_nobody_is_due_again(
    http: tuple[list[dict[str, Any]], list[int], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted, answers, webhook_port = http
    schedule = replace(SCHEDULE, notify=NotificationSettings(("TEAM",)))
    monkeypatch.setenv("TEAM", f"json://127.0.0.1:{webhook_port}/")
    answers.append(500)
    assert not notify(Workspace(tmp_path), schedule, DONE)
    [written] = tmp_path.rglob("*.md")
    assert "- **not delivered**: could not deliver to an address in TEAM\n" in written.read_text()
    assert notify(Workspace(tmp_path), schedule, DONE)
    assert "not delivered" not in written.read_text()
    monkeypatch.setenv("TEAM", f"json://127.0.0.1:9/ json://127.0.0.1:{webhook_port}/")
    assert notify(Workspace(tmp_path), schedule, DONE), (
        "one address was reached, so the others get no second notification"
    )
    assert len(posted) == 3
    monkeypatch.delenv("TEAM")
    assert notify(Workspace(tmp_path), schedule, DONE), "without an address there is nothing to retry"


def test_a_night_by_hand_first_reports_the_one_that_was_killed_before(
    http: tuple[list[dict[str, Any]], list[int], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    posted, _, webhook_port = http
    monkeypatch.setenv("TEAM", f"json://127.0.0.1:{webhook_port}/")
    workspace = Workspace(tmp_path)
    store = ScheduleStore.open(workspace, None)
    schedule = store.add(replace(SCHEDULE, notify=NotificationSettings(("TEAM",))))
    assert store.claims.claim_now(schedule.name, "killed", datetime(2020, 1, 1, tzinfo=UTC)) is not None
    assert claimed(workspace, store, schedule, planned=False) is not None
    store.close()
    [post] = posted
    assert "LOST" in post["title"]
