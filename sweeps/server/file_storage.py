"""The contents of files and upload parts on the disk, in step with the database."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sweeps.server.folder import ServerFolder
from sweeps.server.records import StoredFile, StoredPart, Upload
from sweeps.server.storage import Store


class FileStorage:
    """Adds and deletes files and upload parts. Any thread may call its methods."""

    def __init__(self, store: Store, folder: ServerFolder) -> None:
        self._store, self._folder = store, folder

    def add(self, file: StoredFile, path: Path) -> None:
        """Move the complete content at `path` into the storage, and write the record.

        An added file survives a power failure. This also deletes the expired files.
        """
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        path.replace(self._folder.content(file.id))
        self._store.add(file)
        self.delete_expired()

    def delete(self, file: StoredFile) -> None:
        """Delete a file. Idempotent."""
        self._store.delete(StoredFile, file.id)
        self._folder.content(file.id).unlink(missing_ok=True)

    def delete_parts(self, upload_id: str) -> None:
        """Delete the parts of an upload that has ended. Idempotent."""
        for part in self._store.all(StoredPart, "upload_id = ?", upload_id):
            self._store.delete(StoredPart, part.id)
            self._folder.incoming_file(part.id).unlink(missing_ok=True)

    def delete_expired(self) -> None:
        """Delete the expired files, and end the expired uploads."""
        now = int(time.time())
        for file in self._store.all(StoredFile, "expires_at <= ?", now):
            self.delete(file)
        for upload in self._store.all(Upload, "expires_at <= ? AND status = 'pending'", now):
            self._store.update(Upload, upload.id, status="expired")
            self.delete_parts(upload.id)

    def delete_leftovers(self) -> None:
        """Delete what a killed server left: half-received bodies, and contents without a record."""
        parts = {part.id for part in self._store.all(StoredPart)}
        for path in self._folder.incoming.iterdir():
            if path.name not in parts:
                path.unlink()
        files = {file.id for file in self._store.all(StoredFile)}
        for path in self._folder.files.iterdir():
            if path.name not in files:
                path.unlink()
