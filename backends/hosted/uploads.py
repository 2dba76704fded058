"""`DataFileUploads`: upload each data file once per account.

The host's name of a file is `sweep-<sha256>.jsonl`. By that name another workspace, or this one
after a crash, finds the file and uses it again.
"""

from __future__ import annotations

from backends.contract import BackendError, Failure, FailureKind
from backends.hosted.example_format import FormattedFile
from backends.hosted.host_connection import HostConnection
from backends.hosted.remote_objects import RemoteFile

PURPOSE = "fine-tune"

LOCK_WAIT_S = 600.0
"""How long to wait while another process uploads the same file."""


class DataFileUploads:
    """The data files of one account."""

    def __init__(self, host: HostConnection) -> None:
        self._client, self._accounts = host.client, host.journal.accounts
        self._host, self._rules = host, host.profile.files

    def ready_file_id(self, file: FormattedFile) -> str | None:
        """Return the host's id of a file that jobs may use, or None while the host still checks it.

        Uploads the file if the account does not have it. Raises BackendError (user) if the host
        rejects it.
        """
        account = self._host.options.account
        with self._host.journal.lock(f"upload {file.sha256}", LOCK_WAIT_S, self._host.sleep) as locked:
            if not locked:
                return None
            remote = self._own_upload(file) or self._other_upload(file)
            if remote is None:
                # If the answer to this upload is lost, the next attempt finds the file by its name.
                limit = self._rules.multipart_above_bytes
                in_parts = limit is not None and file.bytes > limit
                remote = (self._client.upload_in_parts if in_parts else self._client.upload)(file.path)
            self._accounts.set_upload(account, PURPOSE, file.sha256, remote.id)
        if remote.status in self._rules.failed_statuses:
            self._accounts.set_upload(account, PURPOSE, file.sha256, None)
            reason = remote.status_details or f"its status is {remote.status}"
            message = f"the host rejected a data file: {reason}"
            raise BackendError(Failure(FailureKind.USER, message, f"Check the file {file.path} ({remote.id})."))
        return remote.id if remote.status in self._rules.ready_statuses else None

    def _own_upload(self, file: FormattedFile) -> RemoteFile | None:
        """Return the file that this workspace uploaded, if it still exists."""
        file_id = self._accounts.upload(self._host.options.account, PURPOSE, file.sha256)
        return self._client.file(file_id) if file_id else None

    def _other_upload(self, file: FormattedFile) -> RemoteFile | None:
        """Return a file with the same content that another workspace uploaded to this account."""
        for remote in self._client.files():
            same_name = remote.filename == file.path.name
            usable = remote.status not in self._rules.failed_statuses
            if same_name and remote.bytes in (None, file.bytes) and usable:
                return remote
        return None
