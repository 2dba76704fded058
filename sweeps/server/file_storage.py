"""The contents of files and upload parts on the disk, in step with the database.

The order of the steps decides what a kill leaves. A content is complete before a record names it,
and a record goes before its content. So the only leftovers are contents without a record, and the
next server deletes them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from sweeps.server.folder import ServerFolder
from sweeps.server.records import ENDED_STATUSES, Job, StoredFile, StoredPart, TunedModel, Upload
from sweeps.server.storage import Store

_IS_PENDING = "status = 'pending'"
_IS_ACTIVE = f"status NOT IN ({', '.join(repr(status.value) for status in sorted(ENDED_STATUSES))})"


class FileStorage:
    """Adds and deletes files, upload parts, and what jobs keep. Any thread may call its methods."""

    def __init__(self, store: Store, folder: ServerFolder) -> None:
        self._store, self._folder = store, folder

    # ---------------------------------------------------------------------------------------- files
    def add(self, file: StoredFile, path: Path) -> None:
        """Move the complete content at `path` into the storage, and write the record.

        An added file survives a power failure. After an error nothing of it remains. This also
        deletes the expired files.
        """
        self._add(file, path, None)
        self.delete_expired()

    def complete_upload(self, upload_id: str, file: StoredFile, path: Path) -> bool:
        """Complete a pending upload: add its file as `add` does, and delete its parts.

        Return False, and keep nothing of the file, if the upload has ended already.
        """
        parts = self._add(file, path, upload_id)
        if parts is None:
            return False
        self._delete_incoming(parts)
        self.delete_expired()
        return True

    def _add(self, file: StoredFile, path: Path, upload_id: str | None) -> set[str] | None:
        """Add a file, and end its upload. Return the upload's parts, or None if it had ended."""
        content = self._folder.content(file.id)
        parts: set[str] | None = set()
        is_added = False
        try:
            make_durable(path)
            path.replace(content)
            make_durable(content.parent)
            with self._store.transaction():
                if upload_id is not None:
                    parts = self._end(upload_id, status="completed", file_id=file.id)
                if parts is not None:
                    self._store.add(file)
            is_added = parts is not None
        finally:
            if not is_added:
                path.unlink(missing_ok=True)
                content.unlink(missing_ok=True)
        return parts

    def delete(self, file: StoredFile) -> None:
        """Delete a file. Idempotent."""
        self._store.delete(StoredFile, file.id)
        self._folder.content(file.id).unlink(missing_ok=True)

    # -------------------------------------------------------------------------------------- uploads
    def end_upload(self, upload_id: str, status: str) -> bool:
        """Give a pending upload its last status, and delete its parts.

        Return False if it has ended already.
        """
        with self._store.transaction():
            parts = self._end(upload_id, status=status)
        self._delete_incoming(parts or ())
        return parts is not None

    def _end(self, upload_id: str, **fields: str) -> set[str] | None:
        """Change a pending upload, and delete the records of its parts.

        Return the ids of the parts, or None if the upload has ended already.
        """
        if not self._store.update(Upload, upload_id, condition=_IS_PENDING, **fields):
            return None
        return self._forget_parts(upload_id)

    def _forget_parts(self, upload_id: str) -> set[str]:
        parts = self._store.keys(StoredPart, "upload_id = ?", upload_id)
        for part_id in parts:
            self._store.delete(StoredPart, part_id)
        return parts

    def _delete_incoming(self, names: Iterable[str]) -> None:
        for name in names:
            self._folder.incoming_file(name).unlink(missing_ok=True)

    def delete_expired(self) -> None:
        """Delete the expired files, and end the expired uploads."""
        now = int(time.time())
        for file in self._store.all(StoredFile, "expires_at <= ?", now):
            self.delete(file)
        for upload_id in self._store.keys(Upload, f"expires_at <= ? AND {_IS_PENDING}", now):
            self.end_upload(upload_id, "expired")

    # ----------------------------------------------------------------------------------------- jobs
    def delete_working_files(self, job_id: str) -> None:
        """Delete what a job that has ended no longer needs. Idempotent.

        That is its prepared data, and the copies of checkpoints that are no models.
        """
        shutil.rmtree(self._folder.job_data(job_id), ignore_errors=True)
        copies = self._folder.checkpoint_copies(job_id)
        if copies.is_dir():
            names = self._store.keys(TunedModel, "job_id = ? AND copied", job_id)
            kept = {name.rpartition(":ckpt-")[2] for name in names}
            for copy in copies.iterdir():
                if copy.name not in kept:
                    shutil.rmtree(copy, ignore_errors=True)
            if not any(copies.iterdir()):
                copies.rmdir()

    # ------------------------------------------------------------------------------------ leftovers
    def delete_leftovers(self) -> None:
        """Delete what a killed server left: everything that no record names.

        That is half-received bodies, parts of ended uploads, contents without a record, and the
        working files of jobs that have ended.
        """
        of_ended_uploads = f"upload_id NOT IN (SELECT id FROM uploads WHERE {_IS_PENDING})"
        for part_id in self._store.keys(StoredPart, of_ended_uploads):
            self._store.delete(StoredPart, part_id)
        _delete_all_but(self._store.keys(StoredPart), self._folder.incoming)
        _delete_all_but(self._store.keys(StoredFile), self._folder.files)
        active = self._store.keys(Job, _IS_ACTIVE)
        for folder in (self._folder.jobs, self._folder.models):
            for path in folder.iterdir():
                if path.name not in active:
                    self.delete_working_files(path.name)


def make_durable(path: Path) -> None:
    """Return once the content of a file, or the names in a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete_all_but(names: set[str], folder: Path) -> None:
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()
