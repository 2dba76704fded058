"""Calls to one host, through the genuine `openai` package: each is sent once, and answers become plain values.

Nothing is retried here: the package sends no idempotency key, so that a retried creation is a second job. Who calls
decides what to repeat. Every method raises ServiceError, and nothing else, where the host or the way to it fails.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx2
from openai import AzureOpenAI, OpenAI

from backends.contract import Failure, FailureKind
from backends.hosted.failures import NotTheProtocol, ServiceError, translated
from backends.hosted.options import HostedOptions

PAGE = 100
"""Items asked for at once, the most that the protocol gives."""

PART_BYTES = 64_000_000
"""Of an upload in parts; the protocol takes 64 MB at most."""

SHORTEST_SECRET = 8

TIMEOUT_S = 60.0
UPLOAD_TIMEOUT_S = 3600.0

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class RemoteFile:
    """A file at the host."""

    id: str
    filename: str
    bytes: int | None
    status: str
    status_details: str
    created_at: float


@dataclass(frozen=True)
class RemoteJob:
    """A job at the host. `hyperparameters` are the values in use where the host says them, "auto" left out; `files` are
    the data that it is given."""

    id: str
    status: str
    created_at: float
    base_model: str
    model: str | None
    hyperparameters: Mapping[str, Any]
    trained_tokens: int | None
    error_code: str | None
    error_message: str | None
    result_files: tuple[str, ...]
    metadata: Mapping[str, str]
    suffix: str | None
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemoteEvent:
    """A line of a job's log; `data` is that of a metrics event."""

    id: str
    created_at: float
    level: str
    message: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class RemoteCheckpoint:
    """A model of a moment in a job, with what was measured then."""

    id: str
    step: int
    model: str
    metrics: Mapping[str, Any]


