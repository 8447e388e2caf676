"""What requests carry. Members that are not named here are ignored, as the protocol has it."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ffsuper.errors import InvalidRequestError
from ffsuper.sansio.partition import parse
from ffsuper.store.signals import DEDUP_TTL_MS, SIGNALS_PER_EXECUTION, SIGNALS_PER_WAITPOINT
from ffsuper.store.submissions import valid_lane

MAX_GRANT_TTL_MS = 60_000
MAX_WAIT_MS = 30_000
MAX_NAME = 256


def execution_id(text: str) -> str:
    """Check an execution's id."""
    return parse(text)


def lane_id(text: str) -> str:
    """Check a lane's name."""
    try:
        return valid_lane(text)
    except InvalidRequestError as error:
        raise ValueError(error.details[0]) from None


def uuid_text(text: str) -> str:
    """Check the id of a lease, a flow, a waitpoint, ...; the text stays as it is."""
    uuid.UUID(text)
    return text


def storable(text: str) -> str:
    """Check that a text can be stored: JSON can name halves of characters."""
    text.encode()
    return text


Text = Annotated[str, AfterValidator(storable)]
# The store keeps when each had its last turn.
Namespace = Annotated[str, Field(max_length=MAX_NAME), AfterValidator(storable)]
ExecutionIdText = Annotated[str, AfterValidator(execution_id)]
LaneText = Annotated[str, AfterValidator(lane_id)]
UuidText = Annotated[str, AfterValidator(uuid_text)]
Byte = Annotated[int, Field(ge=0, le=255)]
# What the store counts with, and a double holds exactly.
Count = Annotated[int, Field(ge=0, lt=2**53)]
YEARS_S = 100 * 366 * 86_400


class Body(BaseModel):
    """A request's JSON object."""

    model_config = ConfigDict(frozen=True, strict=True)


class CreateExecution(Body):
    """A new execution; its id is the caller's."""

    execution_id: ExecutionIdText
    namespace: Namespace
    lane_id: LaneText
    execution_kind: Text
    input_payload: list[Byte]
    priority: int = Field(ge=-(2**31), lt=2**31)
    creator_identity: Text
    idempotency_key: Text | None = None
    tags: dict[Text, Text] = {}
    policy: dict[str, Any] | None = None
    delay_until: Count | None = None
    execution_deadline_at: Count | None = None
    partition_id: int
    now: int


class CancelExecution(Body):
    """An execution to be cancelled."""

    execution_id: ExecutionIdText
    reason: Text
    source: Text = "operator_override"
    lease_id: UuidText | None = None
    lease_epoch: int | None = None
    attempt_id: UuidText | None = None
    now: int


class DeliverSignal(Body):
    """A signal for a waitpoint."""

    execution_id: ExecutionIdText
    waitpoint_id: UuidText
    signal_id: UuidText
    signal_name: Text
    signal_category: Text
    source_type: Text
    source_identity: Text
    payload: list[Byte] | None = None
    payload_encoding: Text | None = None
    correlation_id: Text | None = None
    idempotency_key: Text | None = None
    target_scope: Text
    created_at: Count | None = None
    dedup_ttl_ms: Annotated[int, Field(gt=0, le=YEARS_S * 1000)] = DEDUP_TTL_MS
    max_signals_per_execution: Count = SIGNALS_PER_EXECUTION
    signal_maxlen: Count = SIGNALS_PER_WAITPOINT
    waitpoint_token: Text
    now: Count


class ChangePriority(Body):
    """Another priority."""

    new_priority: int = Field(ge=-(2**31), lt=2**31)


class Claim(Body):
    """A worker that wants work. What is wrong with its members is told with 400, not with 422."""

    lane_id: Text
    worker_instance_id: Text
    capabilities: list[Text] = []
    grant_ttl_ms: int
    wait_ms: int = 0


class CreateBudget(Body):
    """A budget; its limits are parallel lists."""

    budget_id: UuidText
    scope_type: Text
    scope_id: Text
    enforcement_mode: Text
    on_hard_limit: Text
    on_soft_limit: Text
    reset_interval_ms: Count
    dimensions: list[Text]
    hard_limits: list[Count]
    soft_limits: list[Count]
    now: int


class ReportUsage(Body):
    """An amount for each dimension."""

    dimensions: dict[Text, Count]
    now: int
    dedup_key: Text | None = None


class CreateQuota(Body):
    """A quota policy; 0 for no limit."""

    quota_policy_id: UuidText
    window_seconds: Annotated[int, Field(ge=0, le=YEARS_S)]
    max_requests_per_window: Count
    max_concurrent: Count
    now: int


class CreateFlow(Body):
    """A flow without members."""

    flow_id: UuidText
    flow_kind: Text
    namespace: Namespace
    now: Count


class AddMember(Body):
    """An execution that shall be a member of a flow."""

    flow_id: UuidText
    execution_id: ExecutionIdText
    now: Count


class CancelFlow(Body):
    """A flow to be cancelled."""

    flow_id: UuidText
    reason: Text
    cancellation_policy: Text
    now: Count


class StageEdge(Body):
    """An edge between two members."""

    flow_id: UuidText
    edge_id: UuidText
    upstream_execution_id: ExecutionIdText
    downstream_execution_id: ExecutionIdText
    dependency_kind: Text = "success_only"
    data_passing_ref: Text | None = None
    expected_graph_revision: Count
    now: Count


class ApplyEdge(Body):
    """An edge that its child shall wait for."""

    flow_id: UuidText
    edge_id: UuidText
    upstream_execution_id: ExecutionIdText
    downstream_execution_id: ExecutionIdText
    graph_revision: Count
    dependency_kind: Text
    data_passing_ref: Text | None = None
    now: Count


class RotateSecret(Body):
    """Another secret for waitpoint tokens. What is wrong with it is told with 400, not with 422."""

    new_kid: Text
    new_secret_hex: Text = Field(repr=False)
