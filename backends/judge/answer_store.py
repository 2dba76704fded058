"""`AnswerStore`: what the judge has said and what it has cost, in one file of the workspace."""

from __future__ import annotations

import fcntl
import math
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backends.contract import BackendError, Failure, FailureKind
from backends.sqlite_file import SqliteFile, rows_of
from backends.waiting import Waiting

FILE_NAME = "answers.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    question TEXT PRIMARY KEY,       -- a digest of host, model, settings and texts
    reply TEXT NOT NULL, finish TEXT NOT NULL, answered_at REAL NOT NULL,
    is_final INTEGER NOT NULL        -- 0: the reply holds no rating, and the question is asked once more
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (  -- questions that a process is asking
    question TEXT PRIMARY KEY, owner TEXT NOT NULL,
    is_sent INTEGER NOT NULL DEFAULT 0,  -- 1: a request is on its way, and may cost what follows
    tokens INTEGER NOT NULL DEFAULT 0, usd REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS charges (
    number INTEGER PRIMARY KEY, question TEXT NOT NULL, tokens INTEGER NOT NULL, usd REAL,
    is_lost INTEGER NOT NULL,            -- 1: no reply arrived, and the charge is the most that it can be
    is_reported INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS waits (   -- why a process makes no progress; for people to read
    owner TEXT PRIMARY KEY, reason TEXT NOT NULL, until REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS charges_by_question ON charges (question);
"""


@dataclass(frozen=True)
class StoredReply:
    """A reply of the judge, and why it ended. After a final one, nobody asks again."""

    text: str
    finish: str
    is_final: bool


@dataclass(frozen=True)
class Claim:
    """The outcome of a claim.

    `ours`: this process asks; `reply` is a first one without a rating, if there is one. `taken`:
    another process is asking. `answered`: `reply` is final.
    """

    state: Literal["ours", "taken", "answered"]
    reply: StoredReply | None = None


@dataclass(frozen=True)
class Charge:
    """What requests have cost; `usd` is None if a price is unknown.

    `lost` of them got no reply. Each of those counts as the most that it can have cost.
    """

    tokens: int = 0
    usd: float | None = 0.0
    lost: int = 0


class AnswerStore:
    """The answers of a workspace. Several processes and threads may share it.

    Every change is on the disk when its method returns. A claim ends with the process that holds
    it, however that ends. Every method raises BackendError where SQLite or the disk fails.
    """

    def __init__(self, folder: Path) -> None:
        self._owners = folder / "owners"
        self._owner = uuid.uuid4().hex
        with _translated_disk_errors(folder):
            self._owners.mkdir(parents=True, exist_ok=True)
            self._lock_file = (self._owners / self._owner).open("ab")
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            self._file = SqliteFile(folder / FILE_NAME, _SCHEMA, _noun(folder))
        except BackendError:
            self._drop_lock()
            raise

    def close(self) -> None:
        """Give up the claims of this process, and close the file."""
        with self._changes():
            self._file.execute("DELETE FROM claims WHERE owner = :owner AND is_sent = 0", {"owner": self._owner})
            self._file.execute("DELETE FROM waits WHERE owner = :owner", {"owner": self._owner})
        self._file.close()
        self._drop_lock()

    def final_reply(self, question: str) -> StoredReply | None:
        """Return the final reply to a question, if there is one."""
        reply = self._reply(question)
        return reply if reply is not None and reply.is_final else None

    def claim(self, question: str) -> Claim:
        """Take the question, unless it is answered or another live process is asking it.

        A request that a dead process had sent counts as a charge, because the host may have
        answered it.
        """
        with self._changes():
            reply = self._reply(question)
            if reply is not None and reply.is_final:
                return Claim("answered", reply)
            rows = self._file.execute("SELECT owner FROM claims WHERE question = :question", {"question": question})
            if rows and rows[0][0] != self._owner and self._is_alive(rows[0][0]):
                return Claim("taken")
            self._count_lost(question)
            self._file.execute(
                "INSERT OR REPLACE INTO claims (question, owner) VALUES (:question, :owner)",
                {"question": question, "owner": self._owner},
            )
            return Claim("ours", reply)

    def release(self, question: str) -> None:
        """Give up a claim, so that another process can ask."""
        with self._changes():
            self._delete_claim(question)

    def sending(self, question: str, tokens: int, usd: float | None) -> None:
        """Record that a request leaves now, and the most that it can cost."""
        with self._changes():
            self._file.execute(
                "UPDATE claims SET is_sent = 1, tokens = :tokens, usd = :usd "
                "WHERE question = :question AND owner = :owner",
                {"question": question, "owner": self._owner, "tokens": tokens, "usd": usd},
            )

    def failed(self, question: str, *, may_cost: bool) -> None:
        """Record that the request failed. `may_cost`: the host may have answered it."""
        with self._changes():
            if may_cost:
                self._count_lost(question)
            self._file.execute("UPDATE claims SET is_sent = 0 WHERE question = :question", {"question": question})

    def answered(self, question: str, reply: StoredReply, tokens: int, usd: float | None) -> None:
        """Record a reply and what it cost. A final one ends the claim."""
        with self._changes():
            self._file.execute(
                "INSERT OR REPLACE INTO answers (question, reply, finish, answered_at, is_final) "
                "VALUES (:question, :reply, :finish, :now, :is_final)",
                {
                    "question": question,
                    "reply": reply.text,
                    "finish": reply.finish,
                    "now": time.time(),
                    "is_final": reply.is_final,
                },
            )
            self._charge(question, tokens, usd, is_lost=False)
            if reply.is_final:
                self._delete_claim(question)
            else:
                self._file.execute("UPDATE claims SET is_sent = 0 WHERE question = :question", {"question": question})

    def waits(self, reason: str, until: float) -> None:
        """Record that this process makes no progress before `until` (seconds since the epoch)."""
        with self._file.transaction():
            self._file.execute(
                "INSERT OR REPLACE INTO waits (owner, reason, until) VALUES (:owner, :reason, :until)",
                {"owner": self._owner, "reason": reason, "until": until},
            )

    def unreported(self, questions: Sequence[str]) -> Charge:
        """Return what the questions have cost, as far as no measurement has reported it."""
        return _total(self._unreported_rows(questions))

    def report(self, questions: Sequence[str]) -> Charge:
        """Return what the questions have cost, and note that it is reported."""
        with self._changes():
            rows = self._unreported_rows(questions)
            for number, *_ in rows:
                self._file.execute("UPDATE charges SET is_reported = 1 WHERE number = :number", {"number": number})
        return _total(rows)

    # ------------------------------------------------------------------------------------- internal
    @contextmanager
    def _changes(self) -> Iterator[None]:
        with self._file.durable(), self._file.transaction():
            yield

    def _drop_lock(self) -> None:
        with self._lock_file, _translated_disk_errors(self._owners):
            (self._owners / self._owner).unlink(missing_ok=True)

    def _reply(self, question: str) -> StoredReply | None:
        rows = self._file.execute(
            "SELECT reply, finish, is_final FROM answers WHERE question = :question", {"question": question}
        )
        return StoredReply(rows[0][0], rows[0][1], bool(rows[0][2])) if rows else None

    def _unreported_rows(self, questions: Sequence[str]) -> list[tuple[int, int, float | None, int]]:
        statement = "SELECT number, tokens, usd, is_lost FROM charges WHERE question = :question AND is_reported = 0"
        return [
            row
            for question in dict.fromkeys(questions)
            for row in self._file.execute(statement, {"question": question})
        ]

    def _charge(self, question: str, tokens: int, usd: float | None, *, is_lost: bool) -> None:
        self._file.execute(
            "INSERT INTO charges (question, tokens, usd, is_lost) VALUES (:question, :tokens, :usd, :is_lost)",
            {"question": question, "tokens": tokens, "usd": usd, "is_lost": is_lost},
        )

    def _count_lost(self, question: str) -> None:
        """Charge the request of the question's claim, if one was sent."""
        statement = "SELECT tokens, usd FROM claims WHERE question = :question AND is_sent = 1"
        for tokens, usd in self._file.execute(statement, {"question": question}):
            self._charge(question, tokens, usd, is_lost=True)

    def _delete_claim(self, question: str) -> None:
        self._file.execute(
            "DELETE FROM claims WHERE question = :question AND owner = :owner",
            {"question": question, "owner": self._owner},
        )

    def _is_alive(self, owner: str) -> bool:
        """Return whether the owner of a claim lives. The system drops its lock when it ends."""
        path = self._owners / owner
        with _translated_disk_errors(path):
            try:
                stream = path.open("rb+")
            except FileNotFoundError:
                return False
            with stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return True
                path.unlink(missing_ok=True)
                return False


def longest_wait(folder: Path) -> Waiting | None:
    """Return the longest wait of a process that uses the store in `folder`. Writes nothing."""
    statement = "SELECT reason, until FROM waits WHERE until > :now ORDER BY until DESC LIMIT 1"
    rows = rows_of(folder / FILE_NAME, _noun(folder), statement, {"now": time.time()})
    return Waiting(*rows[0]) if rows else None


def _noun(folder: Path) -> str:
    return f"the answers of the judge in {folder / FILE_NAME}"


def _total(rows: Iterable[tuple[int, int, float | None, int]]) -> Charge:
    rows = list(rows)
    usd = [row[2] for row in rows if row[2] is not None]
    return Charge(
        sum(row[1] for row in rows), math.fsum(usd) if len(usd) == len(rows) else None, sum(row[3] for row in rows)
    )


@contextmanager
def _translated_disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"cannot use {error.filename or path} for the answers of the judge: {os.strerror(error.errno or 0)}"
        raise BackendError(Failure(FailureKind.USER, message, "Free some space, or use another workspace.")) from error
