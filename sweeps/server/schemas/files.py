"""The schemas of files and of uploads in parts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sweeps.server.schemas.base import RequestModel, ResponseModel, WholeNumber


class FileObject(ResponseModel):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: str
    status_details: str | None = None


class FileList(ResponseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(ResponseModel):
    """The server has deleted a file."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool


class ExpiresAfter(RequestModel):
    """When the server deletes a file."""

    anchor: Literal["created_at"]
    seconds: WholeNumber = Field(ge=3600, le=2592000)


class CreateUpload(RequestModel):
    """The announcement of a file that the client sends in parts."""

    bytes: WholeNumber = Field(ge=1)
    filename: str = Field(min_length=1, max_length=255)
    mime_type: str = Field(max_length=255)
    purpose: Literal["fine-tune"]
    expires_after: ExpiresAfter | None = None


class CompleteUpload(RequestModel):
    """The parts of a file, in their order."""

    part_ids: list[str]
    md5: str | None = None


class UploadObject(ResponseModel):
    """A file that the client sends in parts."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None = None


class UploadPart(ResponseModel):
    """A part of a file."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str
