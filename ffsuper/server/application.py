"""The HTTP interface: its routes, and how mistakes are told."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ffsuper.errors import StoreError
from ffsuper.server import administration, budgets, executions, flows, signals, streams, workers
from ffsuper.server.guard import Arrivals, Guard
from ffsuper.server.metrics import CONTENT_TYPE
from ffsuper.server.service import BusyError, HttpError, Service, failure, service_of, told
from ffsuper.store.replies import Call


def application(service: Service) -> FastAPI:
    """Return the application."""
    app = FastAPI(title="ffsuper", version=version("ffsuper"), docs_url=None, redoc_url=None)
    app.state.service = service
    for routes in (executions, signals, streams, workers, flows, budgets, administration):
        app.include_router(routes.router)
    app.add_api_route("/healthz", healthz, tags=["health"])
    app.add_api_route("/metrics", metrics, tags=["health"], response_class=Response)
    app.add_exception_handler(StoreError, store_error)
    app.add_exception_handler(HttpError, http_error)
    app.add_exception_handler(BusyError, busy)
    app.add_exception_handler(HTTPException, framework_error)
    app.add_exception_handler(RequestValidationError, invalid_request)
    arrivals = Arrivals()
    service.background.start_soon(arrivals.hurry_after, service.stopping)
    app.add_middleware(
        Guard, token=service.config.token, metrics=service.metrics, stopping=service.stopping, arrivals=arrivals
    )
    if service.config.cors_origins:
        # The outermost: a browser asks first whether it may ask, and brings no token then.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.config.cors_origins,
            allow_methods=["GET", "POST", "PUT"],
            allow_headers=["authorization", "content-type"],
        )
    return app


async def healthz(service: Annotated[Service, Depends(service_of)]) -> JSONResponse:
    """Tell whether the store answers."""
    await service.run(Call(("PING",), lambda _: None))
    return JSONResponse({"status": "ok"})


async def metrics(service: Annotated[Service, Depends(service_of)]) -> Response:
    """Return the server's numbers, for Prometheus."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


async def store_error(_: Request, error: Exception) -> Response:
    """Answer when the store refused, or is away."""
    assert isinstance(error, StoreError)
    return told(error)


async def http_error(_: Request, error: Exception) -> Response:
    """Answer when a request cannot be served."""
    assert isinstance(error, HttpError)
    return failure(error.status, error.text)


async def busy(_: Request, error: Exception) -> Response:
    """Answer when too many ask for the same."""
    return failure(429, str(error), retryable=True)


async def framework_error(_: Request, error: Exception) -> Response:
    """Answer to an unknown path or a wrong method, with nothing but the status, or to a body that is none."""
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):
        return Response(status_code=error.status_code, headers=error.headers)
    return failure(error.status_code, error.detail)


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