class Service:
    """One host, one key. `redact` removes the key from a text. Threads may share it."""

    def __init__(self, options: HostedOptions, key: str, transport: httpx2.BaseTransport | None = None) -> None:
        self._key = key
        self._host = options.profile
        # A transport of one's own is for tests in the same process.
        http = httpx2.Client(
            transport=transport,
            timeout=TIMEOUT_S,
            follow_redirects=True,
            event_hooks={"response": [_insist_on_an_object]},
        )
        common: dict[str, Any] = {"api_key": key, "max_retries": 0, "timeout": TIMEOUT_S, "http_client": http}
        self._client: OpenAI
        with translated(self.redact, "the client cannot be made"):
            if self._host.client == "AzureOpenAI":
                version = options.api_version or self._host.api_version
                self._client = AzureOpenAI(azure_endpoint=options.address, api_version=version, **common)
            else:
                self._client = OpenAI(base_url=options.address, **common)
        # What an environment variable of the package's own says would change whose files and jobs these are.
        self._client.organization, self._client.project = options.organization, options.project
        self._client.admin_api_key = None

    def redact(self, text: str) -> str:
        """Return the text without the key."""
        return without(text, self._key)

    def _discreet(self, value: _Item) -> _Item:
        """Return what the host told without the key: it is kept and shown, and some hosts quote what they are sent."""
        return without(value, self._key)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # ------------------------------------------------------------------------------------------------------------ files
    def upload(self, path: Path) -> RemoteFile:
        """Upload a data file, under its name here."""
        with translated(self.redact, f"uploading {path.name}"), path.open("rb") as stream:
            answer = self._client.files.create(
                file=(path.name, stream, "application/jsonl"), purpose="fine-tune", timeout=UPLOAD_TIMEOUT_S
            )
        return self._discreet(_file(self._proper(answer, "uploading a file")))

    def upload_in_parts(self, path: Path) -> RemoteFile:
        """Upload a data file in parts, one in memory at a time; what breaks off is no file, and ends at the host."""
        what, uploads = f"uploading {path.name} in parts", self._client.uploads
        with translated(self.redact, what), path.open("rb") as stream:
            begun = uploads.create(
                bytes=path.stat().st_size, filename=path.name, mime_type="text/jsonl", purpose="fine-tune"
            )
            id_, parts = self._proper(begun, what).id, []
            while data := stream.read(PART_BYTES):
                part = uploads.parts.create(id_, data=data, timeout=UPLOAD_TIMEOUT_S)
                parts.append(self._proper(part, what).id)
            answer = uploads.complete(id_, part_ids=parts, timeout=UPLOAD_TIMEOUT_S)
        return self._discreet(_file(self._proper(getattr(answer, "file", None), what)))

    def file(self, id_: str) -> RemoteFile | None:
        """Return a file, None where it is not there any more."""
        return self._found(lambda: _file(self._proper(self._client.files.retrieve(id_), "asking for a file")))

    def files(self) -> Iterator[RemoteFile]:
        """Yield all data files."""
        return self._paged(lambda **page: self._client.files.list(purpose="fine-tune", **page), _file, "listing files")

    def content(self, id_: str) -> bytes | None:
        """Return a file's content, None where it is not there any more."""
        return self._found(lambda: self._client.files.content(id_).read())

    def delete_file(self, id_: str) -> None:
        """Delete a file, unless it is gone."""
        self._found(lambda: self._client.files.delete(id_))

    # ------------------------------------------------------------------------------------------------------------- jobs
    def create_job(self, fields: Mapping[str, Any], extra_body: Mapping[str, Any], timeout_s: float) -> RemoteJob:
        """Create a job. Where this raises an ambiguous error, there may be one."""
        with translated(self.redact, "creating a job"):
            answer = self._client.fine_tuning.jobs.create(
                **fields, extra_body=dict(extra_body) or None, timeout=timeout_s
            )
        return self._discreet(_job(self._proper(answer, "creating a job")))

    def job(self, id_: str) -> RemoteJob | None:
        """Return a job, None where it is not there (any more)."""
        return self._found(lambda: _job(self._proper(self._client.fine_tuning.jobs.retrieve(id_), "asking for a job")))

    def jobs(self, metadata: Mapping[str, str] | None) -> Iterator[RemoteJob]:
        """Yield all jobs, narrowed by metadata where that is given."""
        narrowed: dict[str, Any] = {"metadata": dict(metadata)} if metadata else {}
        return self._paged(lambda **page: self._client.fine_tuning.jobs.list(**narrowed, **page), _job, "listing jobs")

    def cancel(self, id_: str) -> None:
        """Cancel a job."""
        with translated(self.redact, "cancelling a job"):
            self._client.fine_tuning.jobs.cancel(id_)

    def pause(self, id_: str) -> None:
        """Pause a job."""
        with translated(self.redact, "pausing a job"):
            self._client.fine_tuning.jobs.pause(id_)

    def events(self, job: str) -> Iterator[RemoteEvent]:
        """Yield a job's log in the host's order, which is newest first as a rule; pages are read as they are needed."""
        return self._paged(
            lambda **page: self._client.fine_tuning.jobs.list_events(job, **page), _event, "listing a job's events"
        )

    def checkpoints(self, job: str) -> list[RemoteCheckpoint]:
        """Return a job's checkpoints that are left, in the order of their steps; none of a job that is gone."""
        found = self._paged(
            lambda **page: self._client.fine_tuning.jobs.checkpoints.list(job, **page),
            _checkpoint,
            "listing a job's checkpoints",
        )
        try:
            return sorted(found, key=lambda each: each.step)
        except ServiceError as error:
            if error.status == 404:
                return []
            raise

    # ----------------------------------------------------------------------------------------------------------- models
    def has_model(self, name: str) -> bool:
        """Return whether the host knows a model."""
        return self._found(lambda: self._client.models.retrieve(name)) is not None

    def delete_model(self, name: str) -> None:
        """Delete a fine-tuned model, unless it is gone."""
        self._found(lambda: self._client.models.delete(name))

    def chat(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the answer to messages, as plain JSON values."""
        with translated(self.redact, "asking a model"):
            answer = self._client.chat.completions.create(**fields)
        return self._choices(answer)

    def complete(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the continuations of texts, as plain JSON values."""
        with translated(self.redact, "asking a model"):
            answer = self._client.completions.create(**fields)
        return self._choices(answer)

    # ------------------------------------------------------------------------------------------------------------ inner
    def _choices(self, answer: Any) -> Mapping[str, Any]:
        value = answer.to_dict() if hasattr(answer, "to_dict") else {}
        if not value.get("choices"):
            raise self._unusable("asking a model")
        return self._discreet(dict(value))

    def _found(self, call: Callable[[], _Item]) -> _Item | None:
        try:
            with translated(self.redact, "asking the host"):
                return self._discreet(call())
        except ServiceError as error:
            if error.status == 404:
                return None
            raise

    def _paged(self, get: Callable[..., Any], read: Callable[[Any], _Item], what: str) -> Iterator[_Item]:
        """Yield the items of all pages, each id once: pages overlap where something was added in between."""
        seen: set[str] = set()
        after: dict[str, str] = {}
        while True:
            with translated(self.redact, what):
                page = get(limit=PAGE, **after)
            items = getattr(page, "data", None)
            if not isinstance(items, Sequence):
                raise self._unusable(what)
            fresh = [each for each in items if self._proper(each, what).id not in seen]
            seen.update(each.id for each in fresh)
            yield from (self._discreet(read(each)) for each in fresh)
            # a host that does not page says no `has_more`, and gives the same page again
            if not fresh or getattr(page, "has_more", None) is False:
                return
            after = {"after": items[-1].id}

    def _proper(self, answer: Any, what: str) -> Any:
        """Return the answer if it is an object of the protocol; the package passes anything on that it is given."""
        if isinstance(getattr(answer, "id", None), str) and answer.id:
            return answer
        raise self._unusable(what)

    @staticmethod
    def _unusable(what: str) -> ServiceError:
        failure = Failure(FailureKind.TRANSIENT, f"{what}: the answer is not one of the protocol", "check the address")
        return ServiceError(failure, ambiguous=True, wait_s=None, status=None)


def without(value: _Item, secret: str) -> _Item:
    """Return a text, or a value of JSON or of this module, without a secret in any of its texts.

    What is no text by itself keeps a secret of less than eight characters, which would be found everywhere.
    """
    found: Any = value
    if isinstance(found, str):
        found = found.replace(secret, "<key>") if secret else found
    elif len(secret) < SHORTEST_SECRET:
        pass
    elif isinstance(found, bytes):
        found = found.replace(secret.encode(), b"<key>")
    elif isinstance(found, Mapping):
        found = {without(name, secret): without(each, secret) for name, each in found.items()}
    elif isinstance(found, list | tuple):
        found = type(found)(without(each, secret) for each in found)
    elif dataclasses.is_dataclass(found) and not isinstance(found, type):
        kept = {each.name: getattr(found, each.name) for each in dataclasses.fields(found)}
        found = dataclasses.replace(found, **without(kept, secret))
    return cast(_Item, found)


def _insist_on_an_object(response: httpx2.Response) -> None:
    """Raise where a success is no JSON object, as a proxy's page is, or a body that was cut off.

    The package would pass the text on in place of an object, or stumble over it with an error of no kind.
    """
    if not response.is_success or response.request.url.path.endswith("/content"):
        return
    response.read()
    try:
        value = response.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise NotTheProtocol("the answer is no JSON object", request=response.request)


def _file(answer: Any) -> RemoteFile:
    size = getattr(answer, "bytes", None)
    return RemoteFile(
        id=answer.id,
        filename=str(getattr(answer, "filename", "") or ""),
        bytes=size if isinstance(size, int) else None,
        status=str(getattr(answer, "status", "") or ""),
        status_details=str(getattr(answer, "status_details", "") or ""),
        created_at=_number(getattr(answer, "created_at", None)),
    )


def _job(answer: Any) -> RemoteJob:
    error = getattr(answer, "error", None)  # an empty object where nothing is wrong
    tokens = getattr(answer, "trained_tokens", None)
    values = answer.to_dict()
    method = values.get("method") or {}
    inner = method.get(str(method.get("type"))) or {}
    used = {**(values.get("hyperparameters") or {}), **(inner.get("hyperparameters") or {})}
    return RemoteJob(
        id=answer.id,
        status=str(getattr(answer, "status", "") or ""),
        created_at=_number(getattr(answer, "created_at", None)),
        base_model=str(getattr(answer, "model", "") or ""),
        model=getattr(answer, "fine_tuned_model", None) or None,
        hyperparameters={name: each for name, each in used.items() if _is_scalar(each) and each != "auto"},
        trained_tokens=tokens if isinstance(tokens, int) else None,
        error_code=_text(error, "code"),
        error_message=_text(error, "message"),
        result_files=tuple(str(each) for each in getattr(answer, "result_files", None) or ()),
        metadata={str(name): str(each) for name, each in (getattr(answer, "metadata", None) or {}).items()},
        suffix=str(values.get("user_provided_suffix") or values.get("suffix") or "") or None,
        files=tuple(str(each) for name in ("training_file", "validation_file") if (each := values.get(name))),
    )


def _event(answer: Any) -> RemoteEvent:
    data = answer.to_dict().get("data")
    return RemoteEvent(
        id=answer.id,
        created_at=_number(getattr(answer, "created_at", None)),
        level=str(getattr(answer, "level", "") or ""),
        message=str(getattr(answer, "message", "") or ""),
        data=data if isinstance(data, Mapping) else {},
    )


def _checkpoint(answer: Any) -> RemoteCheckpoint:
    metrics = answer.to_dict().get("metrics")
    return RemoteCheckpoint(
        id=answer.id,
        step=int(_number(getattr(answer, "step_number", None))),
        model=str(getattr(answer, "fine_tuned_model_checkpoint", "") or ""),
        metrics=metrics if isinstance(metrics, Mapping) else {},
    )


def _text(value: Any, name: str) -> str | None:
    text = getattr(value, name, None)
    return str(text) if text else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | float | str)
