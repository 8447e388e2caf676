"""Routes of executions."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse, Response

from ffsuper.errors import RefusedError
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.sansio.partition import partition_of
from ffsuper.server import answers
from ffsuper.server.bodies import CancelExecution, ChangePriority, CreateExecution, lane_id
from ffsuper.server.service import HttpError, Service, path_id, same, service_of
from ffsuper.store import operations, submissions
from ffsuper.store.keys import is_execution_id
from ffsuper.store.replies import Call
from ffsuper.store.submissions import Submission

router = APIRouter(prefix="/v1/executions", tags=["executions"])
Served = Annotated[Service, Depends(service_of)]

MOST_LISTED = 1_000
LISTED = ("namespace", "lane_id", "execution_kind", "public_state", "priority", "created_at")
STATE_VECTOR = (
    *("lifecycle_phase", "ownership_state", "eligibility_state", "blocking_reason", "terminal_outcome"),
    *("attempt_state", "public_state"),
)


class Listed(StrEnum):
    """Indexes of a lane that can be listed; those of blocked executions are not the protocol's."""

    ELIGIBLE = "eligible"
    DELAYED = "delayed"
    TERMINAL = "terminal"
    SUSPENDED = "suspended"
    ACTIVE = "active"
    BLOCKED_DEPENDENCIES = "blocked:dependencies"
    BLOCKED_BUDGET = "blocked:budget"
    BLOCKED_QUOTA = "blocked:quota"
    BLOCKED_ROUTE = "blocked:route"
    BLOCKED_OPERATOR = "blocked:operator"


@router.get("", responses={200: {"model": answers.Listing}})
async def listing(
    service: Served,
    partition: Annotated[int, Query(ge=0, lt=65_536)],
    lane: str = "default",
    state: Listed = Listed.ELIGIBLE,
    limit: Annotated[int, Query(ge=0)] = 50,
    offset: Annotated[int, Query(ge=0, lt=2**53)] = 0,
) -> JSONResponse:
    """Return executions of a lane on one partition, those first that come first."""
    try:
        known = LaneId(lane_id(lane))
    except ValueError as error:
        raise HttpError(400, str(error)) from None
    wanted = min(limit, MOST_LISTED)
    found = await service.run(submissions.read_range(known, partition, state, offset, wanted)) if wanted else []
    found = [one for one in found if is_execution_id(one)]
    records = await service.connection.run_all([submissions.read_fields(one, *LISTED) for one in found])
    told = list[dict[str, Any]]()
    for one, values in zip(found, records, strict=True):
        record: dict[str, Any] = dict(zip(LISTED, values, strict=True))
        told.append({"execution_id": one, **record, "priority": number(record["priority"])})
    return JSONResponse({"executions": told, "total_returned": len(told)})


@router.post("", status_code=201, responses={201: {"model": answers.CREATED}, 200: {"model": answers.DUPLICATE}})
async def create(body: CreateExecution, service: Served) -> JSONResponse:
    """Create an execution."""
    wanted = ExecutionId(body.execution_id)
    if partition_of(wanted) >= service.counts.flow:
        raise HttpError(400, f"{wanted}: there are {service.counts.flow} partitions, from 0 on")
    created = await service.run(
        submissions.create(
            Submission(
                execution_id=wanted,
                lane=LaneId(body.lane_id),
                execution_kind=body.execution_kind,
                payload=bytes(body.input_payload),
                namespace=body.namespace,
                creator=body.creator_identity,
                priority=body.priority,
                policy=body.policy or {},
                tags=body.tags,
                idempotency_key=body.idempotency_key or "",
                delay_until_ms=body.delay_until,
                deadline_ms=body.execution_deadline_at,
            )
        )
    )
    if created.is_duplicate:
        return JSONResponse({"Duplicate": {"execution_id": created.execution_id}})
    return JSONResponse({"Created": {"execution_id": wanted, "public_state": created.public_state}}, 201)


@router.get("/{execution_id}", responses={200: {"model": answers.Execution}, **answers.NOT_FOUND})
async def show(execution_id: str, service: Served) -> JSONResponse:
    """Return an execution."""
    record = await service.record(path_id(execution_id))
    index = record.get("current_attempt_index", "")
    answer: dict[str, Any] = {
        "execution_id": record.get("execution_id", execution_id),
        "namespace": record.get("namespace", ""),
        "lane_id": record.get("lane_id", ""),
        "priority": number(record.get("priority", "")),
        "execution_kind": record.get("execution_kind", ""),
        "state_vector": {name: record.get(name, "") for name in STATE_VECTOR},
        "public_state": record.get("public_state", ""),
        "created_at": record.get("created_at", ""),
        "current_attempt_index": number(index),
        "flow_id": record.get("flow_id") or None,
        "blocking_detail": record.get("blocking_detail", ""),
    }
    answer |= {name: record[name] for name in ("started_at", "completed_at") if record.get(name)}
    return JSONResponse(answer)


