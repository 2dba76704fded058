"""/v1/uploads: upload a file in parts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from sweeps.server import multipart
from sweeps.server.errors import SERVER_ERROR, ApiError
from sweeps.server.file_storage import make_durable
from sweeps.server.records import StoredFile, StoredPart, Upload, new_id
from sweeps.server.routes.files import base_filename, file_object
from sweeps.server.routes.responses import ERROR_RESPONSES, ObjectId, json_response
from sweeps.server.routes.strict_routes import StrictRoute
from sweeps.server.schemas.files import CompleteUpload, CreateUpload, UploadObject, UploadPart
from sweeps.server.service import Service

MAX_PART_BYTES = 64 * 2**20
LIFETIME_S = 3600

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(route_class=StrictRoute, prefix="/v1/uploads", tags=["uploads"], responses=ERROR_RESPONSES)
    store = service.store

    @routes.post("", response_model=UploadObject)
    def create_upload(body: CreateUpload) -> Response:
        """Announce a file that arrives in parts. All parts must arrive within an hour."""
        if body.bytes > service.settings.max_file_bytes:
            message = f"The file is larger than the limit of {service.settings.max_file_bytes} bytes."
            raise ApiError(413, message, code="file_too_large", param="bytes")
        now = int(time.time())
        upload = Upload(
            id=new_id("upload_"),
            filename=base_filename(body.filename),
            purpose=body.purpose,
            bytes=body.bytes,
            mime_type=body.mime_type,
            created_at=now,
            expires_at=now + LIFETIME_S,
            file_expires_after_s=None if body.expires_after is None else body.expires_after.seconds,
        )
        store.add(upload)
        return json_response(_upload_object(service, upload))

    @routes.post("/{upload_id}/parts", response_model=UploadPart, openapi_extra=_FORM)
    async def add_part(upload_id: ObjectId, request: Request) -> Response:
        """Add a part of at most 64 MiB. Parts may arrive in any order."""
        await run_in_threadpool(_find_pending, service, upload_id)
        part_id = new_id("part_")
        path = service.folder.incoming_file(part_id)
        form = await multipart.receive_form(request, path, file_field="data", max_bytes=MAX_PART_BYTES)
        part = StoredPart(part_id, upload_id, form.bytes, int(time.time()))
        service.metrics.received_bytes.inc(part.bytes)
        await run_in_threadpool(_add_part, service, part, path)
        return json_response(UploadPart(id=part.id, created_at=part.created_at, upload_id=upload_id))

    @routes.post("/{upload_id}/complete", response_model=UploadObject)
    def complete_upload(upload_id: ObjectId, body: CompleteUpload) -> Response:
        """Join the parts into a file, in the given order."""
        upload = _complete(service, _find_pending(service, upload_id), body)
        return json_response(_upload_object(service, upload))

    @routes.post("/{upload_id}/cancel", response_model=UploadObject)
    def cancel_upload(upload_id: ObjectId) -> Response:
        """Cancel an upload, and delete its parts."""
        upload = _find_pending(service, upload_id)
        if not service.files.end_upload(upload.id, "cancelled"):
            # another request has ended it: raises the error that says how
            _find_pending(service, upload_id)
        return json_response(_upload_object(service, _find(service, upload_id)))

    return routes


def _find(service: Service, upload_id: str) -> Upload:
    upload = service.store.find(Upload, upload_id)
    if upload is None:
        raise ApiError(404, f"No such Upload: {upload_id[:64]}", param="upload_id")
    return upload


def _find_pending(service: Service, upload_id: str) -> Upload:
    """Return an upload. Raises ApiError if there is none (404) or it has ended (400)."""
    upload = _find(service, upload_id)
    if upload.status == "pending" and upload.expires_at <= time.time():
        service.files.end_upload(upload_id, "expired")
        upload = _find(service, upload_id)
    _require_pending(upload)
    return upload


def _require_pending(upload: Upload) -> None:
    if upload.status != "pending":
        raise ApiError(400, f"The upload is {upload.status}.", code="upload_not_pending", param="upload_id")


def _add_part(service: Service, part: StoredPart, path: Path) -> None:
    """Add a received part to its upload. After an error nothing of it remains."""
    is_added = False
    try:
        make_durable(path)
        make_durable(path.parent)
        with service.store.transaction():
            upload = _find(service, part.upload_id)
            _require_pending(upload)
            parts = service.store.all(StoredPart, "upload_id = ?", part.upload_id)
            total = part.bytes + sum(earlier.bytes for earlier in parts)
            if total > upload.bytes:
                message = f"The parts have {total} bytes, {upload.bytes} were announced."
                raise ApiError(400, message, code="too_many_bytes", param="data")
            service.store.add(part)
        is_added = True
    finally:
        if not is_added:
            path.unlink(missing_ok=True)


def _complete(service: Service, upload: Upload, body: CompleteUpload) -> Upload:
    total = _checked_size(service, upload, body.part_ids)
    now = int(time.time())
    path = service.folder.incoming_file(new_id("body_"))
    try:
        joined = _join([service.folder.incoming_file(part_id) for part_id in body.part_ids], path)
        if joined.bytes != total:
            message = f"The stored parts have {joined.bytes} bytes instead of {total}. Upload the file again."
            raise ApiError(500, message, code="part_damaged", type_=SERVER_ERROR)
        if body.md5 is not None and body.md5.lower() != joined.md5:
            raise ApiError(400, f"The file's md5 is {joined.md5}.", code="md5_mismatch", param="md5")
        file = StoredFile(
            id=new_id("file-"),
            filename=upload.filename,
            purpose=upload.purpose,
            bytes=total,
            created_at=now,
            sha256=joined.sha256,
            expires_at=None if upload.file_expires_after_s is None else now + upload.file_expires_after_s,
        )
        if not service.files.complete_upload(upload.id, file, path):
            # another request has ended it: raises the error that says how
            _find_pending(service, upload.id)
    except FileNotFoundError:
        # another request ended the upload, and deleted its parts meanwhile
        _find_pending(service, upload.id)
        raise
    finally:
        path.unlink(missing_ok=True)
    return _find(service, upload.id)


def _checked_size(service: Service, upload: Upload, part_ids: Sequence[str]) -> int:
    """Return the total size of the parts.

    Raises ApiError (400) if they are not the complete file.
    """
    parts = {part.id: part for part in service.store.all(StoredPart, "upload_id = ?", upload.id)}
    if unknown := [part_id for part_id in part_ids if part_id not in parts]:
        raise ApiError(400, f"The upload has no part {unknown[0][:64]!r}.", param="part_ids")
    if len(set(part_ids)) < len(part_ids):
        raise ApiError(400, "`part_ids` names a part twice.", param="part_ids")
    total = sum(parts[part_id].bytes for part_id in part_ids)
    if total != upload.bytes:
        raise ApiError(400, f"The parts have {total} bytes, {upload.bytes} were announced.", code="bytes_mismatch")
    return total


@dataclass(frozen=True)
class _JoinedFile:
    """The size of a file, and its digests in hexadecimal digits."""

    bytes: int
    sha256: str
    md5: str


def _join(parts: Sequence[Path], target: Path) -> _JoinedFile:
    """Write the parts to `target`."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    size = 0
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as stream:
                while chunk := stream.read(2**20):
                    sha256.update(chunk)
                    md5.update(chunk)
                    size += out.write(chunk)
    return _JoinedFile(size, sha256.hexdigest(), md5.hexdigest())


def _upload_object(service: Service, upload: Upload) -> UploadObject:
    """Return an upload as clients see it."""
    file = service.store.find(StoredFile, upload.file_id) if upload.file_id is not None else None
    return UploadObject(
        id=upload.id,
        bytes=upload.bytes,
        created_at=upload.created_at,
        expires_at=upload.expires_at,
        filename=upload.filename,
        purpose=upload.purpose,
        status=upload.status,
        file=None if file is None else file_object(service, file),
    )
