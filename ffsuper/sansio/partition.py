"""Execution ids, the partition that holds them, and where a worker's scan begins."""

from __future__ import annotations

import binascii
import re
import uuid
from dataclasses import dataclass

from ffsuper.messages import ExecutionId, LaneId

PREFIX = "{fp:"
LAST = 65535
# As functions build it into keys: another spelling of the number would name an execution that they pass by.
NUMBER = re.compile("0|[1-9][0-9]{0,4}")
# What ``uuid`` takes beside these, as white space and digits of other scripts, is none of the protocol's.
UUID_SIGNS = re.compile("(urn:uuid:)?[{]?[0-9A-Fa-f-]+[}]?")
FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3
UINT64 = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True)
class PartitionCounts:
    """How many partitions each family has; fixed for the life of a store."""

    flow: int = 256
    budget: int = 32
    quota: int = 32


def of_bytes(data: bytes, count: int) -> int:
    """Return the partition of ``data`` among ``count``.

    Source: CRC16/XMODEM, as Redis Cluster hashes keys, but not reduced to 16384 first.
    """
    return binascii.crc_hqx(data, 0) % count


def mint(lane: LaneId, count: int, random_id: uuid.UUID) -> ExecutionId:
    """Return a new id for an execution that belongs to no flow: its lane decides the partition."""
    return ExecutionId(f"{PREFIX}{of_bytes(lane.encode(), count)}}}:{random_id}")


def parse(text: str) -> ExecutionId:
    """Return ``text`` as an execution id, unchanged.

    Raises:
        ValueError: it is none; the message says which part is wrong.
    """
    if not text.startswith(PREFIX) or "}:" not in text:
        raise ValueError(f"{text!r} is not an execution id: it must look like {{fp:7}}:<uuid>")
    number, _, rest = text[len(PREFIX) :].partition("}:")
    if not NUMBER.fullmatch(number) or int(number) > LAST:
        raise ValueError(f"{text!r} is not an execution id: partition {number!r} is not a number from 0 to {LAST}")
    try:
        if not UUID_SIGNS.fullmatch(rest):
            raise ValueError
        uuid.UUID(rest)
    except ValueError:
        raise ValueError(f"{text!r} is not an execution id: {rest!r} is not a UUID") from None
    return ExecutionId(text)


def partition_of(execution_id: ExecutionId) -> int:
    """Return the number of the partition that holds an execution. The id must be well formed (``parse``)."""
    return int(execution_id.removeprefix(PREFIX).partition("}")[0])


def fnv1a64(data: bytes) -> int:
    """Return the 64-bit FNV-1a digest."""
    digest = FNV_OFFSET
    for byte in data:
        digest = ((digest ^ byte) * FNV_PRIME) & UINT64
    return digest


def scan_seed(instance_id: str, count: int) -> int:
    """Return the partition at which this instance begins to scan, so that instances spread out."""
    return fnv1a64(instance_id.encode()) % count
