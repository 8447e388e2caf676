"""Whose turn it is: executions in the order in which workers get them."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ffsuper.messages import ExecutionId

# Waiting for so long is worth one level of priority.
AGEING_MS = 10_000
# A level of priority in the score of an eligible execution. Source: protocol, 01 section 5.
PRIORITY_STEP = 1e12


@dataclass(frozen=True, slots=True)
class Waiting:
    """An execution that a worker might have next.

    Attributes:
        budget_ids: comma-separated, as in the record.
        quota_id: empty for none.
    """

    execution_id: ExecutionId
    priority: int
    created_at_ms: float
    namespace: str
    budget_ids: str
    quota_id: str


def level(waiting: Waiting, now_ms: float) -> int:
    """Return an execution's priority, with what its waiting is worth."""
    return waiting.priority + int(max(0.0, now_ms - waiting.created_at_ms) // AGEING_MS)


def rank(score: float, now_ms: float) -> tuple[float, float]:
    """Return how early the first execution of an index comes, by its score: lower ones before higher ones."""
    if not math.isfinite(score):
        return score, 0.0
    priority = math.floor((now_ms - score) / PRIORITY_STEP)
    created_at_ms = score + priority * PRIORITY_STEP
    return -(priority + (now_ms - created_at_ms) // AGEING_MS), created_at_ms


def in_turn(waiting: Sequence[Waiting], last_turns: Mapping[str, float], now_ms: float) -> Iterator[Waiting]:
    """Yield executions, the highest level first; at one level namespaces in turn, each with its oldest.

    Args:
        last_turns: namespace to when it was last granted something, in ms; missing ones never were.
    """
    by_level = defaultdict[int, dict[str, deque[Waiting]]](dict)
    for one in sorted(waiting, key=lambda one: one.created_at_ms):
        by_level[level(one, now_ms)].setdefault(one.namespace, deque()).append(one)
    turns, turn = dict(last_turns), max([now_ms, *last_turns.values()])
    for _, queues in sorted(by_level.items(), reverse=True):
        heads = [(turns.get(name, 0.0), queue[0].created_at_ms, name) for name, queue in queues.items()]
        heapq.heapify(heads)
        while heads:
            _, _, name = heapq.heappop(heads)
            yield queues[name].popleft()
            turn += 1
            turns[name] = turn
            if queues[name]:
                heapq.heappush(heads, (turn, queues[name][0].created_at_ms, name))
