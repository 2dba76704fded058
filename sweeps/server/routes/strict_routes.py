"""The class of all routes: it reads JSON bodies strictly."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from sweeps.server import strict_json


class InvalidJson(HTTPException):
    """A body is not JSON that the server accepts; `place` names the wrong value, or is empty."""

    def __init__(self, error: strict_json.JsonError) -> None:
        super().__init__(400, error.message)
        self.place = error.place


class StrictRoute(APIRoute):
    """A route whose handler gets only values that the server can store and send."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, given requests that parse strictly."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return strict_json.parse(await self.body())
        except strict_json.JsonError as error:
            raise InvalidJson(error) from error
