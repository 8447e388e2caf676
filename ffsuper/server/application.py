"""The HTTP interface: routes, who may use them, and how mistakes are told."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ffsuper.errors import StoreError
from ffsuper.server import budgets, executions, workers
from ffsuper.server.service import HttpError, Service, failure, service_of, told
from ffsuper.store.replies import Call

MAX_BODY_BYTES = 2 * 1024 * 1024
PUBLIC = ("/healthz",)
BEARER = "Bearer "


def application(service: Service, token: str = "") -> FastAPI:
    """Return the application.

    Args:
        token: what requests have to bring, but for those about health; empty for nothing.
    """
    app = FastAPI(title="ffsuper", version=version("ffsuper"), docs_url=None, redoc_url=None)
    app.state.service = service
    app.include_router(executions.router)
    app.include_router(workers.router)
    app.include_router(budgets.router)
    app.add_api_route("/healthz", healthz, tags=["health"])
    app.add_exception_handler(StoreError, store_error)
    app.add_exception_handler(HttpError, http_error)
    app.add_exception_handler(HTTPException, bare_error)
    app.add_exception_handler(RequestValidationError, invalid_request)
    app.middleware("http")(guard(token))
    return app


async def healthz(request: Request) -> JSONResponse:
    """Tell whether the store answers."""
    await service_of(request).run(Call(("PING",), lambda _: None))
    return JSONResponse({"status": "ok"})


Next = Callable[[Request], Awaitable[Response]]


def guard(token: str) -> Callable[[Request, Next], Awaitable[Response]]:
    """Return what stands before all routes."""
    expected = f"{BEARER}{token}".encode()

    async def check(request: Request, call_next: Next) -> Response:
        given = request.headers.get("authorization", "").encode("latin-1")
        if token and request.url.path not in PUBLIC and not hmac.compare_digest(given, expected):
            return failure(401, "missing or invalid Authorization header")
        length = request.headers.get("content-length", "0")
        if request.method in ("POST", "PUT") and ("transfer-encoding" in request.headers or not length.isdecimal()):
            return failure(411, "a body needs its length: send Content-Length")
        if length.isdecimal() and int(length) > MAX_BODY_BYTES:
            return failure(413, "invalid JSON: Content Too Large")
        return await call_next(request)

    return check


async def store_error(_: Request, error: Exception) -> Response:
    """Answer when the store refused, or is away."""
    assert isinstance(error, StoreError)
    return told(error)


async def http_error(_: Request, error: Exception) -> Response:
    """Answer when a request cannot be served."""
    assert isinstance(error, HttpError)
    return failure(error.status, error.text)


async def bare_error(_: Request, error: Exception) -> Response:
    """Answer with nothing but the status: an unknown path, or the wrong method."""
    assert isinstance(error, HTTPException)
    return Response(status_code=error.status_code, headers=error.headers)


async def invalid_request(_: Request, error: Exception) -> Response:
    """Answer when a body or a query is not what the route wants."""
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    if any(problem["type"] == "json_invalid" for problem in problems):
        return failure(400, "invalid JSON: Bad Request")
    if any(problem["loc"][0] != "body" for problem in problems):
        return failure(400, "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in problems))
    places = "; ".join(f"{'.'.join(map(str, problem['loc'][1:]))}: {problem['msg']}" for problem in problems)
    return failure(422, f"invalid JSON: Unprocessable Entity ({places})")
