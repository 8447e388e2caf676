"""What must hold when all is over, whatever was done meanwhile."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ffsuper.clients import Execution
from ffsuper.messages import ExecutionId
from tests.chaos.handlers_for_chaos import FRAMES
from tests.chaos.history import CRASHING, RAISED, RETURNED, History, Run
from tests.chaos.submitter import Submitted
from tests.chaos.supervisors import CHILDREN, TTL_MS, Exit
from tests.chaos.world import Done

DOCUMENTED_EXITS_BEFORE_READY = (69, 75, 76)
# From when the first child is ready: other children have five each, and the connections differ.
DESCRIPTORS_MORE = 5 * CHILDREN + 10
# Faults that count as the children's own, and how many die at most: it may be a handler that kills its fork server.
KILLS_CHILDREN = {"child killed": 1, "fork server killed": CHILDREN}
# From the store's answer to a submission until that is noted, on a busy machine.
NOTED_WITHIN_S = 1.0
# From a claim to its handler's start, at most: the claim may be what was lost.
CLAIMED_BEFORE_S = 1.0


@dataclass(frozen=True)
class Facts:
    """What a run has left.

    Attributes:
        executions: all that was acknowledged or may have been, as the store has it; None when it has not.
        results: of the completed ones. ``frames``: of the ones that emit any: attempt and payload.
        lost_writes: from when to when the store has lost what it had taken.
        refused: writes under leases that were over, by the store's code. ``taken``: those that it took.
        drained: each supervisor's exit code after SIGTERM; None when it did not end.
        descriptors: of each supervisor: when it was ready, and at the end.
        processes: command lines of what still runs. ``keys``: what still is where nothing should be.
    """

    history: History
    submitted: Mapping[ExecutionId, Submitted]
    executions: Mapping[ExecutionId, Execution | None]
    results: Mapping[ExecutionId, bytes | None] = field(default_factory=dict)
    frames: Mapping[ExecutionId, Sequence[tuple[int, bytes]]] = field(default_factory=dict)
    faults: Sequence[Done] = ()
    lost_writes: Sequence[tuple[float, float]] = ()
    refused: Counter[str] = field(default_factory=Counter)
    taken: Sequence[str] = ()
    exits: Sequence[Exit] = ()
    drained: Mapping[str, int | None] = field(default_factory=dict)
    descriptors: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    processes: Sequence[str] = ()
    keys: Sequence[str] = ()


def judge(facts: Facts) -> list[str]:
    """Return what does not hold; nothing when all is well."""
    return [
        *lost(facts),
        *unended(facts),
        *overlapping(facts),
        *misattributed(facts),
        *begun_anew(facts),
        *torn_streams(facts),
        *overcharged(facts),
        *(f"written under a lease that was over: {one}" for one in facts.taken),
        *ended_badly(facts),
        *(f"left behind, a process: {one}" for one in facts.processes),
        *(f"left behind, a key: {one}" for one in facts.keys),
    ]


def lost_with_store(facts: Facts) -> list[ExecutionId]:
    """Return the executions whose submission the store has lost after taking it."""
    return [
        execution
        for execution, one in facts.submitted.items()
        if facts.executions[execution] is None and in_windows(one.acknowledged_s, facts.lost_writes, NOTED_WITHIN_S)
    ]


def in_windows(at_s: float, windows: Sequence[tuple[float, float]], before_s: float = 0.0) -> bool:
    """Tell whether a time is in one of the windows, or so long before its end."""
    return any(begin_s - before_s <= at_s <= end_s + before_s for begin_s, end_s in windows)


def lost(facts: Facts) -> Iterator[str]:
    """Every submission that was acknowledged is there."""
    excused = set(lost_with_store(facts))
    for execution, one in facts.submitted.items():
        if facts.executions[execution] is None and execution not in excused:
            yield f"lost: {execution} ({one.does})"


def unended(facts: Facts) -> Iterator[str]:
    """Every execution has completed, or was cancelled by who wanted that; retries and reclaims were plenty."""
    for execution, found in facts.executions.items():
        if found is None:
            continue
        one = facts.submitted.get(execution)
        allowed = {"completed"} | ({"cancelled"} if one is None or one.is_cancelled else set())
        if one is not None and one.does == "flow" and facts.lost_writes:
            allowed |= {"waiting_children", "blocked", "waiting"}  # a member whose edges were lost waits visibly
        if found.state not in allowed:
            told = {
                name: found.record.get(name) for name in ("eligibility_state", "blocking_reason", "failure_reason")
            }
            yield f"not ended well: {execution} is {found.state} {told}"


def overlaps_after_lost_writes(facts: Facts) -> list[tuple[str, float]]:
    """Return the overlaps whose earlier claim the store has lost after granting it."""
    return [one for one in facts.history.overlaps() if has_lost_claim(facts, *one)]


def has_lost_claim(facts: Facts, execution: str, at_s: float) -> bool:
    """Tell whether a run that was going on at a time had been claimed by what the store has lost."""
    running = [run for run in facts.history.runs[execution] if run.start_s <= at_s]
    return any(in_windows(run.start_s, facts.lost_writes, CLAIMED_BEFORE_S) for run in running)


def overlapping(facts: Facts) -> Iterator[str]:
    """No two attempts of one execution ran at the same time."""
    excused = overlaps_after_lost_writes(facts)
    for execution, at_s in facts.history.overlaps():
        if (execution, at_s) not in excused:
            runs = [
                f"{run.attempt_type} of {run.pid} {run.start_s:.3f}-{run.last_s:.3f} {run.ending}"
                for run in facts.history.runs[execution]
            ]
            yield f"overlap: {execution} at {at_s:.3f}: {'; '.join(runs)}"


def misattributed(facts: Facts) -> Iterator[str]:
    """A result is of a run that really ended so, in its attempt."""
    for execution, result in facts.results.items():
        if not result:
            yield f"no result: {execution}"
        elif result not in {result_of(run) for run in facts.history.runs[execution] if run.ending == RETURNED}:
            yield f"a result of no run: {execution} {result!r}"


def result_of(run: Run) -> bytes:
    """Return what a run has returned, as it is stored."""
    return json.dumps({"attempt": run.attempt_index, "pid": run.pid}).encode()


def begun_anew(facts: Facts) -> Iterator[str]:
    """Only the first run of an execution takes itself for the first."""
    for execution, runs in facts.history.runs.items():
        for earlier, later in itertools.pairwise(runs):
            if later.attempt_type == "initial" and not in_windows(
                earlier.start_s, facts.lost_writes, CLAIMED_BEFORE_S
            ):
                yield f"begun anew: {execution} at {later.start_s:.3f}, though it had run at {earlier.start_s:.3f}"


def torn_streams(facts: Facts) -> Iterator[str]:
    """A frame is in the stream of the attempt that emitted it; that of the attempt that completed is whole."""
    for execution, frames in facts.frames.items():
        found = facts.executions[execution]
        whole: Counter[int] = Counter()
        for attempt, payload in frames:
            emitted_by, number = map(int, payload.split())
            if emitted_by != attempt:
                yield f"a frame of attempt {emitted_by} in the stream of {attempt}: {execution}"
            whole[attempt] += number == whole[attempt] % FRAMES
        last = int(found.record["current_attempt_index"]) if found is not None else 0
        if (
            found is not None
            and found.state == "completed"
            and whole[last] < FRAMES
            and not may_be_closed(facts, found)
        ):
            yield f"frames are missing: {execution} has {whole[last]} of attempt {last}"


def may_be_closed(facts: Facts, found: Execution) -> bool:
    """Tell whether the store's clock was set while an execution ran.

    What ran out closes the attempt's stream; a clock that is set back puts the lease in force again, and the attempt
    may go on: the protocol's guard looks at the time alone.
    """
    runs = facts.history.runs[found.id]
    begin_s, end_s = runs[0].start_s - TTL_MS / 1000, runs[-1].last_s
    return any(done.kind == "clock step of the store" and begin_s <= done.at_s <= end_s for done in facts.faults)


def overcharged(facts: Facts) -> Iterator[str]:
    """Retries are spent on what handlers and children did, and on nothing else."""
    charged = sum(
        int(found.record.get("retry_count") or 0) for found in facts.executions.values() if found is not None
    )
    raised = sum(run.ending == RAISED for run in facts.history.all_runs())
    crashed = sum(run.ending == CRASHING for run in facts.history.all_runs())
    killed = sum(KILLS_CHILDREN.get(done.kind, 0) for done in facts.faults)
    if charged > raised + crashed + killed:
        yield f"{charged} retries for {raised} failures, {crashed} crashes and {killed} killed children"


def ended_badly(facts: Facts) -> Iterator[str]:
    """No supervisor ended by itself, all ended when told to, and none has more open than in the beginning."""
    for one in facts.exits:
        if not one.was_wanted and (one.was_ready or one.code not in DOCUMENTED_EXITS_BEFORE_READY):
            yield f"{one.supervisor} ended by itself with code {one.code}: {one.log}"
    for name, code in facts.drained.items():
        if code != 0:
            yield f"{name} ended with code {code} when told to"
    for name, (ready, end) in facts.descriptors.items():
        if end > ready + DESCRIPTORS_MORE:
            yield f"{name} had {ready} descriptors open when it was ready, and {end} at the end"


def recoveries(facts: Facts) -> dict[str, list[float]]:
    """Return how long it took until what was cut short ran again, by kind of fault; of the store, until anything ran.

    Seconds: from the fault, for processes; for the store and the network, from when it was mended.
    """
    found: dict[str, list[float]] = {}
    starts_s = sorted(run.start_s for run in facts.history.all_runs())
    again = [pair for runs in facts.history.runs.values() for pair in itertools.pairwise(runs)]
    for done in facts.faults:
        times = found.setdefault(done.kind, [])
        if done.on == "store":
            times += [next((at_s - done.mended_s for at_s in starts_s if at_s >= done.mended_s), 0.0)]
        elif done.pids:
            times += [later.start_s - done.at_s for earlier, later in again if was_cut_short_by(earlier, done)]
    return found


def was_cut_short_by(run: Run, done: Done) -> bool:
    """Tell whether a run ended with a fault that its process was hit by."""
    longest_s = done.mended_s - done.at_s + TTL_MS / 1000
    return run.pid in done.pids and not run.ending and run.start_s <= done.at_s <= run.last_s + longest_s


def attempts_by_cause(facts: Facts) -> Counter[tuple[str, str]]:
    """Count the runs by why they began, and how the one before of the same execution had ended."""
    counted: Counter[tuple[str, str]] = Counter()
    for runs in facts.history.runs.values():
        counted["initial", ""] += 1
        for earlier, later in itertools.pairwise(runs):
            counted[later.attempt_type, earlier.ending or "cut short"] += 1
    return counted
