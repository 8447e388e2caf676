"""Routes of waitpoints and signals."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from ffsuper.errors import RefusedError
from ffsuper.messages import LaneId
from ffsuper.server import answers
from ffsuper.server.bodies import DeliverSignal
from ffsuper.server.service import Service, path_id, same, service_of
from ffsuper.store import signals
from ffsuper.store.signals import Signal

router = APIRouter(prefix="/v1/executions", tags=["signals"])
Served = Annotated[Service, Depends(service_of)]


@router.get(
    "/{execution_id}/pending-waitpoints",
    responses={200: {"model": list[answers.OpenWaitpoint]}, **answers.NOT_FOUND},
)
async def pending_waitpoints(execution_id: str, service: Served) -> JSONResponse:
    """Return the waitpoints that take signals, with their tokens."""
    known = path_id(execution_id)
    current = (await service.record(known)).get("current_waitpoint_id", "")
    points = await signals.read_open_waitpoints(service.connection, known, current)
    answer = list[dict[str, Any]]()
    for point in points:
        told: dict[str, Any] = {
            "waitpoint_id": point.id,
            "waitpoint_key": point.key,
            "state": point.state,
            "waitpoint_token": point.token,
            "required_signal_names": list(point.signal_names),
            "created_at": point.created_at_ms or 0,
        }
        times = {"activated_at": point.activated_at_ms, "expires_at": point.expires_at_ms}
        answer.append(told | {name: at_ms for name, at_ms in times.items() if at_ms is not None})
    return JSONResponse(answer)


@router.post("/{execution_id}/signal", responses={200: {"model": answers.DELIVERED}, **answers.NOT_FOUND})
async def deliver(execution_id: str, body: DeliverSignal, service: Served) -> JSONResponse:
    """Deliver a signal to a waitpoint; to one that is not suspended on yet, it is kept until then."""
    known = path_id(execution_id)
    same("execution_id", known, body.execution_id)
    lane = LaneId((await service.record(known)).get("lane_id", "default"))
    signal = Signal(
        id=body.signal_id,
        execution_id=known,
        waitpoint_id=body.waitpoint_id,
        name=body.signal_name,
        category=body.signal_category,
        source_type=body.source_type,
        source_identity=body.source_identity,
        payload=bytes(body.payload or ()),
        payload_encoding=body.payload_encoding or "json",
        correlation_id=body.correlation_id or "",
        idempotency_key=body.idempotency_key or "",
        target_scope=body.target_scope,
        created_at_ms=body.now if body.created_at is None else body.created_at,
        dedup_ttl_ms=body.dedup_ttl_ms,
        per_waitpoint=body.signal_maxlen,
        per_execution=body.max_signals_per_execution,
        token=body.waitpoint_token,
    )
    try:
        delivery = await service.run(signals.deliver(signal, lane))
    except RefusedError as refusal:
        if refusal.code != "waitpoint_pending_use_buffer_script":
            raise
        delivery = await service.run(signals.buffer(signal))
    if delivery.effect == "duplicate":
        return JSONResponse({"Duplicate": {"existing_signal_id": delivery.signal_id}})
    return JSONResponse({"Accepted": {"signal_id": delivery.signal_id, "effect": delivery.effect}})
