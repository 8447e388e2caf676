"""What requests carry. Members that are not named here are ignored, as the protocol has it."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ffsuper.errors import InvalidRequestError
from ffsuper.sansio.partition import parse
from ffsuper.store.submissions import valid_lane

MAX_GRANT_TTL_MS = 60_000


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
    namespace: str
    lane_id: LaneText
    execution_kind: str
    input_payload: list[Byte]
    priority: int = Field(ge=-(2**31), lt=2**31)
    creator_identity: str
    idempotency_key: str | None = None
    tags: dict[str, str] = {}
    policy: dict[str, Any] | None = None
    delay_until: int | None = None
    execution_deadline_at: int | None = None
    partition_id: int
    now: int


class CancelExecution(Body):
    """An execution to be cancelled."""

    execution_id: ExecutionIdText
    reason: str
    source: str = "operator_override"
    lease_id: UuidText | None = None
    lease_epoch: int | None = None
    attempt_id: UuidText | None = None
    now: int


class ChangePriority(Body):
    """Another priority."""

    new_priority: int = Field(ge=-(2**31), lt=2**31)


class Claim(Body):
    """A worker that wants work. What is wrong with its members is told with 400, not with 422."""

    lane_id: str
    worker_instance_id: str
    capabilities: list[str] = []
    grant_ttl_ms: int


class CreateBudget(Body):
    """A budget; its limits are parallel lists."""

    budget_id: UuidText
    scope_type: str
    scope_id: str
    enforcement_mode: str
    on_hard_limit: str
    on_soft_limit: str
    reset_interval_ms: Count
    dimensions: list[str]
    hard_limits: list[Count]
    soft_limits: list[Count]
    now: int


class ReportUsage(Body):
    """An amount for each dimension."""

    dimensions: dict[str, Count]
    now: int
    dedup_key: str | None = None


class CreateQuota(Body):
    """A quota policy; 0 for no limit."""

    quota_policy_id: UuidText
    window_seconds: Annotated[int, Field(ge=0, le=YEARS_S)]
    max_requests_per_window: Count
    max_concurrent: Count
    now: int
