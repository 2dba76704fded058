"""What all routes share: documented errors, parameter types, JSON responses and pages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Path, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from sweeps.server import strict_json
from sweeps.server.errors import ApiError
from sweeps.server.schemas.base import ErrorBody

_LOG = logging.getLogger("sweeps.server")

_ERROR_DESCRIPTIONS = {
    400: "The request is wrong.",
    401: "The API key is missing or wrong.",
    403: "The server does not allow it.",
    404: "There is no such object.",
    409: "The object's state does not allow it.",
    408: "The request arrives too slowly.",
    413: "The body is too large.",
    429: "The client sends too many requests.",
    500: "The server failed.",
    503: "Try again later.",
    507: "The server's disk is full or cannot be written.",
}

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description} for status, description in _ERROR_DESCRIPTIONS.items()
}
"""The error responses, for the `responses` of a router."""

ObjectId = Annotated[str, Path(min_length=1, max_length=128)]
After = Annotated[str | None, Query(max_length=128, description="the last id of the previous page")]

_Record = TypeVar("_Record")


class _PrintableResponse(JSONResponse):
    """A JSON response that can always be sent, whatever an older version stored."""

    def render(self, content: Any) -> bytes:
        return strict_json.to_bytes(content)


def json_response(body: BaseModel | dict[str, Any]) -> JSONResponse:
    """Return an object of the protocol. A missing value is null."""
    return _PrintableResponse(body.model_dump() if isinstance(body, BaseModel) else body)


def error_response(error: ApiError) -> JSONResponse:
    """Return an error in the form of the protocol."""
    return _PrintableResponse(error.body(), error.status, headers=error.headers)


def page_response(
    read_page: Callable[[], tuple[list[_Record], bool]],
    to_body: Callable[[_Record], dict[str, Any]],
    *,
    with_end_ids: bool = True,
) -> JSONResponse:
    """Return a page of records, by default with the ids of its first and last object.

    `read_page` is like `Store.page`. Raises ApiError (400) if no object has the id of the parameter
    `after`.
    """
    try:
        records, has_more = read_page()
    except KeyError as error:
        message = f"There is no object {error.args[0]!r} after which to continue."
        raise ApiError(400, message, param="after") from error
    data = [body for body in (_body_or_none(record, to_body) for record in records) if body is not None]
    page: dict[str, Any] = {"object": "list", "data": data, "has_more": has_more}
    if with_end_ids:
        page |= {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return json_response(page)


def _body_or_none(record: _Record, to_body: Callable[[_Record], dict[str, Any]]) -> dict[str, Any] | None:
    """Return a record as clients see it.

    Returns None, and logs why, for a record that this version cannot show: it must not hide the
    others of its page.
    """
    try:
        return to_body(record)
    except ValueError as error:  # pydantic's ValidationError is one
        _LOG.warning("a list leaves out the damaged record %s: %s", getattr(record, "id", record), error)
        return None
