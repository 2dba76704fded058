"""The validation of new jobs: check and prepare their files, then queue them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from sweeps.server import datasets
from sweeps.server.background_loop import BackgroundLoop
from sweeps.server.faults import Faults
from sweeps.server.file_storage import FileStorage
from sweeps.server.folder import ServerFolder
from sweeps.server.job_updates import JobUpdater
from sweeps.server.records import Job, JobFailure, JobStatus, log_line
from sweeps.server.resource_faults import resource_fault
from sweeps.server.storage import Store

_LOG = logging.getLogger("sweeps.server")


class JobValidator:
    """Validates new jobs in the background, the oldest first.

    Calls `job_queued` after each job that is ready to run.
    """

    def __init__(
        self,
        store: Store,
        updater: JobUpdater,
        files: FileStorage,
        folder: ServerFolder,
        faults: Faults,
        min_examples: int,
        job_queued: Callable[[], None],
    ) -> None:
        self._store, self._updater, self._files = store, updater, files
        self._folder, self._faults = folder, faults
        self._min_examples, self._job_queued = min_examples, job_queued
        self._loop = BackgroundLoop("validator", self._validate_all, pause_s=1.0)

    def start(self) -> None:
        """Begin to validate."""
        self._loop.start()

    def wake(self) -> None:
        """Look for new jobs now."""
        self._loop.wake()

    def close(self) -> None:
        """Finish the job at hand, and end. The next server validates the others."""
        self._loop.close()

    def _validate_all(self) -> None:
        for job in self._store.all(Job, "status = ?", JobStatus.VALIDATING.value):
            if self._loop.closing.is_set():
                return
            if not self._faults.blocks_validation(job.id):
                self._validate_or_report(job)

    def _validate_or_report(self, job: Job) -> None:
        """Validate a job. An error that will pass leaves it for later; another one fails it."""
        try:
            self._validate(job)
        except Exception as error:
            fault = resource_fault(error, self._folder.root)
            # the loop logs it, and tries again
            if fault is not None and fault.passes:
                raise
            _LOG.error("job %s", job.id, exc_info=error)
            self._fail(job, JobFailure("internal_error", f"{type(error).__name__}: {error}"))

    def _validate(self, job: Job) -> None:
        if injected := self._faults.job_failure(job.id):
            self._fail(job, injected)
            return
        training = self._folder.content(job.training_file)
        validation = None if job.validation_file is None else self._folder.content(job.validation_file)
        try:
            data, notes = datasets.prepare_dataset(
                training, validation, job.task, self._folder.job_data(job.id), self._min_examples
            )
        except datasets.DatasetError as error:
            self._fail(job, error.failure)
            return
        except OSError as error:
            if resource_fault(error, self._folder.root) is not None:
                raise
            message = f"The file cannot be read: {error.strerror or error}"
            self._fail(job, JobFailure("invalid_training_file", message, "training_file"))
            return
        lines = [log_line(job.id, note, level="warn") for note in notes]
        if self._faults.affects("moderation", job.id) is not None:
            checks = log_line(job.id, "Moderation checks passed", data={"blocked": False, "results": []})
            lines.append(dataclasses.replace(checks, type="moderation_checks"))
        lines.append(log_line(job.id, "Files validated, moving job to queued state"))
        if not self._store.change_status(job.id, JobStatus.QUEUED, lines, data=data):
            self._files.delete_working_files(job.id)  # a client has cancelled it meanwhile
        self._job_queued()

    def _fail(self, job: Job, failure: JobFailure) -> None:
        self._updater.fail(job, failure)
        self._files.delete_working_files(job.id)
