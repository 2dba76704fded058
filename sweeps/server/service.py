"""The components of a server, built once and handed to every route."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from typing import IO

from backends import registry
from sweeps.errors import SweepError
from sweeps.server.auth import ApiKeys
from sweeps.server.faults import Faults
from sweeps.server.file_storage import FileStorage
from sweeps.server.folder import ServerFolder
from sweeps.server.job_execution import JobExecutor
from sweeps.server.job_runner import JobRunner
from sweeps.server.job_updates import JobUpdater
from sweeps.server.job_validation import JobValidator
from sweeps.server.predictions import PredictionQueue
from sweeps.server.prometheus_metrics import PrometheusMetrics
from sweeps.server.resource_faults import resource_fault
from sweeps.server.settings import ServerSettings
from sweeps.server.storage import Store
from sweeps.server.training_backend import TrainingBackend
from sweeps.server.webhooks import Webhooks


class Service:
    """The components of a server.

    `start` continues the jobs in its folder, and `close` leaves them for the next server. Raises
    SweepError if another server uses the folder, pydantic.ValidationError for wrong backend
    options.
    """

    def __init__(self, settings: ServerSettings, faults: Faults) -> None:
        self.settings, self.faults = settings, faults
        self.is_stopping = False
        """Whether the server no longer waits for its requests."""
        self.folder = ServerFolder(settings.root)
        self._lock = _lock(self.folder)
        self.store, self.files = self._open_storage()
        self.keys = ApiKeys(settings.keys)
        self.backend = TrainingBackend(settings, registry.load(settings.backend), self.folder.backend)
        self.webhooks = Webhooks(self.store, settings.webhook, settings.webhook_secret)
        updater = JobUpdater(
            self.store,
            self.files,
            self.folder,
            self.webhooks.notify,
            organization=settings.organization,
            kept_checkpoints=settings.kept_checkpoints,
        )
        self.executor = JobExecutor(self.store, self.backend, updater, self.files, self.folder)
        self.runner = JobRunner(self.store, self.backend, updater, self.files, self.executor)
        self.validator = JobValidator(
            self.store, updater, self.files, self.folder, faults, settings.min_examples, job_queued=self.runner.wake
        )
        self.predictions = PredictionQueue(self.backend, self.folder.worker_log)
        self.metrics = PrometheusMetrics(self.store)

    def _open_storage(self) -> tuple[Store, FileStorage]:
        """Open the database, and delete what a killed server left.

        Raises SweepError if the folder cannot be used.
        """
        try:
            self.folder.create()
            store = Store(self.folder.database)
            files = FileStorage(store, self.folder)
            files.delete_leftovers()
        except (OSError, sqlite3.Error) as error:
            self._lock.close()
            fault = resource_fault(error, self.folder.root)
            reason = fault.message if fault is not None else f"{error}"
            hint = "Mend it, or choose another folder with --root."
            raise SweepError(f"cannot use the folder {self.folder.root}: {reason}", hint) from error
        return store, files

    def start(self) -> None:
        """Begin the work in the background."""
        self.files.delete_expired()
        self.webhooks.start()
        self.validator.start()
        self.runner.start()

    def close(self) -> None:
        """End all work in the background, and release the folder."""
        self.runner.close()
        self.validator.close()
        self.predictions.close()
        self.webhooks.close()
        self.store.close()
        self._lock.close()


def _lock(folder: ServerFolder) -> IO[str]:
    """Lock the folder for this process.

    Raises SweepError if another server uses it or nobody can write to it.
    """
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        lock = folder.lock.open("a+")
    except OSError as error:
        message = f"cannot write to {folder.root}: {error.strerror}"
        raise SweepError(message, "Choose another folder with --root.") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        process_id = lock.read().strip()
        lock.close()
        holder = f"process {process_id}" if process_id else "another process"
        message = f"{holder} serves {folder.root} already"
        raise SweepError(message, "Stop it, or choose another folder with --root.") from None
    lock.truncate(0)
    with contextlib.suppress(OSError):  # on a full disk the lock holds all the same; only its message is poorer
        os.write(lock.fileno(), str(os.getpid()).encode())
    return lock
