"""/v1/files: upload, list, retrieve, read and delete files."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator, Mapping
from typing import IO, Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from sweeps.server import multipart
from sweeps.server.errors import ApiError
from sweeps.server.records import StoredFile, new_id
from sweeps.server.routes.responses import ERROR_RESPONSES, After, ObjectId, json_response, page_response
from sweeps.server.routes.strict_routes import StrictRoute
from sweeps.server.schemas.files import FileDeleted, FileList, FileObject
from sweeps.server.service import Service
from sweeps.server.storage import Condition

PURPOSE = "fine-tune"

_BINARY = "application/octet-stream"
_CHUNK_BYTES = 3 * 2**16
"""A multiple of three, so that the base64 texts of the chunks join without padding."""

_MIN_LIFETIME_S, _MAX_LIFETIME_S = 3600, 2592000

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
                            "minimum": _MIN_LIFETIME_S,
                            "maximum": _MAX_LIFETIME_S,
                        },
                    },
                }
            }
        },
    }
}


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(route_class=StrictRoute, prefix="/v1/files", tags=["files"], responses=ERROR_RESPONSES)
    store = service.store

    @routes.post("", response_model=FileObject, openapi_extra=_FORM)
    async def create_file(request: Request) -> Response:
        """Upload a JSON-lines file of examples. Its bytes stream to the disk."""
        limit = service.settings.max_file_bytes
        path = service.folder.incoming_file(new_id("body_"))
        form = await multipart.receive_form(request, path, file_field="file", max_bytes=limit)
        try:
            file = _described(form)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        service.metrics.received_bytes.inc(file.bytes)
        await run_in_threadpool(service.files.add, file, path)
        return json_response(file_object(service, file))

    @routes.get("", response_model=FileList)
    def list_files(
        after: After = None,
        limit: Annotated[int, Query(ge=1, le=10000)] = 10000,
        order: Literal["asc", "desc"] = "desc",
        purpose: Annotated[str | None, Query(max_length=64)] = None,
    ) -> Response:
        """List the files."""
        where = [Condition("purpose = ?", (purpose,))] if purpose is not None else []

        def read_page() -> tuple[list[StoredFile], bool]:
            return store.page(StoredFile, after=after, limit=limit, newest_first=order == "desc", where=where)

        return page_response(read_page, lambda file: file_object(service, file).model_dump())

    @routes.get("/{file_id}", response_model=FileObject)
    def retrieve_file(file_id: ObjectId) -> Response:
        """Return the description of a file."""
        return json_response(file_object(service, find_file(service, file_id)))

    @routes.get(
        "/{file_id}/content", response_class=Response, responses={200: {"content": {"application/octet-stream": {}}}}
    )
    def file_content(file_id: ObjectId) -> Response:
        """Return the content of a file."""
        file = find_file(service, file_id)
        try:
            # once it is open, a deletion does no harm
            stream = service.folder.content(file.id).open("rb")
        except FileNotFoundError:
            raise _not_found(file_id, "file_id") from None
        size = os.fstat(stream.fileno()).st_size
        if file.purpose == "fine-tune-results" and service.faults.affects("base64_results", file.id) is not None:
            return _StreamResponse(stream, _base64(stream))
        return _StreamResponse(stream, _chunks(stream), {"Content-Length": str(size)})

    @routes.delete("/{file_id}", response_model=FileDeleted)
    def delete_file(file_id: ObjectId) -> Response:
        """Delete a file. A job whose files the server has validated keeps its data."""
        file = find_file(service, file_id)
        service.files.delete(file)
        return json_response(FileDeleted(id=file.id, deleted=True))

    return routes


def find_file(service: Service, file_id: str, param: str = "file_id", not_found_status: int = 404) -> StoredFile:
    """Return a file.

    Raises ApiError with `not_found_status` if there is none, or it has expired.
    """
    file = service.store.find(StoredFile, file_id)
    if file is None or (file.expires_at is not None and file.expires_at <= time.time()):
        raise _not_found(file_id, param, not_found_status)
    return file


def _not_found(file_id: str, param: str, status: int = 404) -> ApiError:
    return ApiError(status, f"No such File object: {file_id[:64]}", param=param, code="file_not_found")


def file_object(service: Service, file: StoredFile) -> FileObject:
    """Return a file as clients see it."""
    status = "processed"
    if is_processing(service, file):
        status = "pending" if service.faults.affects("pending", file.id) is not None else "uploaded"
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
        status=status,
    )


def is_processing(service: Service, file: StoredFile) -> bool:
    """Return whether the fault `slow_files` delays the use of this file."""
    return service.faults.delays("slow_files", file.id)


def base_filename(name: str) -> str:
    """Return the last component of a path, without control characters.

    It cannot name another folder.
    """
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(character for character in last if character.isprintable())[:255] or "file"


def _described(form: multipart.ReceivedForm) -> StoredFile:
    """Return the record of a received file.

    Raises ApiError (400) if a field of the form is wrong.
    """
    fields = dict(form.fields)
    purpose = fields.pop("purpose", None)
    if purpose != PURPOSE:
        given = "missing" if purpose is None else f"{purpose[:64]!r}"
        raise ApiError(400, f"The purpose is {given}; this server accepts {PURPOSE!r}.", param="purpose")
    anchor, seconds = fields.pop("expires_after[anchor]", None), fields.pop("expires_after[seconds]", None)
    if fields:
        raise ApiError(400, f"Unrecognized request argument supplied: {next(iter(fields))[:64]}")
    if not form.bytes:
        raise ApiError(400, "The file is empty.", param="file", code="empty_file")
    now = int(time.time())
    return StoredFile(
        id=new_id("file-"),
        filename=base_filename(form.filename or "file"),
        purpose=purpose,
        bytes=form.bytes,
        created_at=now,
        sha256=form.sha256,
        expires_at=None if anchor is None and seconds is None else now + _lifetime_s(anchor, seconds),
    )


def _lifetime_s(anchor: str | None, seconds: str | None) -> int:
    if anchor != "created_at":
        raise ApiError(400, "The anchor must be 'created_at'.", param="expires_after[anchor]")
    is_whole = seconds is not None and seconds.isascii() and seconds.isdigit()
    if seconds is None or not is_whole or not _MIN_LIFETIME_S <= int(seconds) <= _MAX_LIFETIME_S:
        message = f"The seconds must be a whole number from {_MIN_LIFETIME_S} to {_MAX_LIFETIME_S}."
        raise ApiError(400, message, param="expires_after[seconds]")
    return int(seconds)


class _StreamResponse(StreamingResponse):
    """A response from an open file, which it closes, even if the client goes away in the middle."""

    def __init__(self, stream: IO[bytes], chunks: Iterator[bytes], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(chunks, media_type=_BINARY, headers=headers)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def _base64(stream: IO[bytes]) -> Iterator[bytes]:
    return (base64.b64encode(chunk) for chunk in _chunks(stream))
