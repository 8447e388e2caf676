"""Routes for who runs the store: its partitions, and the secrets of waitpoint tokens."""

from __future__ import annotations

import re
from typing import Annotated

import trio
from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from ffsuper.errors import StoreError
from ffsuper.server.answers import BUSY, REFUSED, TOO_LATE, Partitions, Rotation
from ffsuper.server.bodies import RotateSecret
from ffsuper.server.service import HttpError, Service, failure, service_of
from ffsuper.store.secrets import rotate_secret

router = APIRouter(prefix="/v1", tags=["administration"])
Served = Annotated[Service, Depends(service_of)]

ROTATION_S = 120.0
PARTITIONS_AT_ONCE = 16


@router.get("/partitions", responses={200: {"model": Partitions}})
async def partitions(service: Served) -> JSONResponse:
    """Return how many partitions there are, which decides about the ids of new executions."""
    counts = {"flow": service.counts.flow, "budget": service.counts.budget, "quota": service.counts.quota}
    return JSONResponse({f"num_{family}_partitions": count for family, count in counts.items()})


@router.post("/admin/rotate-waitpoint-secret", responses={200: {"model": Rotation}, **REFUSED, **BUSY, **TOO_LATE})
async def rotate(body: RotateSecret, service: Served) -> JSONResponse:
    """Make another secret the current one on all partitions; a repeat is harmless."""
    if not body.new_kid or ":" in body.new_kid or not body.new_kid.isprintable():
        raise HttpError(400, "new_kid: must not be empty, nor contain a colon or control characters")
    if not re.fullmatch("(?:[0-9a-fA-F]{2})+", body.new_secret_hex):
        raise HttpError(400, "new_secret_hex: must be an even number of hex digits, and not empty")
    grace_ms = int(service.config.secret_grace_s * 1000)
    results: dict[int, str | StoreError] = {}
    with service.rotations.place(), trio.move_on_after(ROTATION_S) as limit:
        for start in range(0, service.counts.flow, PARTITIONS_AT_ONCE):
            numbers = range(start, min(start + PARTITIONS_AT_ONCE, service.counts.flow))
            calls = [rotate_secret(number, body.new_kid, body.new_secret_hex, grace_ms) for number in numbers]
            answers: list[str | StoreError] = await service.connection.try_all(calls)
            results |= dict(zip(numbers, answers, strict=True))
    if limit.cancelled_caught:
        return failure(504, f"not done within {ROTATION_S:g} s; repeat it, which is harmless")
    failed = [number for number, result in results.items() if isinstance(result, StoreError)]
    in_progress = [number for number, result in results.items() if result == "in_progress"]
    rotated = len(results) - len(failed) - len(in_progress)
    if failed and not rotated:
        raise HttpError(400, f"no partition rotated: {results[failed[0]]}")
    return JSONResponse({"rotated": rotated, "failed": failed, "in_progress": in_progress, "new_kid": body.new_kid})
