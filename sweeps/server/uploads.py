"""/v1/uploads: a file that comes in parts."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from sweeps.server import files, multipart
from sweeps.server.errors import ApiError, not_found
from sweeps.server.records import Part, StoredFile, Upload, new_id
from sweeps.server.responses import ERRORS, Id, answer
from sweeps.server.schemas import CompleteUpload, CreateUpload, UploadObject, UploadPart
from sweeps.server.schemas import FileObject as File
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
    routes = APIRouter(prefix="/v1/uploads", tags=["uploads"], responses=ERRORS)
    store = service.store

    @routes.post("", response_model=UploadObject)
    def create_upload(order: CreateUpload) -> Response:
        """Announce a file that comes in parts; the parts must be complete within an hour."""
        if order.bytes > service.settings.max_file_bytes:
            message = f"The file is larger than the limit of {service.settings.max_file_bytes} bytes."
            raise ApiError(413, message, code="file_too_large", param="bytes")
        now = int(time.time())
        upload = Upload(
            id=new_id("upload_"),
            filename=files.clean_name(order.filename),
            purpose=order.purpose,
            bytes=order.bytes,
            mime_type=order.mime_type,
            created_at=now,
            expires_at=now + LIFETIME_S,
            file_expires_after_s=None if order.expires_after is None else order.expires_after.seconds,
        )
        store.add(upload)
        return answer(_shown(service, upload))

    @routes.post("/{upload_id}/parts", response_model=UploadPart, openapi_extra=_FORM)
    async def add_part(upload_id: Id, request: Request) -> Response:
        """Add a part of at most 64 MiB. Parts may come in any order."""
        await run_in_threadpool(_pending, service, upload_id)
        part_id = new_id("part_")
        path = service.incoming(part_id)
        received = await multipart.receive(request, path, file_field="data", max_bytes=MAX_PART_BYTES)
        part = Part(part_id, upload_id, received.bytes, int(time.time()))
        service.counters.received.inc(part.bytes)
        try:
            await run_in_threadpool(_add, service, part)
        except ApiError:
            path.unlink(missing_ok=True)
            raise
        return answer(UploadPart(id=part.id, created_at=part.created_at, upload_id=upload_id))

    @routes.post("/{upload_id}/complete", response_model=UploadObject)
    def complete_upload(upload_id: Id, order: CompleteUpload) -> Response:
        """Put the parts together, in the given order."""
        return answer(_shown(service, _complete(service, _pending(service, upload_id), order)))

    @routes.post("/{upload_id}/cancel", response_model=UploadObject)
    def cancel_upload(upload_id: Id) -> Response:
        """Give an upload up; its parts are deleted."""
        upload = _pending(service, upload_id)
        if not store.change(Upload, upload.id, condition="status = 'pending'", status="cancelled"):
            _pending(service, upload_id)
        service.delete_parts(upload.id)
        return answer(_shown(service, _known(service, upload_id)))

    return routes


def _known(service: Service, upload_id: str) -> Upload:
    upload = service.store.find(Upload, upload_id)
    if upload is None:
        raise not_found("Upload", upload_id[:64], param="upload_id")
    return upload


def _pending(service: Service, upload_id: str) -> Upload:
    upload = _known(service, upload_id)
    if upload.status == "pending" and upload.expires_at <= time.time():
        service.store.change(Upload, upload.id, condition="status = 'pending'", status="expired")
        service.delete_parts(upload_id)
        upload = _known(service, upload_id)
    if upload.status != "pending":
        raise ApiError(400, f"The upload is {upload.status}.", code="upload_not_pending", param="upload_id")
    return upload


def _add(service: Service, part: Part) -> None:
    with service.store.transaction():
        upload = _pending(service, part.upload_id)
        held = sum(each.bytes for each in service.store.all(Part, "upload_id = ?", part.upload_id))
        if held + part.bytes > upload.bytes:
            message = f"The parts have {held + part.bytes} bytes, {upload.bytes} were announced."
            raise ApiError(400, message, code="too_many_bytes", param="data")
        service.store.add(part)


def _complete(service: Service, upload: Upload, order: CompleteUpload) -> Upload:
    parts = {each.id: each for each in service.store.all(Part, "upload_id = ?", upload.id)}
    if unknown := [part_id for part_id in order.part_ids if part_id not in parts]:
        raise ApiError(400, f"The upload has no part {unknown[0][:64]!r}.", param="part_ids")
    if len(set(order.part_ids)) < len(order.part_ids):
        raise ApiError(400, "A part is named twice.", param="part_ids")
    total = sum(parts[part_id].bytes for part_id in order.part_ids)
    if total != upload.bytes:
        raise ApiError(400, f"The parts have {total} bytes, {upload.bytes} were announced.", code="bytes_mismatch")
    now = int(time.time())
    path = service.incoming(new_id("body_"))
    sha256, md5 = _join([service.incoming(part_id) for part_id in order.part_ids], path)
    expiry = upload.file_expires_after_s
    file = StoredFile(
        id=new_id("file-"),
        filename=upload.filename,
        purpose=upload.purpose,
        bytes=total,
        created_at=now,
        sha256=sha256,
        expires_at=None if expiry is None else now + expiry,
    )
    try:
        if order.md5 is not None and order.md5.lower() != md5:
            raise ApiError(400, f"The file's md5 is {md5}.", code="md5_mismatch", param="md5")
        with service.store.transaction():  # a crash in between leaves the upload as it was
            if not service.store.change(
                Upload, upload.id, condition="status = 'pending'", status="completed", file_id=file.id
            ):
                _pending(service, upload.id)
            files.keep(service, file, path)
    finally:
        path.unlink(missing_ok=True)
    service.delete_parts(upload.id)
    return _known(service, upload.id)


def _join(parts: list[Path], target: Path) -> tuple[str, str]:
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as stream:
                while chunk := stream.read(2**20):
                    sha256.update(chunk)
                    md5.update(chunk)
                    out.write(chunk)
    return sha256.hexdigest(), md5.hexdigest()


def _shown(service: Service, upload: Upload) -> UploadObject:
    file = service.store.find(StoredFile, upload.file_id) if upload.file_id is not None else None
    return UploadObject.model_validate(
        {
            "id": upload.id,
            "bytes": upload.bytes,
            "created_at": upload.created_at,
            "expires_at": upload.expires_at,
            "filename": upload.filename,
            "purpose": upload.purpose,
            "status": upload.status,
            "file": None if file is None else File(**files.shown(service, file)),
        }
    )
