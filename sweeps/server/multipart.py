"""Multipart bodies: the file streams to the disk, and only the small fields stay in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from sweeps.server.errors import ApiError

_MAX_FIELD_BYTES = 4096
_MAX_FIELDS = 20


@dataclass
class ReceivedForm:
    """A received body: its file lies at `path`, and `fields` holds the other parts."""

    path: Path
    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    bytes: int = 0
    sha256: str = ""


async def receive_form(request: Request, path: Path, *, file_field: str, max_bytes: int) -> ReceivedForm:
    """Read a multipart body, and write the part `file_field` to `path`.

    After an error nothing remains there. Raises ApiError (400 or 413) if the body is malformed or
    too large, or has no such part.
    """
    content_type, options = parse_options_header(request.headers.get("content-type", ""))
    if content_type != b"multipart/form-data" or b"boundary" not in options:
        raise ApiError(400, "The body must be multipart/form-data with a boundary.", code="invalid_multipart")
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > max_bytes + 2**20:
        raise _too_large(max_bytes)
    form = ReceivedForm(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    is_complete = False
    try:
        with path.open("wb") as stream:
            reader = _FormReader(form, stream, file_field, max_bytes)
            parser = MultipartParser(options[b"boundary"], reader.callbacks())  # type: ignore[arg-type]
            async for chunk in request.stream():
                parser.write(chunk)
            parser.finalize()
        if not reader.has_ended or form.filename is None:
            raise ApiError(400, f"The body has no file in a part named {file_field!r}.", param=file_field)
        form.sha256 = reader.digest.hexdigest()
        is_complete = True
        return form
    except (FormParserError, UnicodeDecodeError, ValueError) as error:
        raise ApiError(400, f"The multipart body cannot be read: {error}", code="invalid_multipart") from error
    except ClientDisconnect as error:
        raise ApiError(400, "The upload was interrupted.", code="interrupted") from error
    finally:
        if not is_complete:
            path.unlink(missing_ok=True)


class _FormReader:
    """The callbacks of the parser. They fill `form`, and write the file's bytes to `stream`."""

    def __init__(self, form: ReceivedForm, stream: IO[bytes], file_field: str, max_bytes: int) -> None:
        self._form, self._stream = form, stream
        self._file_field, self._max_bytes = file_field, max_bytes
        self.digest = hashlib.sha256()
        self.has_ended = False
        self._header, self._value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._name: str | None = None
        self._text = b""
        self._fields = 0

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._headers, self._text, self._name = {}, b"", None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode()
        if self._name == self._file_field:
            if self._form.filename is not None:
                raise ApiError(400, "Send one file at a time.", param=self._file_field)
            self._form.filename = options.get(b"filename", b"").decode() or "file"
            return
        self._fields += 1
        if self._fields > _MAX_FIELDS:
            raise ApiError(400, "Too many fields.", code="invalid_multipart")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        chunk = data[start:end]
        if self._name != self._file_field:
            self._text += chunk
            if len(self._text) > _MAX_FIELD_BYTES:
                raise ApiError(413, f"The field {str(self._name)[:64]!r} is too long.", code="field_too_long")
            return
        self._form.bytes += len(chunk)
        if self._form.bytes > self._max_bytes:
            raise _too_large(self._max_bytes)
        self.digest.update(chunk)
        self._stream.write(chunk)

    def _part_end(self) -> None:
        if self._name != self._file_field:
            if self._name in self._form.fields:
                raise ApiError(400, f"The field {str(self._name)[:64]!r} occurs twice.", code="invalid_multipart")
            self._form.fields[str(self._name)] = self._text.decode()

    def _end(self) -> None:
        self.has_ended = True


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        413, f"The file is larger than the limit of {max_bytes} bytes.", code="file_too_large", param="file"
    )
