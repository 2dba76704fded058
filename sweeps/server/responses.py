"""What every route shares: documented errors, JSON answers, pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Path, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from sweeps.server.errors import ApiError
from sweeps.server.schemas import ErrorBody

_ERRORS = {
    400: "The request is wrong.",
    401: "No key, or a wrong one.",
    403: "Not allowed.",
    404: "There is no such object.",
    409: "The object's state does not allow it.",
    413: "The body is too large.",
    429: "Too many requests.",
    500: "The server failed.",
    503: "Try again later.",
}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text} for status, text in _ERRORS.items()
}
"""The error answers, for a router's `responses`."""

Id = Annotated[str, Path(min_length=1, max_length=128)]
After = Annotated[str | None, Query(max_length=128, description="the last id of the page before")]

_Item = TypeVar("_Item")


def answer(body: BaseModel | dict[str, Any]) -> JSONResponse:
    """Return an object of the protocol; missing values are null."""
    return JSONResponse(body.model_dump(mode="json") if isinstance(body, BaseModel) else body)


def listing(
    read: Callable[[], tuple[list[_Item], bool]], shown: Callable[[_Item], dict[str, Any]], *, ends: bool = True
) -> dict[str, Any]:
    """Return a page; `ends`: with the ids of its first and last object. Raises ApiError (400) for a bad cursor."""
    try:
        rows, more = read()
    except KeyError as error:
        raise ApiError(400, f"There is no object {error.args[0]!r} to go on after.", param="after") from error
    data = [shown(row) for row in rows]
    page: dict[str, Any] = {"object": "list", "data": data, "has_more": more}
    if ends:
        page |= {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return page
