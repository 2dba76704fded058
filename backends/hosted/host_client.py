"""`HostClient`: calls to one host through the `openai` package. Answers become plain values.

The client sends each request exactly once. The package sends no idempotency key, so a retried
creation would be a second job; the caller decides what to repeat. Every method raises HostError,
and nothing else, where the host or the network fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from openai import AzureOpenAI, OpenAI

from backends.contract import Failure, FailureKind
from backends.hosted.failures import HostError, NotJsonObjectError, translated_errors
from backends.hosted.options import HostedOptions
from backends.hosted.redaction import redacted
from backends.hosted.remote_objects import (
    RemoteCheckpoint,
    RemoteEvent,
    RemoteFile,
    RemoteJob,
    read_checkpoint,
    read_event,
    read_file,
    read_job,
)

PAGE_ITEMS = 100
"""Items per page of a list: the protocol's maximum."""

PART_BYTES = 64_000_000
"""Size of one part of an upload in parts; the protocol's maximum is 64 MB."""

TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10.0
UPLOAD_TIMEOUT_S = 3600.0

_NO_KEY = "no-key"
"""The key for a host that needs none: the `openai` package insists on one."""

_Item = TypeVar("_Item")


class HostClient:
    """A client for one host with one key, or None if the host needs none. Threads may share it.

    `answered` counts the requests that the host has carried out.
    """

    def __init__(self, options: HostedOptions, key: str | None, transport: httpx2.BaseTransport | None = None) -> None:
        self._key = key = key or _NO_KEY
        self.answered = 0
        self._address = options.address
        # Only tests pass a transport, to reach a host in the same process.
        http = httpx2.Client(
            transport=transport,
            timeout=_timeout(TIMEOUT_S),
            follow_redirects=True,
            event_hooks={"response": [_require_json_object, self._count_answer]},
        )
        common: dict[str, Any] = {"api_key": key, "max_retries": 0, "timeout": _timeout(TIMEOUT_S), "http_client": http}
        self._client: OpenAI
        with translated_errors(self.redact, "creating the client"):
            if options.profile.client == "AzureOpenAI":
                version = options.api_version or options.profile.api_version
                self._client = AzureOpenAI(azure_endpoint=options.address, api_version=version, **common)
            else:
                self._client = OpenAI(base_url=options.address, **common)
        # Override the package's own environment variables, which could select another account.
        self._client.organization, self._client.project = options.organization, options.project
        self._client.admin_api_key = None

    def _count_answer(self, response: httpx2.Response) -> None:
        self.answered += response.is_success

    def redact(self, text: str) -> str:
        """Return the text without the key."""
        return redacted(text, self._key)

    def _without_key(self, value: _Item) -> _Item:
        """Return a value from the host without the key.

        It is stored and shown, and some hosts quote the key.
        """
        return redacted(value, self._key)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # ---------------------------------------------------------------------------------------- files
    def upload(self, path: Path) -> RemoteFile:
        """Upload a data file under its local name."""
        with translated_errors(self.redact, f"uploading {path.name}"), path.open("rb") as stream:
            answer = self._client.files.create(
                file=(path.name, stream, "application/jsonl"), purpose="fine-tune", timeout=_timeout(UPLOAD_TIMEOUT_S)
            )
        return self._without_key(read_file(self._checked(answer, "uploading a file")))

    def upload_in_parts(self, path: Path) -> RemoteFile:
        """Upload a data file in parts, with one part in memory at a time.

        An interrupted upload leaves no file, and the host drops its parts.
        """
        action, uploads = f"uploading {path.name} in parts", self._client.uploads
        with translated_errors(self.redact, action), path.open("rb") as stream:
            upload = uploads.create(
                bytes=path.stat().st_size, filename=path.name, mime_type="text/jsonl", purpose="fine-tune"
            )
            upload_id, part_ids = self._checked(upload, action).id, []
            while data := stream.read(PART_BYTES):
                part = uploads.parts.create(upload_id, data=data, timeout=_timeout(UPLOAD_TIMEOUT_S))
                part_ids.append(self._checked(part, action).id)
            answer = uploads.complete(upload_id, part_ids=part_ids, timeout=_timeout(UPLOAD_TIMEOUT_S))
        return self._without_key(read_file(self._checked(getattr(answer, "file", None), action)))

    def file(self, file_id: str) -> RemoteFile | None:
        """Return a file, or None if it does not exist."""
        return self._unless_missing(
            lambda: read_file(self._checked(self._client.files.retrieve(file_id), "reading a file"))
        )

    def files(self) -> Iterator[RemoteFile]:
        """Yield all data files."""
        return self._all_pages(
            lambda **page: self._client.files.list(purpose="fine-tune", **page), read_file, "listing files"
        )

    def content(self, file_id: str) -> bytes | None:
        """Return a file's content, or None if the file does not exist."""
        return self._unless_missing(lambda: self._client.files.content(file_id).read())

    def delete_file(self, file_id: str) -> None:
        """Delete a file. Does nothing if it does not exist."""
        self._unless_missing(lambda: self._client.files.delete(file_id))

    # ----------------------------------------------------------------------------------------- jobs
    def create_job(self, fields: Mapping[str, Any], extra_body: Mapping[str, Any], timeout_s: float) -> RemoteJob:
        """Create a job. After an ambiguous error the job may exist."""
        with translated_errors(self.redact, "creating a job"):
            answer = self._client.fine_tuning.jobs.create(
                **fields, extra_body=dict(extra_body) or None, timeout=_timeout(timeout_s)
            )
        return self._without_key(read_job(self._checked(answer, "creating a job")))

    def job(self, job_id: str) -> RemoteJob | None:
        """Return a job, or None if it does not exist."""
        jobs = self._client.fine_tuning.jobs
        return self._unless_missing(lambda: read_job(self._checked(jobs.retrieve(job_id), "reading a job")))

    def jobs(self, metadata: Mapping[str, str] | None) -> Iterator[RemoteJob]:
        """Yield all jobs, or only those with this metadata."""
        filters: dict[str, Any] = {"metadata": dict(metadata)} if metadata else {}
        jobs = self._client.fine_tuning.jobs
        return self._all_pages(lambda **page: jobs.list(**filters, **page), read_job, "listing jobs")

    def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        with translated_errors(self.redact, "cancelling a job"):
            self._client.fine_tuning.jobs.cancel(job_id)

    def pause(self, job_id: str) -> None:
        """Pause a job."""
        with translated_errors(self.redact, "pausing a job"):
            self._client.fine_tuning.jobs.pause(job_id)

    def events(self, job_id: str) -> Iterator[RemoteEvent]:
        """Yield a job's log in the host's order, usually newest first.

        Reads a page only when needed.
        """
        jobs = self._client.fine_tuning.jobs
        return self._all_pages(
            lambda **page: jobs.list_events(job_id, **page), read_event, "listing the events of a job"
        )

    def checkpoints(self, job_id: str) -> list[RemoteCheckpoint]:
        """Return the checkpoints of a job that still exist, by step. A deleted job has none."""
        checkpoints = self._all_pages(
            lambda **page: self._client.fine_tuning.jobs.checkpoints.list(job_id, **page),
            read_checkpoint,
            "listing the checkpoints of a job",
        )
        try:
            return sorted(checkpoints, key=lambda checkpoint: checkpoint.step)
        except HostError as error:
            if error.status == 404:
                return []
            raise

    # --------------------------------------------------------------------------------------- models
    def has_model(self, name: str, timeout_s: float = TIMEOUT_S, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> bool:
        """Return whether the host has a model."""
        timeout = _timeout(timeout_s, connect_timeout_s)
        action = f"asking {self._address} for the model {name}"
        return self._unless_missing(lambda: self._client.models.retrieve(name, timeout=timeout), action) is not None

    def check_access(self, timeout_s: float, connect_timeout_s: float) -> None:
        """Ask for one job. Raises HostError if the host is out of reach, or refuses the key."""
        with translated_errors(self.redact, f"asking {self._address} for its jobs"):
            self._client.fine_tuning.jobs.list(limit=1, timeout=_timeout(timeout_s, connect_timeout_s))

    def delete_model(self, name: str) -> None:
        """Delete a fine-tuned model. Does nothing if it does not exist."""
        self._unless_missing(lambda: self._client.models.delete(name))

    def chat(self, fields: Mapping[str, Any], timeout_s: float = TIMEOUT_S) -> Mapping[str, Any]:
        """Return the answer to a chat request as JSON values."""
        with translated_errors(self.redact, "querying a model"):
            answer = self._client.chat.completions.create(**fields, timeout=_timeout(timeout_s))
        return self._with_choices(answer)

    def complete(self, fields: Mapping[str, Any], timeout_s: float = TIMEOUT_S) -> Mapping[str, Any]:
        """Return the answer to a completion request as JSON values."""
        with translated_errors(self.redact, "querying a model"):
            answer = self._client.completions.create(**fields, timeout=_timeout(timeout_s))
        return self._with_choices(answer)

    # ------------------------------------------------------------------------------------- internal
    def _with_choices(self, answer: Any) -> Mapping[str, Any]:
        value = answer.to_dict() if hasattr(answer, "to_dict") else {}
        if not value.get("choices"):
            raise _protocol_error("querying a model")
        return self._without_key(dict(value))

    def _unless_missing(self, call: Callable[[], _Item], action: str = "calling the host") -> _Item | None:
        """Return the result of the call, or None where the host answers with status 404."""
        try:
            with translated_errors(self.redact, action):
                return self._without_key(call())
        except HostError as error:
            if error.status == 404:
                return None
            raise

    def _all_pages(self, get_page: Callable[..., Any], read: Callable[[Any], _Item], action: str) -> Iterator[_Item]:
        """Yield the items of all pages, each id once: pages overlap if new items arrive."""
        seen: set[str] = set()
        after: dict[str, str] = {}
        while True:
            with translated_errors(self.redact, action):
                page = get_page(limit=PAGE_ITEMS, **after)
            items = getattr(page, "data", None)
            if not isinstance(items, Sequence):
                raise _protocol_error(action)
            new_items = [item for item in items if self._checked(item, action).id not in seen]
            seen.update(item.id for item in new_items)
            yield from (self._without_key(read(item)) for item in new_items)
            # A host without pagination sends no `has_more` and returns the same page again.
            if not new_items or getattr(page, "has_more", None) is False:
                return
            after = {"after": items[-1].id}

    @staticmethod
    def _checked(answer: Any, action: str) -> Any:
        """Return the answer if it is an object of the protocol.

        The package itself does not check that.
        """
        if isinstance(getattr(answer, "id", None), str) and answer.id:
            return answer
        raise _protocol_error(action)


def _timeout(seconds: float, connect_s: float = CONNECT_TIMEOUT_S) -> httpx2.Timeout:
    return httpx2.Timeout(seconds, connect=min(seconds, connect_s))


def _protocol_error(action: str) -> HostError:
    message = f"{action}: the answer does not follow the OpenAI protocol"
    failure = Failure(FailureKind.TRANSIENT, message, "Check the address.")
    return HostError(failure, ambiguous=True, wait_s=None, status=None)


def _require_json_object(response: httpx2.Response) -> None:
    """Raise NotJsonObjectError for a success without a JSON object: a proxy's page, a cut body.

    The package would return the text in place of an object, or fail with an error of another type.
    """
    if not response.is_success or response.request.url.path.endswith("/content"):
        return
    response.read()
    try:
        value = response.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise NotJsonObjectError("the answer is not a JSON object", request=response.request)
