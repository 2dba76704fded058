"""The server's parts, put together once, and handed to every route."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from backends import registry
from sweeps.errors import SweepError
from sweeps.server.auth import Keys
from sweeps.server.faults import Faults
from sweeps.server.job_updates import Teller
from sweeps.server.metrics import Counters
from sweeps.server.predictions import Predictions
from sweeps.server.records import Part, StoredFile, Upload
from sweeps.server.runner import Runner
from sweeps.server.settings import ServerSettings, Trainer
from sweeps.server.storage import Store
from sweeps.server.webhooks import Webhooks


class Service:
    """A server's parts. `start` goes on with the jobs of the folder; `close` leaves them for the next server."""

    def __init__(self, settings: ServerSettings, faults: Faults) -> None:
        self.settings, self.faults = settings, faults
        self._lock = _claim(settings.root)
        for name in ("files", "incoming", "models", "jobs"):
            (settings.root / name).mkdir(parents=True, exist_ok=True)
        self.store = Store(settings.root / "server.sqlite")
        self._delete_left()
        self.keys = Keys(settings.keys)
        self.trainer = Trainer(settings, registry.load(settings.backend))
        self.webhooks = Webhooks(self.store, settings.webhook, settings.webhook_secret)
        self.teller = Teller(
            self.store,
            settings.root,
            self.webhooks.announce,
            organization=settings.organization,
            kept_checkpoints=settings.kept_checkpoints,
        )
        self.runner = Runner(self.store, self.trainer, self.teller, settings.root, settings.min_examples)
        self.runner.faults = faults
        self.predictions = Predictions(self.trainer, settings.root)
        self.counters = Counters(self.store)

    def start(self) -> None:
        """Begin to work."""
        self.delete_expired()
        self.webhooks.start()
        self.runner.start()

    def close(self) -> None:
        """Leave everything as it is, and end."""
        self.runner.close()
        self.predictions.close()
        self.webhooks.close()
        self.store.close()
        self._lock.close()

    def content(self, file: StoredFile) -> Path:
        """Return where a file's content is."""
        return self.settings.root / "files" / file.id

    def incoming(self, name: str) -> Path:
        """Return where an upload is written to."""
        return self.settings.root / "incoming" / name

    def delete_expired(self) -> None:
        """Delete the files and end the uploads whose time is over."""
        now = int(time.time())
        for file in self.store.all(StoredFile, "expires_at <= ?", now):
            self.store.delete(StoredFile, file.id)
            self.content(file).unlink(missing_ok=True)
        for upload in self.store.all(Upload, "expires_at <= ? AND status = 'pending'", now):
            self.store.change(Upload, upload.id, status="expired")
            self.delete_parts(upload.id)

    def delete_parts(self, upload_id: str) -> None:
        """Delete the parts of an upload that has ended."""
        for part in self.store.all(Part, "upload_id = ?", upload_id):
            self.store.delete(Part, part.id)
            self.incoming(part.id).unlink(missing_ok=True)

    def _delete_left(self) -> None:
        """Delete what a server left that was killed while it wrote: bodies half received, contents without a file."""
        parts = {each.id for each in self.store.all(Part)}
        for left in (self.settings.root / "incoming").iterdir():
            if left.name not in parts:
                left.unlink()
        files = {each.id for each in self.store.all(StoredFile)}
        for left in (self.settings.root / "files").iterdir():
            if left.name not in files:
                left.unlink()


def _claim(root: Path) -> IO[str]:
    """Hold the folder for this process. Raises SweepError where another server holds it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / "lock").open("a+")
    except OSError as error:
        raise SweepError(f"{root} cannot be written: {error.strerror}", "give another folder with --root") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        lock.close()
        hint = "end it, or give another folder with --root"
        raise SweepError(f"process {holder} serves {root} already", hint) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
