"""Routes of flows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated

import trio
from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from ffsuper.errors import ExecutionNotFoundError, LeaseLostError, RefusedError, StoreError
from ffsuper.messages import FINAL_STATES, ExecutionId, LaneId
from ffsuper.server import answers
from ffsuper.server.bodies import AddMember, ApplyEdge, CancelFlow, CreateFlow, StageEdge
from ffsuper.server.service import HttpError, Service, same, service_of
from ffsuper.store import flows, submissions
from ffsuper.store.flows import Dependency
from ffsuper.store.keys import ExecutionKeys, FlowKeys, flow_keys
from ffsuper.store.outage import STORE_AWAY

LOG = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/flows", tags=["flows"])
Served = Annotated[Service, Depends(service_of)]

CANCEL_ALL = "cancel_all"
MEMBERS_AT_ONCE = 16
# Members that an answer names when the flow had ended before.
MOST_NAMED = 1_000
# Pauses before the further tries when the store is away.
PAUSES_S = (0.1, 0.5)


def keys_of(flow_id: str, service: Service) -> FlowKeys:
    """Return the keys of the flow that a path names.

    Raises:
        HttpError: that is no flow's id.
    """
    try:
        return flow_keys(flow_id, service.counts.flow)
    except ValueError:
        raise HttpError(400, f"{flow_id!r} is not a flow id: it must be a UUID") from None


def require_here(keys: FlowKeys, *named: str) -> None:
    """Refuse executions that are not on the flow's partition.

    Raises:
        HttpError: one is not.
    """
    for one in named:
        if ExecutionKeys.of(ExecutionId(one)).tag != keys.tag:
            told = f"partition mismatch: {one} is not on {keys.tag}, where the members of flow {keys.id} must be"
            raise HttpError(400, told, retryable=False)


@router.post(
    "", status_code=201, responses={201: {"model": answers.FLOW_CREATED}, 200: {"model": answers.FLOW_KNOWN}}
)
async def create(body: CreateFlow, service: Served) -> JSONResponse:
    """Create a flow."""
    is_new = await service.run(flows.create_flow(keys_of(body.flow_id, service), body.flow_kind, body.namespace))
    return JSONResponse(
        {"Created" if is_new else "AlreadySatisfied": {"flow_id": body.flow_id}}, 201 if is_new else 200
    )


@router.post(
    "/{flow_id}/members",
    status_code=201,
    responses={201: {"model": answers.MEMBER_ADDED}, 200: {"model": answers.MEMBER_KNOWN}, **answers.NOT_FOUND},
)
async def add_member(flow_id: str, body: AddMember, service: Served) -> JSONResponse:
    """Make an execution a member."""
    same("flow_id", flow_id, body.flow_id)
    keys = keys_of(flow_id, service)
    require_here(keys, body.execution_id)
    is_new, count = await service.run(flows.add_existing(keys, ExecutionId(body.execution_id)))
    if is_new:
        return JSONResponse({"Added": {"execution_id": body.execution_id, "new_node_count": count}}, 201)
    return JSONResponse({"AlreadyMember": {"execution_id": body.execution_id, "node_count": count}})


@router.post("/{flow_id}/edges", status_code=201, responses={201: {"model": answers.EDGE_STAGED}})
async def stage_edge(flow_id: str, body: StageEdge, service: Served) -> JSONResponse:
    """Add an edge between two members, of which the child does not know yet."""
    same("flow_id", flow_id, body.flow_id)
    keys = keys_of(flow_id, service)
    require_here(keys, body.upstream_execution_id, body.downstream_execution_id)
    revision = await service.run(flows.stage_edge(keys, dependency(body, body.expected_graph_revision)))
    return JSONResponse({"Staged": {"edge_id": body.edge_id, "new_graph_revision": revision}}, 201)


@router.post("/{flow_id}/edges/apply", responses={200: {"model": answers.EDGE_APPLIED}, **answers.NOT_FOUND})
async def apply_edge(flow_id: str, body: ApplyEdge, service: Served) -> JSONResponse:
    """Let the child wait for an edge."""
    same("flow_id", flow_id, body.flow_id)
    keys = keys_of(flow_id, service)
    require_here(keys, body.upstream_execution_id, body.downstream_execution_id)
    edge = dependency(body, body.graph_revision)
    lane = LaneId((await service.record(edge.downstream)).get("lane_id", "default"))
    unsatisfied = await service.run(flows.apply_edge(keys, edge, lane))
    return JSONResponse("AlreadyApplied" if unsatisfied is None else {"Applied": {"unsatisfied_count": unsatisfied}})


def dependency(body: StageEdge | ApplyEdge, revision: int) -> Dependency:
    """Return the edge that a body describes."""
    return Dependency(
        id=body.edge_id,
        upstream=ExecutionId(body.upstream_execution_id),
        downstream=ExecutionId(body.downstream_execution_id),
        kind=body.dependency_kind,
        passes=body.data_passing_ref or "",
        revision=revision,
    )


@router.post("/{flow_id}/cancel", responses={200: {"model": answers.FLOW_CANCELLED}})
async def cancel(flow_id: str, body: CancelFlow, service: Served, wait: str = "") -> JSONResponse:
    """Cancel a flow, and its members if the policy is ``cancel_all``; a repeat goes on with those that were left."""
    same("flow_id", flow_id, body.flow_id)
    keys, policy, was_over = keys_of(flow_id, service), body.cancellation_policy, False
    try:
        members = await service.run(flows.cancel_flow(keys, body.reason, policy))
    except RefusedError as refusal:
        if refusal.code != "flow_already_terminal":
            raise
        was_over = True
        members = await service.run(flows.read_members(keys))
        policy = (await service.run(flows.read_flow(keys))).get("cancellation_policy") or policy
    members.sort()
    to_cancel = members if policy == CANCEL_ALL else []
    if wait in ("true", "1"):
        await cancel_members(service, to_cancel, body.reason)
    elif to_cancel:
        service.background.start_soon(cancel_members, service, to_cancel, body.reason)
    told = {"cancellation_policy": policy, "member_execution_ids": members[:MOST_NAMED] if was_over else members}
    if to_cancel and not was_over and wait not in ("true", "1"):
        return JSONResponse({"CancellationScheduled": {**told, "member_count": len(members)}})
    return JSONResponse({"Cancelled": told})


async def cancel_members(service: Service, members: Sequence[ExecutionId], reason: str) -> None:
    """Cancel those that have not ended; what runs comes last, for its end makes those that wait for it be skipped."""
    states = dict[ExecutionId, str]()
    for start in range(0, len(members), MOST_NAMED):
        some = members[start : start + MOST_NAMED]
        found = await service.connection.try_all([submissions.read_public_state(one) for one in some])
        states |= {one: state for one, state in zip(some, found, strict=True) if isinstance(state, str)}
    left = [one for one, state in states.items() if state not in FINAL_STATES]
    for running in (False, True):
        some = [one for one in left if (states[one] == "active") is running]
        for start in range(0, len(some), MEMBERS_AT_ONCE):
            async with trio.open_nursery() as nursery:
                for one in some[start : start + MEMBERS_AT_ONCE]:
                    nursery.start_soon(cancel_member, service, one, reason)


async def cancel_member(service: Service, execution_id: ExecutionId, reason: str) -> None:
    """Cancel one member, trying again when the store is away."""
    for pause_s in (*PAUSES_S, None):
        try:
            record = await service.run(submissions.read_core(execution_id))
            is_running = record.get("lifecycle_phase") == "active"
            source = "operator_override" if is_running else "flow_cascade"
            await service.run(submissions.cancel(execution_id, record, reason, source))
        except ExecutionNotFoundError:
            return
        except (*STORE_AWAY, LeaseLostError) as error:
            if isinstance(error, LeaseLostError) and record.get("lifecycle_phase") == "terminal":
                return
            if pause_s is None:
                LOG.warning("member not cancelled", extra={"execution": execution_id, "error": error})
                return
            await trio.sleep(pause_s)
        except StoreError as error:
            LOG.warning("member not cancelled", extra={"execution": execution_id, "error": error})
            return
        else:
            return
