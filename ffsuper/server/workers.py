"""The route by which workers get work."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from ffsuper.config_rules import capability_mistakes
from ffsuper.messages import LaneId
from ffsuper.sansio.partition import partition_of
from ffsuper.server import answers
from ffsuper.server.bodies import MAX_GRANT_TTL_MS, MAX_WAIT_MS, Claim, lane_id
from ffsuper.server.service import HttpError, Service, service_of
from ffsuper.store.admission import Claimant
from ffsuper.store.keys import ExecutionKeys

router = APIRouter(prefix="/v1/workers", tags=["workers"])
MAX_NAME = 256


@router.post(
    "/{worker_id}/claim",
    response_model=None,
    responses={200: {"model": answers.Grant}, 204: answers.NOTHING},
)
async def claim(
    worker_id: str, body: Claim, request: Request, service: Annotated[Service, Depends(service_of)]
) -> Response:
    """Grant the execution whose turn it is to a worker; wait for one for up to ``wait_ms`` if asked."""
    for name, value in (("worker_id", worker_id), ("worker_instance_id", body.worker_instance_id)):
        if not 1 <= len(value.encode()) <= MAX_NAME or any(not one.isprintable() or one.isspace() for one in value):
            raise HttpError(400, f"{name}: 1 to {MAX_NAME} bytes without white space or control characters")
    if not 1 <= body.grant_ttl_ms <= MAX_GRANT_TTL_MS:
        raise HttpError(400, f"grant_ttl_ms: must be from 1 to {MAX_GRANT_TTL_MS}, got {body.grant_ttl_ms}")
    if not 0 <= body.wait_ms <= MAX_WAIT_MS:
        raise HttpError(400, f"wait_ms: must be from 0 to {MAX_WAIT_MS}, got {body.wait_ms}")
    try:
        lane = LaneId(lane_id(body.lane_id))
    except ValueError as error:
        raise HttpError(400, str(error)) from None
    wrong = [f"capabilities{item}: {text}" for item, text in capability_mistakes(tuple(body.capabilities))]
    if wrong:
        raise HttpError(400, "; ".join(wrong))
    claimant = Claimant(
        worker_id=worker_id,
        instance_id=body.worker_instance_id,
        capabilities=",".join(sorted(set(body.capabilities))),
        grant_ttl_ms=body.grant_ttl_ms,
    )
    if body.wait_ms:
        async with service.watched(request) as gone:
            with service.metrics.waiting.track_inprogress():
                granted = await service.rounds.claim(lane, claimant, body.wait_ms / 1000, gone)
    else:
        granted = await service.rounds.claim(lane, claimant)
    if granted is None:
        return Response(status_code=204)
    service.metrics.grants.inc()
    keys = ExecutionKeys.of(granted.execution_id)
    return JSONResponse(
        {
            "execution_id": granted.execution_id,
            "partition_family": "execution",
            "partition_index": partition_of(granted.execution_id),
            "grant_key": keys.part("claim_grant"),
            "expires_at_ms": granted.expires_at_ms,
        }
    )
