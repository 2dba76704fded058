"""Uploading a file once: by its content, its purpose and the account, whoever uploaded it.

The host's name of a file is `sweep-<sha256>.jsonl`, by which another workspace, or this one
after a crash, finds it there.
"""

from __future__ import annotations

from collections.abc import Callable

from backends.contract import BackendError, Failure, FailureKind
from backends.hosted.examples import Written
from backends.hosted.journal import Journal
from backends.hosted.profile import Files
from backends.hosted.service import RemoteFile, Service

PURPOSE = "fine-tune"


class Uploads:
    """The data files of one account."""

    def __init__(
        self, service: Service, journal: Journal, account: str, rules: Files, sleep: Callable[[float], None]
    ) -> None:
        self._service, self._journal, self._account, self._rules = service, journal, account, rules
        self._sleep = sleep

    def ready(self, written: Written) -> str | None:
        """Return the host's id of a file that may be used; None while the host is still looking at it.

        Uploads it where it is not there. Raises BackendError (user) where the host refused it.
        """
        with self._journal.acting_for(f"upload {written.sha256}", wait_s=600.0, sleep=self._sleep) as ours:
            if not ours:
                return None
            file = self._known(written) or self._found(written)
            if file is None:
                # What an upload that broke off has left is found by its name next time.
                limit = self._rules.in_parts_above
                in_parts = limit is not None and written.bytes > limit
                file = (self._service.upload_in_parts if in_parts else self._service.upload)(written.path)
            self._journal.keep_upload(self._account, PURPOSE, written.sha256, file.id)
        if file.status in self._rules.broken:
            self._journal.keep_upload(self._account, PURPOSE, written.sha256, None)
            reason = file.status_details or f"its status is {file.status}"
            raise BackendError(Failure(FailureKind.USER, f"the host refused a data file: {reason}", file.id))
        return file.id if file.status in self._rules.ready else None

    def _known(self, written: Written) -> RemoteFile | None:
        """Return what this workspace has uploaded, if it still exists."""
        id_ = self._journal.uploaded(self._account, PURPOSE, written.sha256)
        return self._service.file(id_) if id_ else None

    def _found(self, written: Written) -> RemoteFile | None:
        """Return what somebody else has uploaded to this account."""
        for each in self._service.files():
            same_name = each.filename == written.path.name
            if same_name and each.bytes in (None, written.bytes) and each.status not in self._rules.broken:
                return each
        return None
