"""The HTTP interface: its routes, and how mistakes are told."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ffsuper.errors import StoreError
from ffsuper.metrics import CONTENT_TYPE
from ffsuper.server import administration, answers, budgets, executions, flows, signals, streams, workers
from ffsuper.server.guard import PUBLIC, Arrivals, Guard
from ffsuper.server.service import HttpError, Service, failure, service_of, told
from ffsuper.store.replies import Call

NO_JSON = "invalid JSON: Bad Request"


class Application(FastAPI):
    """An application whose OpenAPI document tells what is not seen from its routes."""

    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        if self.openapi_schema is None:
            has_token = bool(self.state.service.config.token)
            self.openapi_schema = answers.completed(super().openapi(), PUBLIC, has_token=has_token)
        return self.openapi_schema


def application(service: Service) -> FastAPI:
    """Return the application."""
    app = Application(
        title="ffsuper", version=version("ffsuper"), docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.service = service
    guarded = answers.UNAUTHORIZED | answers.TOO_LARGE
    failing = guarded | answers.ABOUT_BODY | answers.REFUSED | answers.STORE_FAILED
    for routes in (executions, signals, streams, workers, flows, budgets):
        app.include_router(routes.router, responses=failing)
    app.include_router(administration.router, responses=guarded | answers.ABOUT_BODY)
    health: answers.Responses = {200: {"model": answers.Health}, **answers.TOO_LARGE, **answers.STORE_FAILED}
    app.add_api_route("/healthz", healthz, tags=["health"], responses=health)
    numbers: answers.Responses = {200: answers.METRICS, **guarded}
    app.add_api_route("/metrics", metrics, tags=["health"], response_class=Response, responses=numbers)
    app.add_exception_handler(StoreError, store_error)
    app.add_exception_handler(HttpError, http_error)
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
    return failure(error.status, error.text, **error.more)


async def framework_error(_: Request, error: Exception) -> Response:
    """Answer to an unknown path or a wrong method, with nothing but the status, or to a body that is none."""
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):
        return Response(status_code=error.status_code, headers=error.headers)
    return failure(error.status_code, NO_JSON if error.status_code == 400 else error.detail)


async def invalid_request(request: Request, error: Exception) -> Response:
    """Answer when a body or a query is not what the route wants."""
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    if any(problem["loc"][0] == "body" for problem in problems) and not is_json(request):
        return failure(415, "invalid JSON: Unsupported Media Type")
    if any(problem["type"] == "json_invalid" or is_absent(problem) for problem in problems):
        return failure(400, NO_JSON)
    if any(problem["loc"][0] != "body" for problem in problems):
        return failure(400, "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in problems))
    places = "; ".join(f"{'.'.join(map(str, problem['loc'][1:]))}: {problem['msg']}" for problem in problems)
    return failure(422, f"invalid JSON: Unprocessable Entity ({places})")


def is_json(request: Request) -> bool:
    """Tell whether a body says that it is JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )


def is_absent(problem: Mapping[str, Any]) -> bool:
    """Tell whether a problem is that there is no body."""
    return bool(problem["loc"] == ("body",) and problem["type"] == "missing")
