"""The FastAPI application: routes, error responses, and the OpenAPI description."""

from __future__ import annotations

import logging
import re
import sqlite3
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from sweeps.server import prometheus_metrics
from sweeps.server.errors import SERVER_ERROR, ApiError
from sweeps.server.middleware import RequestChecks
from sweeps.server.resource_faults import resource_fault
from sweeps.server.routes import completions, files, jobs, models, uploads
from sweeps.server.routes.responses import ERROR_RESPONSES, error_response, json_response
from sweeps.server.routes.strict_routes import InvalidJson
from sweeps.server.schemas.base import Health
from sweeps.server.service import Service

TITLE = "sweep serve"

_LOG = logging.getLogger("sweeps.server")


def create_app(service: Service) -> ASGIApp:
    """Return the application of a server, behind its middleware."""
    app = FastAPI(title=TITLE, version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    for routes in (files, uploads, jobs, models, completions):
        app.include_router(routes.router(service))

    @app.get("/healthz", response_model=Health, tags=["server"])
    def healthz() -> Response:
        """Report that the server is up. Needs no key."""
        return json_response(Health())

    @app.get(
        "/metrics",
        tags=["server"],
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: ERROR_RESPONSES[401]},
    )
    def prometheus() -> Response:
        """Return the counters in Prometheus' text format."""
        return Response(service.metrics.text(), headers={"content-type": prometheus_metrics.CONTENT_TYPE})

    app.add_exception_handler(ApiError, _handle_api_error)
    app.add_exception_handler(RequestValidationError, _handle_invalid_request)
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(Exception, _handle_bug)

    def handle_missing_resource(_: Request, error: Exception) -> JSONResponse:
        fault = resource_fault(error, service.folder.root)
        if fault is None:
            _LOG.error("a request failed", exc_info=error)
            return error_response(_internal_error())
        _LOG.warning("a request failed: %s (%s)", fault.message, error)
        return error_response(fault.api_error())

    app.add_exception_handler(OSError, handle_missing_resource)
    app.add_exception_handler(sqlite3.Error, handle_missing_resource)
    _correct_description(app, needs_keys=bool(service.keys))
    return RequestChecks(app, service)


def _handle_api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error_response(error)


def _handle_invalid_request(_: Request, error: Exception) -> JSONResponse:
    """Report the first mistake in a request, in the protocol's form."""
    assert isinstance(error, RequestValidationError)
    mistake = error.errors()[0]
    names = [str(name) for name in mistake["loc"] if name not in ("body", "query", "path")]
    param = ".".join(names)[:128] or None
    if mistake["type"] == "extra_forbidden":
        return error_response(ApiError(400, f"Unrecognized request argument supplied: {param}", param=param))
    return error_response(ApiError(400, f"{param or 'body'}: {mistake['msg']}", param=param))


def _handle_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error, InvalidJson):
        return error_response(ApiError(400, str(error.detail), param=error.place or None, code="invalid_json"))
    attempt = f"{request.method} {request.scope['path'][:256]}"
    if error.status_code == 404:
        return error_response(ApiError(404, f"Invalid URL ({attempt})", code="unknown_url"))
    if error.status_code == 405:
        headers = {"Allow": ", ".join(_allowed_methods(request))}
        message = f"Not allowed to {attempt}"
        return error_response(ApiError(405, message, code="method_not_supported", headers=headers))
    return error_response(ApiError(error.status_code, str(error.detail), headers=error.headers))


def _allowed_methods(request: Request) -> list[str]:
    """Return all methods at the request's path. Each route knows only its own."""
    methods: set[str] = set()
    for path, operations in request.app.openapi()["paths"].items():
        pattern = re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(path))
        if re.fullmatch(pattern, request.scope["path"]):
            methods |= {method.upper() for method in operations}
    return sorted(methods)


def _handle_bug(_: Request, __: Exception) -> JSONResponse:
    return error_response(_internal_error())


def _internal_error() -> ApiError:
    message = "The server had an error while processing your request. See the server's log."
    return ApiError(500, message, type_=SERVER_ERROR, code="internal_error")


def _correct_description(app: FastAPI, *, needs_keys: bool) -> None:
    """Correct the generated OpenAPI description.

    An invalid request gets status 400 with the protocol's error body, not FastAPI's 422, and
    operations need a key.
    """
    generate = app.openapi

    def corrected() -> dict[str, Any]:
        if app.openapi_schema is None:
            description = generate()
            for path, operations in description["paths"].items():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    if needs_keys and path != "/healthz":
                        operation["security"] = [{"key": []}]
            for name in ("HTTPValidationError", "ValidationError"):
                description["components"]["schemas"].pop(name, None)
            if needs_keys:
                description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            app.openapi_schema = description
        return app.openapi_schema

    app.openapi = corrected  # type: ignore[method-assign]
