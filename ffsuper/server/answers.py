"""What requests are answered, for the OpenAPI document only.

Routes make their answers themselves, and nothing checks or converts these on their way out: tests compare the two.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

Responses = dict[int | str, dict[str, Any]]
Going = Literal["waiting", "delayed", "rate_limited", "waiting_children", "active", "suspended"]
Ended = Literal["completed", "failed", "cancelled", "expired", "skipped"]
PublicState = Literal[Going, Ended]

# The value of a member that may be missing, but is never null: a factory leaves no default in the document.
ABSENT: Any = Field(default_factory=object)


class Answer(BaseModel):
    """A JSON object without any other members."""

    model_config = ConfigDict(extra="forbid")


def tagged(tag: str, what: str, **members: Any) -> Any:
    """Return the object ``{tag: {members}}``, as the protocol has it.

    Args:
        what: a name for what is inside.
        members: their types.
    """
    fields: dict[str, Any] = {name: (kind, ...) for name, kind in members.items()}
    member: dict[str, Any] = {tag: (create_model(what, __base__=Answer, __doc__="", **fields), ...)}
    return create_model(tag + what, __base__=Answer, __doc__="", **member)


# --- executions -------------------------------------------------------------------------------------------------


class ListedExecution(Answer):
    """An execution in a list; the members of one that has gone are empty, and its priority is 0."""

    execution_id: str
    namespace: str
    lane_id: str
    execution_kind: str
    public_state: Literal[PublicState, ""]
    priority: int
    created_at: str


class Listing(Answer):
    """Executions in the order of their index."""

    executions: list[ListedExecution]
    total_returned: int


class StateVector(Answer):
    """The dimensions of an execution's state."""

    lifecycle_phase: str
    ownership_state: str
    eligibility_state: str
    blocking_reason: str
    terminal_outcome: str
    attempt_state: str
    public_state: PublicState


class Execution(Answer):
    """An execution; times are Unix times in ms, as text."""

    execution_id: str
    namespace: str
    lane_id: str
    priority: int
    execution_kind: str
    state_vector: StateVector
    public_state: PublicState
    created_at: str
    started_at: str = ABSENT
    completed_at: str = ABSENT
    current_attempt_index: int
    flow_id: str | None
    blocking_detail: str


class Details(Answer):
    """All of an execution as it is stored, without the ids of leases."""

    record: dict[str, str]
    tags: dict[str, str]
    attempts: list[dict[str, str]]
    history: list[dict[str, str]]


