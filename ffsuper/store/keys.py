"""Names of every key, as the protocol spells them.

An execution id carries its partition's hash tag (``{fp:7}:<uuid>``), and every key repeats the tag in front of the
id, so all keys of one execution and the indexes of its partition share a cluster slot.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from ffsuper.messages import ExecutionId, LaneId
from ffsuper.sansio.partition import of_bytes, parse

PARTITION_CONFIG = "ff:config:partitions"
WORKERS = "ff:idx:workers"
# Ours: the lanes that workers have ever served, which workers keep their alive key, and which engine leads.
LANES = "ffsuper:lanes"
OWN_WORKERS = "ffsuper:workers"
LEADER = "ffsuper:engine:leader"


def turns(lane: LaneId) -> str:
    """Sorted set of namespaces by when each was last granted something of a lane; ours."""
    return f"ffsuper:turns:{lane}"


def worker_alive(instance_id: str) -> str:
    """Key whose holder is the one live process with this instance id."""
    return f"ff:worker:{instance_id}:alive"


def worker_capabilities(instance_id: str) -> str:
    """Key with the advertised capabilities, comma-separated."""
    return f"ff:worker:{instance_id}:caps"


def worker_status(instance_id: str) -> str:
    """Key with what a worker tells of itself, as JSON; ours."""
    return f"ffsuper:worker:{instance_id}:status"


def worker_order(instance_id: str) -> str:
    """Key with what an operator has last told a worker to do, as JSON; ours."""
    return f"ffsuper:worker:{instance_id}:order"


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """Keys of one execution partition.

    Attributes:
        tag: the hash tag with its braces, ``{fp:7}``.
    """

    tag: str

    @classmethod
    def of_index(cls, index: int) -> PartitionKeys:
        """Return the keys of the partition with this number."""
        return cls(f"{{fp:{index}}}")

    def lane(self, lane: LaneId, index: str) -> str:
        """Index of a lane: ``eligible``, ``delayed``, ``active``, ``terminal``, ``suspended``, ``blocked:…``."""
        return f"ff:idx:{self.tag}:lane:{lane}:{index}"

    def worker_leases(self, instance_id: str) -> str:
        """Executions leased to one worker instance on this partition."""
        return f"ff:idx:{self.tag}:worker:{instance_id}:leases"

    def index(self, name: str) -> str:
        """Partition-wide index: ``lease_expiry``, ``attempt_timeout``, ``all_executions``, …"""
        return f"ff:idx:{self.tag}:{name}"

    def idempotency(self, namespace: str, key: str) -> str:
        """Execution id that was created under an idempotency key."""
        return f"ff:idem:{self.tag}:{namespace}:{key}"

    @property
    def noop(self) -> str:
        """Placeholder where an optional key is absent; never exists."""
        return f"ff:noop:{self.tag}"

    @property
    def waitpoint_hmac(self) -> str:
        """Signing secrets of the waitpoint tokens."""
        return f"ff:sec:{self.tag}:waitpoint_hmac"

    @property
    def rotate_lock(self) -> str:
        """Exists while a FlowFabric server changes these secrets."""
        return f"ff:sec:{self.tag}:rotate_lock"


@dataclass(frozen=True, slots=True)
class FlowKeys:
    """Keys of one flow; its members are on the same partition.

    Attributes:
        tag: the partition's hash tag with its braces.
    """

    tag: str
    id: str

    @property
    def partition(self) -> PartitionKeys:
        """Keys of the partition that holds this flow."""
        return PartitionKeys(self.tag)

    @property
    def core(self) -> str:
        """Hash with the record."""
        return f"ff:flow:{self.tag}:{self.id}:core"

    @property
    def members(self) -> str:
        """Set of execution ids."""
        return f"ff:flow:{self.tag}:{self.id}:members"

    def incoming(self, execution_id: ExecutionId) -> str:
        """Set of the edges into a member."""
        return f"ff:flow:{self.tag}:{self.id}:in:{execution_id}"

    def outgoing(self, execution_id: ExecutionId) -> str:
        """Set of the edges out of a member."""
        return f"ff:flow:{self.tag}:{self.id}:out:{execution_id}"

    def edge(self, edge_id: str) -> str:
        """Hash of an edge."""
        return f"ff:flow:{self.tag}:{self.id}:edge:{edge_id}"

    def grant(self, edge_id: str) -> str:
        """Named by the protocol, and never written."""
        return f"ff:flow:{self.tag}:{self.id}:grant:{edge_id}"

    @property
    def summary(self) -> str:
        """Hash with the numbers of members by state."""
        return f"ff:flow:{self.tag}:{self.id}:summary"


def flow_keys(flow_id: str, partitions: int) -> FlowKeys:
    """Return the keys of a flow.

    Raises:
        ValueError: that is no flow's id.
    """
    return FlowKeys(f"{{fp:{of_bytes(uuid.UUID(flow_id).bytes, partitions)}}}", flow_id)


@dataclass(frozen=True, slots=True)
class BudgetKeys:
    """Keys of one budget, on its budget partition."""

    partition: int
    id: str

    @property
    def definition(self) -> str:
        """Hash with what the budget is."""
        return f"ff:budget:{{b:{self.partition}}}:{self.id}"

    @property
    def limits(self) -> str:
        """Hash of ``hard:<dimension>`` and ``soft:<dimension>``."""
        return f"{self.definition}:limits"

    @property
    def usage(self) -> str:
        """Hash of usage by dimension."""
        return f"{self.definition}:usage"

    def index(self, name: str) -> str:
        """Index of its partition: ``budget_resets`` or ``budget_policies``."""
        return PartitionKeys(f"{{b:{self.partition}}}").index(name)

    def dedup(self, key: str) -> str:
        """Exists while a report under this key is remembered."""
        return f"ff:usagededup:{{b:{self.partition}}}:{key}"


@dataclass(frozen=True, slots=True)
class QuotaKeys:
    """Keys of one quota policy, on its quota partition."""

    partition: int
    id: str

    @property
    def definition(self) -> str:
        """Hash with what the policy is."""
        return f"ff:quota:{{q:{self.partition}}}:{self.id}"

    @property
    def window(self) -> str:
        """Admissions in the sliding window."""
        return f"{self.definition}:window:requests_per_window"

    @property
    def concurrency(self) -> str:
        """How many are admitted."""
        return f"{self.definition}:concurrency"

    def index(self, name: str) -> str:
        """Index of its partition: ``quota_policies``."""
        return PartitionKeys(f"{{q:{self.partition}}}").index(name)

    @property
    def admitted_set(self) -> str:
        """Executions that are admitted."""
        return f"{self.definition}:admitted_set"

    @property
    def stamps(self) -> str:
        """Hash of when each was admitted last; ours."""
        return f"ffsuper:quota:{{q:{self.partition}}}:{self.id}:stamps"

    def admitted(self, execution_id: ExecutionId) -> str:
        """Exists for a window's length after an execution was admitted."""
        return f"{self.definition}:admitted:{execution_id}"