@router.get("/{execution_id}/details", responses={200: {"model": answers.Details}, **answers.NOT_FOUND})
async def details(execution_id: str, service: Served) -> JSONResponse:
    """Return all there is to see of an execution: its record, tags and attempts, and the history of its leases."""
    known = path_id(execution_id)
    record = await service.record(known)
    calls: list[Call[Any]] = [submissions.read_tags(known), submissions.read_history(known)]
    tags, history, *attempts = await service.streams.run_all([*calls, *submissions.read_attempts(known, record)])
    answer = {
        "record": harmless(record),
        "tags": tags,
        "attempts": [harmless(attempt) for attempt in attempts],
        "history": [harmless(event) for event in history],
    }
    return JSONResponse(answer)


@router.get("/{execution_id}/state", responses={200: {"model": answers.PublicState}, **answers.NOT_FOUND})
async def state(execution_id: str, service: Served) -> JSONResponse:
    """Return an execution's public state."""
    known = path_id(execution_id)
    found = await service.run(submissions.read_public_state(known))
    if found is None:
        raise HttpError(404, f"execution not found: {known}")
    return JSONResponse(found)


@router.get("/{execution_id}/result", response_class=Response, responses={200: answers.RESULT, **answers.NOT_FOUND})
async def result(execution_id: str, service: Served) -> Response:
    """Return an execution's result, as it was stored."""
    known = path_id(execution_id)
    found = await service.run(submissions.read_result(known))
    if found is None:
        raise HttpError(404, f"execution result not found: {known}")
    return Response(found, media_type="application/octet-stream")


@router.post("/{execution_id}/cancel", responses={200: {"model": answers.CANCELLED}, **answers.NOT_FOUND})
async def cancel(execution_id: str, body: CancelExecution, service: Served) -> JSONResponse:
    """Cancel an execution."""
    known = path_id(execution_id)
    same("execution_id", known, body.execution_id)
    record = await service.record(known)
    epoch = "" if body.lease_epoch is None else str(body.lease_epoch)
    lease = (body.lease_id or "", epoch)
    await service.run(submissions.cancel(known, record, body.reason, body.source, lease))
    return JSONResponse({"Cancelled": {"execution_id": known, "public_state": "cancelled"}})


@router.put("/{execution_id}/priority", responses={200: {"model": answers.CHANGED}, **answers.NOT_FOUND})
async def change_priority(execution_id: str, body: ChangePriority, service: Served) -> JSONResponse:
    """Change the priority of an eligible execution."""
    known = path_id(execution_id)
    lane = LaneId((await service.record(known)).get("lane_id", "default"))
    await service.run(operations.change_priority(known, lane, body.new_priority))
    return JSONResponse({"Changed": {"execution_id": known}})


@router.post("/{execution_id}/replay", responses={200: {"model": answers.REPLAYED}, **answers.NOT_FOUND})
async def replay(execution_id: str, service: Served) -> JSONResponse:
    """Let an ended execution run again."""
    known = path_id(execution_id)
    record = await service.record(known)
    edges: list[str] = []
    if operations.is_skipped_member(record):
        edges = await service.run(operations.read_incoming(known, record["flow_id"]))
    public_state = await service.run(operations.replay(known, record, edges))
    return JSONResponse({"Replayed": {"public_state": public_state}})


@router.post("/{execution_id}/revoke-lease", responses={200: {"model": answers.REVOKED}, **answers.NOT_FOUND})
async def revoke_lease(execution_id: str, service: Served) -> JSONResponse:
    """Take the lease away from an execution's holder."""
    known = path_id(execution_id)
    instance_id = (await service.record(known)).get("current_worker_instance_id", "")
    if not instance_id:
        raise HttpError(404, f"no active lease: {known}")
    try:
        word, lease_id, epoch = await service.run(operations.revoke(known, instance_id))
    except RefusedError as refusal:
        if refusal.code == "no_active_lease":
            raise HttpError(404, f"no active lease: {known}") from None
        raise
    if word == "revoked":
        return JSONResponse({"Revoked": {"lease_id": lease_id, "lease_epoch": epoch}})
    return JSONResponse({"AlreadySatisfied": {"reason": word}})


def harmless(fields: Mapping[str, str]) -> dict[str, str]:
    """Return fields without the ids of leases: who knows them can act as the holder."""
    return {name: value for name, value in fields.items() if not name.endswith("lease_id")}


def number(text: str) -> int:
    """Read a whole number of a record; 0 for what is none."""
    return int(text) if text.lstrip("-").isdecimal() else 0
