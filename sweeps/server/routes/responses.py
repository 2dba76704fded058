"""What all routes share: documented errors, parameter types, JSON responses and pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Path, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from sweeps.server.errors import ApiError
from sweeps.server.schemas.base import ErrorBody

_ERROR_DESCRIPTIONS = {
    400: "The request is wrong.",
    401: "The API key is missing or wrong.",
    403: "The server does not allow it.",
    404: "There is no such object.",
    409: "The object's state does not allow it.",
    413: "The body is too large.",
    429: "The client sends too many requests.",
    500: "The server failed.",
    503: "Try again later.",
}

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description} for status, description in _ERROR_DESCRIPTIONS.items()
}
"""The error responses, for the `responses` of a router."""

ObjectId = Annotated[str, Path(min_length=1, max_length=128)]
After = Annotated[str | None, Query(max_length=128, description="the last id of the previous page")]

_Record = TypeVar("_Record")


def json_response(body: BaseModel | dict[str, Any]) -> JSONResponse:
    """Return an object of the protocol. A missing value is null."""
    return JSONResponse(body.model_dump(mode="json") if isinstance(body, BaseModel) else body)


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
    data = [to_body(record) for record in records]
    page: dict[str, Any] = {"object": "list", "data": data, "has_more": has_more}
    if with_end_ids:
        page |= {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return json_response(page)