@dataclass(frozen=True, slots=True)
class ExecutionKeys:
    """Keys of one execution.

    Attributes:
        id: the execution's id, tag included.
        tag: the hash tag with its braces.
    """

    id: ExecutionId
    tag: str

    @classmethod
    def of(cls, execution_id: ExecutionId) -> ExecutionKeys:
        """Return the keys of an execution. The id must be well formed (``sansio.partition.parse``)."""
        return cls(execution_id, execution_id[: execution_id.index("}:") + 1])

    @property
    def partition(self) -> PartitionKeys:
        """Keys of the partition that holds this execution."""
        return PartitionKeys(self.tag)

    def part(self, name: str) -> str:
        """Key of a part: ``core``, ``payload``, ``result``, ``policy``, ``tags``, ``lease:current``, …"""
        return f"ff:exec:{self.tag}:{self.id}:{name}"

    @property
    def core(self) -> str:
        """Hash with the authoritative record."""
        return f"ff:exec:{self.tag}:{self.id}:core"

    def attempt(self, index: int, part: str = "") -> str:
        """Hash of one attempt, or with ``part`` its ``usage`` or ``policy``."""
        return f"ff:attempt:{self.tag}:{self.id}:{index}" + (f":{part}" if part else "")

    def stream(self, index: int) -> str:
        """Stream of an attempt's output frames."""
        return f"ff:stream:{self.tag}:{self.id}:{index}"

    def stream_meta(self, index: int) -> str:
        """Hash that describes an attempt's output stream."""
        return f"ff:stream:{self.tag}:{self.id}:{index}:meta"

    def waitpoint(self, waitpoint_id: str, part: str = "") -> str:
        """Hash of a waitpoint, or with ``part`` its ``signals`` or ``condition``."""
        return f"ff:wp:{self.tag}:{waitpoint_id}" + (f":{part}" if part else "")

    def signal(self, signal_id: str, part: str = "") -> str:
        """Hash of a signal, or with ``part`` its ``payload``."""
        return f"ff:signal:{self.tag}:{signal_id}" + (f":{part}" if part else "")

    def signal_dedup(self, waitpoint_id: str, key: str) -> str:
        """Signal id first accepted under an idempotency key."""
        return f"ff:sigdedup:{self.tag}:{waitpoint_id}:{key}"


def read_id(member: bytes) -> ExecutionId | None:
    """Return a member of an index or of a flow; None for what is no execution id."""
    try:
        return parse(member.decode())
    except ValueError:
        return None


def is_execution_id(text: str) -> bool:
    """Tell whether a text is an execution id, from which keys can be built."""
    try:
        parse(text)
    except ValueError:
        return False
    return True
