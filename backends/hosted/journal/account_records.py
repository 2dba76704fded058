"""Records of the accounts at hosts: uploads, token counts, limits, and the reasons for waiting."""

from __future__ import annotations

from backends.hosted.journal.database import Database
from backends.waiting import Waiting


class AccountRecords:
    """The accounts of a workspace. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --------------------------------------------------------------------------------------- limits
    def block_creations(self, account: str, until: float) -> None:
        """Record that an account has reached a limit: create no job there before `until`."""
        self._database.execute(
            "INSERT INTO limits VALUES (:account, :until) ON CONFLICT DO UPDATE SET until = max(until, :until)",
            {"account": account, "until": until},
        )

    def creations_blocked_until(self, account: str) -> float:
        """Return the time until which an account may create no job; 0 if it has no limit."""
        rows = self._database.execute("SELECT until FROM limits WHERE account = :account", {"account": account})
        return rows[0][0] if rows else 0.0

    def set_wait(self, run_or_account: str, reason: str, until: float) -> None:
        """Record why a run or an account waits, and until when."""
        self._database.execute(
            "INSERT INTO waits VALUES (:who, :reason, :until) "
            "ON CONFLICT DO UPDATE SET reason = :reason, until = :until",
            {"who": run_or_account, "reason": reason, "until": until},
        )

    def wait(self, run_or_account: str, now: float) -> Waiting | None:
        """Return why a run or an account waits at `now`, or None if it does not."""
        rows = self._database.execute(
            "SELECT reason, until FROM waits WHERE who = :who AND until > :now", {"who": run_or_account, "now": now}
        )
        return Waiting(*rows[0]) if rows else None

    # -------------------------------------------------------------------------------------- uploads
    def upload(self, account: str, purpose: str, sha256: str) -> str | None:
        """Return the host's id of an uploaded file, or None if there is none."""
        rows = self._database.execute(
            "SELECT file FROM uploads WHERE account = :account AND purpose = :purpose AND sha256 = :sha256",
            {"account": account, "purpose": purpose, "sha256": sha256},
        )
        return rows[0][0] if rows else None

    def set_upload(self, account: str, purpose: str, sha256: str, file: str | None) -> None:
        """Record the host's id of an uploaded file, or None if the file no longer exists."""
        self._database.execute(
            "INSERT INTO uploads VALUES (:account, :purpose, :sha256, :file) ON CONFLICT DO UPDATE SET file = :file",
            {"account": account, "purpose": purpose, "sha256": sha256, "file": file},
        )

    def forget_upload(self, file: str) -> None:
        """Forget a file at the host: it no longer exists, or this workspace no longer needs it."""
        self._database.execute("UPDATE uploads SET file = NULL WHERE file = :file", {"file": file})

    def uploads(self, account: str) -> list[str]:
        """Return the host's ids of all files that this workspace has uploaded."""
        rows = self._database.execute(
            "SELECT file FROM uploads WHERE account = :account AND file IS NOT NULL", {"account": account}
        )
        return [file for (file,) in rows]

    # --------------------------------------------------------------------------------- token counts
    def set_tokens_per_epoch(self, model: str, sha256: str, tokens_per_epoch: float) -> None:
        """Record the host's own token count of a training file."""
        self._database.execute(
            "INSERT INTO tokens VALUES (:model, :sha256, :count) ON CONFLICT DO UPDATE SET per_epoch = :count",
            {"model": model, "sha256": sha256, "count": tokens_per_epoch},
        )

    def tokens_per_epoch(self, model: str, sha256: str) -> float | None:
        """Return the host's own token count of a training file, or None if it is unknown."""
        rows = self._database.execute(
            "SELECT per_epoch FROM tokens WHERE model = :model AND sha256 = :sha256", {"model": model, "sha256": sha256}
        )
        return rows[0][0] if rows else None
