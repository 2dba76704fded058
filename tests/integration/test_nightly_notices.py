"""Telling people: the summary's words, and their way through Apprise to a real SMTP and a real HTTP server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from sweeps.cli.nights import _tell
from sweeps.scheduling import notifications, summary
from sweeps.scheduling.schedule import Night, NightState, Notify, Schedule, Tell
from sweeps.workspace import Workspace

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SCHEDULE = Schedule("snli", "/s.yaml", "0 2 * * *", "Europe/Berlin", 0.0, "06:00")
DECISION = {
    "promoted": True,
    "reason": "better by more than chance explains",
    "challenger_score": 0.9,
    "champion_score": 0.8,
    "difference_low": 0.05,
    "difference_high": 0.15,
    "model": "snli",
    "version": "7",
}
DONE = Night(
    "snli",
    1_800_000_000,
    state=NightState.DONE,
    started_at=1_800_000_010.0,
    ended_at=1_800_003_600.0,
    sweep="snli-2027-01-15",
    reason="the data changed: 120 -> 140 training examples",
    found={
        "worth": "changed",
        "end": "all trials are done",
        "data": "builtin:nli",
        "trials": 12,
        "trials_of_the_sweep": 12,
        "wanted_trials": 12,
        "states": {"complete": 5, "stopped": 7},
        "verdicts": {"healthy": 9, "overfit": 3},
        "priced": True,
        "usd": 1.234,
        "tokens": 51_608,
        "metric": "valid_accuracy",
        "best": {"trial": 4, "value": 0.876, "epoch": 2, "hyperparameters": {"n_epochs": 3, "rate": 0.0388311}},
        "test_accuracy": [0.861, 0.83, 0.889],
        "champion": DECISION,
        "drift": {"report": "/r/drift.md", "words": ["share of <b>x</b>: 0.3 before, 0.5 now"]},
        "report": "/r/report.html",
        "mlflow": "http://127.0.0.1:5000/#/experiments/1",
        "problems": [],
    },
)


class Mailbox:
    def __init__(self) -> None:
        self.letters: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.letters.append((envelope.rcpt_tos, message_from_bytes(envelope.content, policy=policy.default)))
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
    heard: list[dict[str, Any]] = []
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers.pop(0) if answers else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield heard, answers, server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_letter_and_a_hook_bring_the_summary(
    smtp: tuple[Mailbox, int], http: tuple[list[dict[str, Any]], list[int], int]
) -> None:
    mailbox, port = smtp
    heard, _, hook = http
    text = f"""
    # by letter and by hook
    mailto://127.0.0.1:{port}/?from=night@example.org&to=team@example.org&mode=insecure
    json://127.0.0.1:{hook}/hook
    """
    found = notifications.addresses(text, "TELL")
    assert [each.known_as for each in found] == ["TELL", "TELL"]
    page = summary.html(SCHEDULE, DONE)
    assert notifications.send(found, summary.title(SCHEDULE, DONE), page, failure=False) == []
    [(recipients, letter)] = mailbox.letters
    assert recipients == ["team@example.org"]
    assert letter["Subject"] == "snli: the night of 2027-01-15 is done · new champion"
    body = letter.get_body(("html",)).get_content()
    for told in ("12 tonight", "9 healthy, 3 overfit", "$1.23", "snli version 7 is new", "0.876", "&lt;b&gt;x"):
        assert told in body
    assert "<b>x" not in body
    [posted] = heard
    assert posted["title"] == letter["Subject"]
    assert posted["type"] == "info"
    assert "9 healthy, 3 overfit" in posted["message"]


def test_what_was_not_delivered_is_told_without_the_address(
    http: tuple[list[dict[str, Any]], list[int], int], caplog: pytest.LogCaptureFixture
) -> None:
    heard, answers, hook = http
    answers.append(500)
    text = f"json://user:hidden-word@127.0.0.1:{hook}/\nnonsense-hidden-word://x\njson://user:hidden-word@127.0.0.1:9/"
    problems = notifications.send(notifications.addresses(text, "TELL"), "t", "<p>b</p>", failure=True)
    assert problems == [
        "the notice to an address in TELL was not delivered",
        "an address in TELL is none that Apprise understands",
        "the notice to an address in TELL was not delivered",
    ]
    assert heard[0]["type"] == "failure"
    assert "hidden-word" not in caplog.text


def test_a_notice_that_reached_nobody_is_to_be_sent_again(
    http: tuple[list[dict[str, Any]], list[int], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, answers, hook = http
    kept = replace(SCHEDULE, notify=Notify(("TELL_NIGHTS",)))
    monkeypatch.setenv("TELL_NIGHTS", f"json://127.0.0.1:{hook}/")
    answers.append(500)
    assert not _tell(Workspace(tmp_path), kept, DONE)
    [written] = tmp_path.rglob("*.md")
    assert "not told" in written.read_text()
    assert _tell(Workspace(tmp_path), kept, DONE)
    assert "not told" not in written.read_text()
    monkeypatch.setenv("TELL_NIGHTS", f"json://127.0.0.1:9/ json://127.0.0.1:{hook}/")
    assert _tell(Workspace(tmp_path), kept, DONE), "somebody knows, and is not told again and again"
    assert len(heard) == 3
    monkeypatch.delenv("TELL_NIGHTS")
    assert _tell(Workspace(tmp_path), kept, DONE), "there is nothing that could be tried again"


@pytest.mark.parametrize(
    ("when", "state", "worth", "promoted", "told"),
    [
        ("always", NightState.UNCHANGED, "unchanged", False, True),
        ("changes", NightState.UNCHANGED, "unchanged", False, False),
        ("changes", NightState.PARTIAL, "go_on", False, False),
        ("changes", NightState.DONE, "changed", False, True),
        ("changes", NightState.DONE, "go_on", True, True),
        ("failures", NightState.DONE, "changed", True, False),
        ("failures", NightState.FAILED, "first", False, True),
        ("failures", NightState.LOST, "first", False, True),
        ("changes", NightState.FAILED, "go_on", False, True),
    ],
)
def test_quiet_nights_are_quiet_and_failures_always_tell(
    when: Tell, state: NightState, worth: str, promoted: bool, told: bool
) -> None:
    night = replace(DONE, state=state, found={"worth": worth, "champion": {**DECISION, "promoted": promoted}})
    assert summary.is_telling(replace(SCHEDULE, notify=Notify(("T",), (), when)), night) is told


def test_the_summary_of_a_failure_says_why_and_nothing_that_is_not_known() -> None:
    night = Night("snli", 1_800_000_000, state=NightState.FAILED, reason="the file is gone; look <here> *now*")
    text = summary.markdown(SCHEDULE, night)
    assert text == (
        "# snli: the night of 2027-01-15 FAILED\n\n- **state**: failed: the file is gone; look \\<here\\> \\*now\\*\n"
    )
    assert "&lt;here&gt;" in summary.html(SCHEDULE, night)


def test_why_a_night_ran_is_told_apart_from_how_it_ended() -> None:
    told = summary.text(SCHEDULE, replace(DONE, reason="the data changed"))
    assert told.startswith(
        "snli: the night of 2027-01-15 is done · new champion\n  state      done\n  why it ran the data ch"
    )
    quiet = replace(DONE, state=NightState.UNCHANGED, reason="unchanged since 2027-01-14 01:00Z", found={})
    assert "state      unchanged since 2027-01-14 01:00Z\n" in summary.text(SCHEDULE, quiet)


def test_the_champion_that_was_kept_is_named_with_the_reason() -> None:
    decision = {**DECISION, "promoted": False, "reason": "the difference is inside the noise"}
    text = summary.markdown(SCHEDULE, replace(DONE, found={**DONE.found, "champion": decision}))
    assert "- **champion**: snli version 7 did not become it (+0.05 .. +0.15): the difference is inside" in text
    assert "new champion" not in text
