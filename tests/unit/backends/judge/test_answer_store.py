"""The store of the judge's answers: claims, charges, and what a dead process leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.contract import BackendError, FailureKind
from backends.judge.answer_store import AnswerStore, Charge, StoredReply

pytestmark = pytest.mark.unit

REPLY = StoredReply('{"grade": 4}', "stop", is_final=True)
UNREAD = StoredReply("hm", "stop", is_final=False)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AnswerStore]:
    store = AnswerStore(tmp_path)
    yield store
    store.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[AnswerStore]:
    store = AnswerStore(tmp_path)
    yield store
    store.close()


def test_a_question_is_claimed_once_and_answered_for_all(store: AnswerStore, other: AnswerStore) -> None:
    assert store.claim("q").state == "ours"
    assert other.claim("q").state == "taken"
    store.sending("q", 100, 0.5)
    store.answered("q", REPLY, 10, 0.05)
    assert other.claim("q").reply == REPLY
    assert other.final_reply("q") == REPLY
    assert store.final_reply("another") is None


def test_a_released_claim_is_free(store: AnswerStore, other: AnswerStore) -> None:
    store.claim("q")
    other.release("q")  # not its own
    assert other.claim("q").state == "taken"
    store.release("q")
    assert other.claim("q").state == "ours"


def test_a_first_reply_without_a_rating_is_kept_for_the_second_attempt(store: AnswerStore, other: AnswerStore) -> None:
    store.claim("q")
    store.answered("q", UNREAD, 10, 0.05)
    assert store.final_reply("q") is None
    assert other.claim("q").state == "taken"
    store.release("q")
    claim = other.claim("q")
    assert (claim.state, claim.reply) == ("ours", UNREAD)


def test_charges_are_reported_once(store: AnswerStore, other: AnswerStore) -> None:
    for name in ("q1", "q2"):
        store.claim(name)
        store.answered(name, REPLY, 10, 0.25)
    assert store.unreported(["q1", "q1", "q2"]) == Charge(20, 0.5, 0)
    assert other.report(["q1"]) == Charge(10, 0.25, 0)
    assert store.report(["q1", "q2"]) == Charge(10, 0.25, 0)
    assert store.report(["q1", "q2"]) == Charge(0, 0.0, 0)


def test_an_unknown_price_makes_the_charge_unknown(store: AnswerStore) -> None:
    store.claim("q")
    store.answered("q", REPLY, 10, None)
    assert store.report(["q"]) == Charge(10, None, 0)


def test_a_request_without_a_reply_counts_as_lost_only_if_it_may_cost(store: AnswerStore) -> None:
    store.claim("q")
    store.sending("q", 100, 0.5)
    store.failed("q", may_cost=False)
    assert store.unreported(["q"]) == Charge(0, 0.0, 0)
    store.sending("q", 100, 0.5)
    store.failed("q", may_cost=True)
    store.release("q")
    assert store.unreported(["q"]) == Charge(100, 0.5, 1)


def test_a_killed_process_loses_its_claims_and_what_it_had_sent_is_charged(tmp_path: Path, store: AnswerStore) -> None:
    program = f"""
import sys
from pathlib import Path
from backends.judge.answer_store import AnswerStore
store = AnswerStore(Path({str(tmp_path)!r}))
store.claim("sent"), store.claim("unsent")
store.sending("sent", 100, 0.5)
print("ready", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd()
    )
    assert process.stdout is not None
    assert process.stdin is not None
    with process.stdout, process.stdin:
        assert process.stdout.readline() == b"ready\n"
        assert store.claim("sent").state == "taken"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert store.claim("sent").state == "ours"
    assert store.claim("unsent").state == "ours"
    assert store.unreported(["sent", "unsent"]) == Charge(100, 0.5, 1)


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError) as raised:
        AnswerStore(tmp_path / "file" / "judge")
    assert raised.value.failure.kind is FailureKind.USER


def test_a_damaged_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "answers.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(BackendError, match="the answers of the judge"):
        AnswerStore(tmp_path)
