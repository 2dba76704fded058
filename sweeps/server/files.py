"""/v1/files: upload, list, retrieve, content, delete."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse

from sweeps.server import multipart
from sweeps.server.errors import ApiError, not_found
from sweeps.server.records import StoredFile, new_id
from sweeps.server.responses import ERRORS, After, Id, answer, listing
from sweeps.server.schemas import FileDeleted, FileList, FileObject
from sweeps.server.service import Service
from sweeps.server.storage import Condition

PURPOSE = "fine-tune"

_BYTES = "application/octet-stream"

_EXPIRES_S = (3600, 2592000)

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": _EXPIRES_S[0],
                            "maximum": _EXPIRES_S[1],
                        },
                    },
                }
            }
        },
    }
}


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1/files", tags=["files"], responses=ERRORS)
    store = service.store

    @routes.post("", response_model=FileObject, openapi_extra=_FORM)
    async def create_file(request: Request) -> Response:
        """Upload a JSON-lines file of examples; its bytes go straight to the disk."""
        limit = service.settings.max_file_bytes
        path = service.incoming(new_id("body_"))
        received = await multipart.receive(request, path, file_field="file", max_bytes=limit)
        try:
            file = _described(received)
        except ApiError:
            path.unlink(missing_ok=True)
            raise
        service.counters.received.inc(file.bytes)
        await run_in_threadpool(keep, service, file, path)
        return answer(shown(service, file))

    @routes.get("", response_model=FileList)
    def list_files(
        after: After = None,
        limit: Annotated[int, Query(ge=1, le=10000)] = 10000,
        order: Literal["asc", "desc"] = "desc",
        purpose: Annotated[str | None, Query(max_length=64)] = None,
    ) -> Response:
        """List the files."""
        where = [Condition("purpose = ?", (purpose,))] if purpose is not None else []

        def read() -> tuple[list[StoredFile], bool]:
            return store.page(StoredFile, after=after, limit=limit, newest_first=order == "desc", where=where)

        return answer(listing(read, lambda file: shown(service, file)))

    @routes.get("/{file_id}", response_model=FileObject)
    def retrieve_file(file_id: Id) -> Response:
        """Return a file's description."""
        return answer(shown(service, known(service, file_id)))

    @routes.get(
        "/{file_id}/content", response_class=Response, responses={200: {"content": {"application/octet-stream": {}}}}
    )
    def file_content(file_id: Id) -> Response:
        """Return a file's content."""
        file = known(service, file_id)
        try:
            stream = service.content(file).open("rb")  # from here on it may be deleted
        except FileNotFoundError:
            raise _unknown(file_id, "file_id") from None
        if file.purpose == "fine-tune-results" and service.faults.concerns("base64_results", file.id) is not None:
            return StreamingResponse(_base64(stream), media_type=_BYTES)
        return StreamingResponse(_chunks(stream), media_type=_BYTES, headers={"Content-Length": str(file.bytes)})

    @routes.delete("/{file_id}", response_model=FileDeleted)
    def delete_file(file_id: Id) -> Response:
        """Delete a file. Jobs that have been validated keep what they need."""
        file = known(service, file_id)
        store.delete(StoredFile, file.id)
        service.content(file).unlink(missing_ok=True)
        return answer(FileDeleted(id=file.id, deleted=True))

    return routes


def known(service: Service, file_id: str, param: str = "file_id", status: int = 404) -> StoredFile:
    """Return a file that is there and has not expired. Raises ApiError otherwise."""
    file = service.store.find(StoredFile, file_id)
    if file is None or (file.expires_at is not None and file.expires_at <= time.time()):
        error = _unknown(file_id, param)
        error.status = status
        raise error
    return file


def _unknown(file_id: str, param: str) -> ApiError:
    return not_found("File object", file_id[:64], param=param, code="file_not_found")


def keep(service: Service, file: StoredFile, path: Path) -> None:
    """Take over a file that has been written to `path`. An answered upload survives a power failure."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
    path.replace(service.content(file))
    service.store.add(file)
    service.delete_expired()


def shown(service: Service, file: StoredFile) -> dict[str, Any]:
    """Return a file as clients see it."""
    body = FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
        status="processed",
    ).model_dump(mode="json")
    if is_processing(service, file):
        body["status"] = "pending" if service.faults.concerns("pending", file.id) is not None else "uploaded"
    return body


def is_processing(service: Service, file: StoredFile) -> bool:
    """Whether the fault `slow_files` keeps this file from being used yet."""
    return service.faults.delays("slow_files", file.id)


def clean_name(name: str) -> str:
    """Return the last part of a path without control characters: a name, never a place."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(each for each in last if each.isprintable())[:255] or "file"


def _described(received: multipart.Received) -> StoredFile:
    fields = dict(received.fields)
    purpose = fields.pop("purpose", None)
    if purpose != PURPOSE:
        given = "missing" if purpose is None else f"{purpose[:64]!r}"
        raise ApiError(400, f"The purpose is {given}; this server takes {PURPOSE!r}.", param="purpose")
    anchor, seconds = fields.pop("expires_after[anchor]", None), fields.pop("expires_after[seconds]", None)
    if fields:
        raise ApiError(400, f"Unrecognized request argument supplied: {next(iter(fields))[:64]}")
    if not received.bytes:
        raise ApiError(400, "The file is empty.", param="file", code="empty_file")
    now = int(time.time())
    return StoredFile(
        id=new_id("file-"),
        filename=clean_name(received.filename or "file"),
        purpose=purpose,
        bytes=received.bytes,
        created_at=now,
        sha256=received.sha256,
        expires_at=None if anchor is None and seconds is None else now + _expiry(anchor, seconds),
    )


def _expiry(anchor: str | None, seconds: str | None) -> int:
    if anchor != "created_at":
        raise ApiError(400, "The anchor must be 'created_at'.", param="expires_after[anchor]")
    low, high = _EXPIRES_S
    if seconds is None or not seconds.isascii() or not seconds.isdigit() or not low <= int(seconds) <= high:
        message = f"The seconds must be a whole number from {low} to {high}."
        raise ApiError(400, message, param="expires_after[seconds]")
    return int(seconds)


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(3 * 2**16):
            yield chunk


def _base64(stream: IO[bytes]) -> Iterator[bytes]:
    return (base64.b64encode(chunk) for chunk in _chunks(stream))
