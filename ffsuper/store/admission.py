"""What the scheduler reads and writes: candidates of a lane, grants, admission to quotas, blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffsuper.errors import StoreError
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.sansio.turns import Waiting
from ffsuper.store import keys
from ffsuper.store.blocked import Blocked, is_granted, number
from ffsuper.store.keys import ExecutionKeys, QuotaKeys
from ffsuper.store.looks import Index
from ffsuper.store.replies import Call, Part, Status, fcall

# A namespace that had its turn so long ago comes first, like one that never had any.
TURNS_KEPT_MS = 3_600_000
# Names of indexes and the reasons for being in them, as the protocol has them.
REASONS = {"blocked:budget": "waiting_for_budget", "blocked:quota": "waiting_for_quota"}


@dataclass(frozen=True, slots=True)
class Picked:
    """What a partition's lane has for a worker.

    Attributes:
        now_ms: the store's clock.
    """

    now_ms: int
    waiting: Sequence[Waiting]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """Who wants work.

    Attributes:
        capabilities: comma-separated, sorted.
        grant_ttl_ms: for how long it has to claim what it is granted.
    """

    worker_id: str
    instance_id: str
    capabilities: str
    grant_ttl_ms: int


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why an execution may not run now.

    Attributes:
        index: where it waits, ``blocked:budget`` or ``blocked:quota``.
        detail: for people.
    """

    execution_id: ExecutionId
    index: str
    detail: str


class Admission(Blocked):
    """What the scheduler does in the store."""

    async def pick(
        self, places: Sequence[Index], capabilities: str, count: int, depth: int
    ) -> list[Picked | StoreError]:
        """Return what eligible indexes have for a worker; what it cannot run is blocked on the way.

        Args:
            count: how many of each index, priority and namespace.
            depth: how many entries of each index and priority are looked at for that.
        """
        return await self._connection.try_all([pick(index, capabilities, count, depth) for index in places])

    async def last_turns(self, lane: LaneId, namespaces: Sequence[str]) -> dict[str, float]:
        """Return when each namespace was last granted something of a lane, in ms; 0 for never."""

        def parse(reply: Any) -> dict[str, float]:
            return {namespace: float(at_ms or 0) for namespace, at_ms in zip(namespaces, reply, strict=True)}

        return await self._connection.run(Call(("ZMSCORE", keys.turns(lane), *namespaces), parse))

    async def note_turns(self, lane: LaneId, turns: Mapping[str, float]) -> None:
        """Note when namespaces have had their turn, if that can be done now; what is long ago is forgotten."""
        key, pairs = keys.turns(lane), [part for namespace, at_ms in turns.items() for part in (at_ms, namespace)]
        commands: list[tuple[Part, ...]] = [
            ("ZADD", key, *pairs),
            ("ZREMRANGEBYSCORE", key, "-inf", max(turns.values()) - TURNS_KEPT_MS),
            ("PEXPIRE", key, TURNS_KEPT_MS),
        ]
        await self._connection.try_all([Call(command, lambda _: None) for command in commands])

    async def grant(
        self, lane: LaneId, wanted: Sequence[tuple[ExecutionId, Claimant]]
    ) -> list[ExecutionId | StoreError]:
        """Grant executions, each to one worker; a refusal means that somebody else was quicker."""
        return await self._connection.try_all([grant(lane, *one) for one in wanted])

    async def obstacles(self, granted: Mapping[ExecutionId, str]) -> dict[ExecutionId, str]:
        """Ask quotas to admit executions; return those that they do not, with what stands against them.

        They must have been granted before: who is admitted without a grant is taken for one that does not run.

        Args:
            granted: executions with their quotas' ids; what is no id limits nothing, nor does a damaged quota.

        Raises:
            StoreError: the store is away.
        """
        known = {one: at for one, text in granted.items() if (at := self._quota_keys(text)) is not None}
        answers = await self._read([admit(*one) for one in known.items()])
        return {one: answer for one, answer in zip(known, answers, strict=True) if answer}

    async def set_aside(self, lane: LaneId, obstacles: Sequence[Obstacle], now_ms: int) -> None:
        """Set executions aside, but for those that have been granted meanwhile."""
        granted = await self._read([is_granted(one.execution_id) for one in obstacles])
        blocks = [block(lane, one, now_ms) for one, is_late in zip(obstacles, granted, strict=True) if not is_late]
        await self._connection.try_all(blocks)  # a refusal means that one has gone elsewhere

    async def take_back(self, lane: LaneId, obstacles: Sequence[Obstacle], now_ms: int) -> None:
        """Take grants back that were not told to anybody, and set the executions aside."""
        ungrants = [ungrant(one.execution_id) for one in obstacles]
        await self._connection.try_all([*ungrants, *(block(lane, one, now_ms) for one in obstacles)])


def pick(index: Index, capabilities: str, count: int, depth: int) -> Call[Picked]:
    """Ask one partition."""

    def parse(status: Status) -> Picked:
        texts = iter([field.decode(errors="replace") for field in status.fields[1:]])
        found = [
            Waiting(ExecutionId(execution_id), int(number(priority)), number(created_at), namespace, budgets, quota)
            for execution_id, priority, created_at, namespace, budgets, quota in zip(*[texts] * 6, strict=True)
            if keys.is_execution_id(execution_id)
        ]
        return Picked(status.number(0), found)

    return fcall("ffsuper_pick", (index.key, index.beside("blocked:route")), (capabilities, count, depth), parse)


def grant(lane: LaneId, execution_id: ExecutionId, claimant: Claimant) -> Call[ExecutionId]:
    """Grant an execution."""
    at = ExecutionKeys.of(execution_id)
    return fcall(
        "ff_issue_claim_grant",
        (at.core, at.part("claim_grant"), at.partition.lane(lane, "eligible")),
        (
            *(execution_id, claimant.worker_id, claimant.instance_id, lane),
            *("", claimant.grant_ttl_ms, "", "", claimant.capabilities),
        ),
        lambda _: execution_id,
    )


def ungrant(execution_id: ExecutionId) -> Call[None]:
    """Take a grant back."""
    return Call(("DEL", ExecutionKeys.of(execution_id).part("claim_grant")), lambda _: None)


def admit(execution_id: ExecutionId, at: QuotaKeys) -> Call[str]:
    """Ask a quota; tells what stands against it, empty for nothing."""

    def parse(status: Status) -> str:
        word, rate, window_s, cap = (status.text(position) for position in range(4))
        match word:
            case "RATE_EXCEEDED":
                return f"quota {at.id}: rate limit {rate}/{rate} per {window_s}s window"
            case "CONCURRENCY_EXCEEDED":
                return f"quota {at.id}: concurrency cap {cap}"
        return ""

    touched = (at.window, at.concurrency, at.definition, at.admitted(execution_id), at.admitted_set, at.stamps)
    return fcall("ffsuper_admit", touched, (execution_id,), parse)


def block(lane: LaneId, obstacle: Obstacle, now_ms: int) -> Call[None]:
    """Set an execution aside."""
    at = ExecutionKeys.of(obstacle.execution_id)
    touched = (at.core, at.partition.lane(lane, "eligible"), at.partition.lane(lane, obstacle.index))
    args = (obstacle.execution_id, REASONS[obstacle.index], obstacle.detail, now_ms)
    return fcall("ff_block_execution_for_admission", touched, args, lambda _: None)
