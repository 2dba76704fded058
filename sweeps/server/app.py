"""The application: routes, error bodies, and the description that is served as /openapi.json."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from sweeps.server import completions, files, jobs, metrics, models, uploads
from sweeps.server.errors import SERVER, ApiError
from sweeps.server.middleware import Gate
from sweeps.server.responses import ERRORS, answer
from sweeps.server.schemas import Health
from sweeps.server.service import Service

TITLE = "sweep serve"


def create(service: Service) -> ASGIApp:
    """Return the application of a server, behind its gate."""
    app = FastAPI(title=TITLE, version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    for part in (files, uploads, jobs, models, completions):
        app.include_router(part.router(service))

    @app.get("/healthz", response_model=Health, tags=["server"])
    def healthz() -> Response:
        """Say that the server is there. Asks for no key."""
        return answer(Health())

    @app.get(
        "/metrics",
        tags=["server"],
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: ERRORS[401]},
    )
    def prometheus() -> Response:
        """Return the counters in Prometheus' text format."""
        return Response(service.counters.text(), headers={"content-type": metrics.CONTENT_TYPE})

    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)
    _describe(app, bool(service.keys))
    return Gate(app, service)


def _answered(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, headers=error.headers)


def _api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return _answered(error)


def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Tell the first mistake in the protocol's form."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = [str(each) for each in first["loc"] if each not in ("body", "query", "path")]
    if first["type"] == "json_invalid":
        message = "We could not parse the JSON body of your request. The API expects a JSON payload."
        return _answered(ApiError(400, message))
    param = ".".join(place)[:128] or None
    if first["type"] == "extra_forbidden":
        return _answered(ApiError(400, f"Unrecognized request argument supplied: {param}", param=param))
    return _answered(ApiError(400, f"{param or 'body'}: {first['msg']}", param=param))


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path[:256]}"
    message = {404: f"Invalid URL ({where})", 405: f"Not allowed to {where}"}.get(error.status_code, str(error.detail))
    code = {404: "unknown_url", 405: "method_not_supported"}.get(error.status_code)
    headers = {"Allow": ", ".join(_methods(request))} if error.status_code == 405 else error.headers
    return _answered(ApiError(error.status_code, message, code=code, headers=headers))


def _methods(request: Request) -> list[str]:
    """Return what is offered at a path: the routes of its methods do not know of each other."""
    found: set[str] = set()
    for route in request.app.openapi()["paths"].items():
        pattern = re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(route[0]))
        if re.fullmatch(pattern, request.url.path):
            found |= {method.upper() for method in route[1]}
    return sorted(found)


def _bug(_: Request, __: Exception) -> JSONResponse:
    message = "The server had an error while processing your request. Its log says more."
    return _answered(ApiError(500, message, type_=SERVER, code="internal_error"))


def _describe(app: FastAPI, asks_for_keys: bool) -> None:
    """Correct the generated description: mistakes are answered with 400 and our body, and keys are asked for."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            description = plain()
            for path, operations in description["paths"].items():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    if asks_for_keys and path != "/healthz":
                        operation["security"] = [{"key": []}]
            for name in ("HTTPValidationError", "ValidationError"):
                description["components"]["schemas"].pop(name, None)
            if asks_for_keys:
                description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            app.openapi_schema = description
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]