CREATED = tagged("Created", "NewExecution", execution_id=str, public_state=Literal["waiting", "delayed"])
DUPLICATE = tagged("Duplicate", "EarlierExecution", execution_id=str)
CANCELLED = tagged("Cancelled", "ExecutionEnd", execution_id=str, public_state=Literal["cancelled"])
CHANGED = tagged("Changed", "ExecutionName", execution_id=str)
REPLAYED = tagged("Replayed", "ExecutionState", public_state=Literal["waiting", "waiting_children"])
REVOKED = tagged("Revoked", "Lease", lease_id=str, lease_epoch=str) | tagged(
    "AlreadySatisfied", "NoLease", reason=Literal["already_revoked", "already_expired"]
)
RESULT = {
    "description": "The result as it was stored.",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


# --- waitpoints, signals, streams, grants -----------------------------------------------------------------------


class OpenWaitpoint(Answer):
    """A waitpoint that takes signals, any if none are named; times are Unix times in ms, 0 for unknown."""

    waitpoint_id: str
    waitpoint_key: str
    state: Literal["pending", "active"]
    waitpoint_token: str
    required_signal_names: list[str]
    created_at: int
    activated_at: int = ABSENT
    expires_at: int = ABSENT


class Frame(Answer):
    """An entry of a stream."""

    id: str
    fields: dict[str, str]


class Stream(Answer):
    """Entries of a stream; of one that is over, the Unix time of its end in ms."""

    frames: list[Frame]
    count: int
    closed_at: int = ABSENT
    closed_reason: str = ABSENT


class Grant(Answer):
    """Leave to claim an execution, until a Unix time in ms."""

    execution_id: str
    partition_family: Literal["execution"]
    partition_index: int
    grant_key: str
    expires_at_ms: int


Effect = Literal["resume_condition_satisfied", "appended_to_waitpoint", "no_op", "buffered_for_pending_waitpoint"]
DELIVERED = tagged("Accepted", "Signal", signal_id=str, effect=Effect) | tagged(
    "Duplicate", "EarlierSignal", existing_signal_id=str
)
NOTHING = {"description": "There is nothing to do."}


# --- flows, budgets, quotas -------------------------------------------------------------------------------------


class Budget(Answer):
    """A budget, with numbers by dimension, 0 for no limit; times are Unix times in ms, as text."""

    budget_id: str
    scope_type: str
    scope_id: str
    enforcement_mode: str
    usage: dict[str, int]
    hard_limits: dict[str, int]
    soft_limits: dict[str, int]
    breach_count: int
    soft_breach_count: int
    last_breach_at: str | None
    last_breach_dim: str | None
    next_reset_at: str | None
    created_at: str | None


FLOW_CREATED = tagged("Created", "NewFlow", flow_id=str)
FLOW_KNOWN = tagged("AlreadySatisfied", "EarlierFlow", flow_id=str)
MEMBER_ADDED = tagged("Added", "NewMember", execution_id=str, new_node_count=int)
MEMBER_KNOWN = tagged("AlreadyMember", "EarlierMember", execution_id=str, node_count=int)
FLOW_CANCELLED = tagged("Cancelled", "FlowEnd", cancellation_policy=str, member_execution_ids=list[str]) | tagged(
    "CancellationScheduled", "FlowPlan", cancellation_policy=str, member_execution_ids=list[str], member_count=int
)
EDGE_STAGED = tagged("Staged", "Edge", edge_id=str, new_graph_revision=int)
EDGE_APPLIED = tagged("Applied", "Child", unsatisfied_count=int) | Literal["AlreadyApplied"]

BUDGET_CREATED = tagged("Created", "NewBudget", budget_id=str)
BUDGET_KNOWN = tagged("AlreadySatisfied", "EarlierBudget", budget_id=str)
BUDGET_RESET = tagged("Reset", "NextReset", next_reset_at=int)
USAGE = (
    Literal["Ok", "AlreadyApplied"]
    | tagged("SoftBreach", "BeyondSoftLimit", dimension=str, current_usage=int, soft_limit=int)
    | tagged("HardBreach", "BeyondHardLimit", dimension=str, current_usage=int, hard_limit=int)
)
QUOTA_CREATED = tagged("Created", "NewQuota", quota_policy_id=str)
QUOTA_KNOWN = tagged("AlreadySatisfied", "EarlierQuota", quota_policy_id=str)


# --- the server -------------------------------------------------------------------------------------------------


class Partitions(Answer):
    """How many partitions there are."""

    num_flow_partitions: int
    num_budget_partitions: int
    num_quota_partitions: int


class Rotation(Answer):
    """On how many partitions the secret is the current one; where that failed, or somebody else was at it."""

    rotated: int
    failed: list[int]
    in_progress: list[int]
    new_kid: str


class Health(Answer):
    """The store answers."""

    status: Literal["ok"]


METRICS = {"description": "Numbers for Prometheus.", "content": {"text/plain": {"schema": {"type": "string"}}}}


# --- errors -----------------------------------------------------------------------------------------------------


class Failure(Answer):
    """What is wrong, in words; of the store's errors the kind; whether the same request may succeed later."""

    error: str
    kind: Literal["io_error", "response_error"] = ABSENT
    retryable: bool = ABSENT


def failed(status: int, description: str) -> Responses:
    """Return the answer with which a request fails."""
    return {status: {"model": Failure, "description": description}}


UNAUTHORIZED = failed(401, "The server has a token, and the request does not bring it.")
TOO_LARGE = failed(413, "The body is too large.")
REFUSED = failed(400, "Not what the route takes, or refused by a function: `<function> failed: <code>`.")
NOT_FOUND = failed(404, "There is no such thing.")
BUSY = failed(429, "As many requests of this kind are being served as may be.")
STORE_FAILED = failed(500, "The store is away, or damaged.")
TOO_LATE = failed(504, "Not done in time; a repeat is harmless.")
ABOUT_BODY = {
    **failed(408, "The body did not arrive in time."),
    **failed(415, "The body does not say that it is JSON."),
    **failed(422, "A member of the body is missing, or not what the route takes."),
}


# --- the document as a whole ------------------------------------------------------------------------------------


def completed(document: dict[str, Any], public: Collection[str], *, has_token: bool) -> dict[str, Any]:
    """Return the document, with the token, and without answers about bodies where none is taken.

    Those cannot be left out from the beginning: FastAPI adds a 422 of its own where there is none.

    Args:
        public: paths that need no token.
    """
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"token": []}] if has_token else [{"token": []}, {}]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path in public:
                operation["security"] = []
            if "requestBody" not in operation:
                for status in ABOUT_BODY:
                    operation["responses"].pop(str(status), None)
    return document
