from __future__ import annotations

import re
import uuid

import pytest

from ffsuper.messages import LaneId
from ffsuper.sansio import partition


def test_crc16_has_the_check_value_of_xmodem() -> None:
    assert partition.of_bytes(b"123456789", 65536) == 0x31C3


@pytest.mark.parametrize(
    ("flow", "of_256", "of_32", "of_7"),
    [
        ("00000000-0000-0000-0000-000000000001", 33, 1, 6),
        ("ffffffff-ffff-ffff-ffff-ffffffffffff", 65, 1, 2),
        ("550e8400-e29b-41d4-a716-446655440000", 24, 24, 5),
        ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", 77, 13, 6),
    ],
)
def test_uuids_hash_by_their_raw_bytes(flow: str, of_256: int, of_32: int, of_7: int) -> None:
    raw = uuid.UUID(flow).bytes
    assert [partition.of_bytes(raw, count) for count in (256, 32, 7)] == [of_256, of_32, of_7]


@pytest.mark.parametrize(("lane", "number"), [("default", 86), ("workers-a", 193), ("gpu", 144), ("lane-42", 253)])
def test_a_solo_execution_lies_on_its_lanes_partition(lane: str, number: int) -> None:
    random_id = uuid.uuid4()
    assert partition.mint(LaneId(lane), 256, random_id) == f"{{fp:{number}}}:{random_id}"


@pytest.mark.parametrize("prefix", ["{fp:0}", "{fp:42}", "{fp:65535}"])
def test_well_formed_ids_are_kept_as_they_are(prefix: str) -> None:
    text = f"{prefix}:550e8400-e29b-41d4-a716-446655440000"
    assert partition.parse(text) == text
    assert partition.partition_of(partition.parse(text)) == int(prefix[4:-1])


@pytest.mark.parametrize(
    "form",
    [
        "550E8400-E29B-41D4-A716-446655440000",
        "550e8400e29b41d4a716446655440000",
        "urn:uuid:550e8400-e29b-41d4-a716-446655440000",
        "{550e8400-e29b-41d4-a716-446655440000}",
    ],
)
def test_every_form_of_a_uuid_that_the_protocol_knows_is_kept_too(form: str) -> None:
    assert partition.parse(f"{{fp:7}}:{form}") == f"{{fp:7}}:{form}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("550e8400-e29b-41d4-a716-446655440000", "must look like"),
        ("{p:1}:550e8400-e29b-41d4-a716-446655440000", "must look like"),
        ("{fp:1}550e8400-e29b-41d4-a716-446655440000", "must look like"),
        ("{fp:65536}:550e8400-e29b-41d4-a716-446655440000", "partition '65536'"),
        ("{fp:007}:550e8400-e29b-41d4-a716-446655440000", "partition '007'"),
        ("{fp:+7}:550e8400-e29b-41d4-a716-446655440000", "partition '+7'"),
        ("{fp:00}:550e8400-e29b-41d4-a716-446655440000", "partition '00'"),
        ("{fp:\u0667}:550e8400-e29b-41d4-a716-446655440000", "partition '\u0667'"),
        ("{fp:-1}:550e8400-e29b-41d4-a716-446655440000", "partition '-1'"),
        ("{fp:}:550e8400-e29b-41d4-a716-446655440000", "partition ''"),
        ("{fp: 1}:550e8400-e29b-41d4-a716-446655440000", "partition ' 1'"),
        ("{fp:²}:550e8400-e29b-41d4-a716-446655440000", "partition '²'"),
        ("{fp:0}:not-a-uuid", "'not-a-uuid' is not a UUID"),
        ("{fp:1}:", "'' is not a UUID"),
        ("{fp:1}:550e8400", "'550e8400' is not a UUID"),
        ("{fp:1}:\n50e8400-e29b-41d4-a716-446655440000", "is not a UUID"),
        ("{fp:1}:+50e8400-e29b-41d4-a716-446655440000", "is not a UUID"),
        ("{fp:1}:" + "\u0661" * 32, "is not a UUID"),
    ],
)
def test_malformed_ids_are_refused_with_the_part_that_is_wrong(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        partition.parse(text)


@pytest.mark.parametrize(
    ("instance", "of_256", "of_100"),
    [("w1", 5, 1), ("w2", 236, 68), ("w1-i1", 86, 30), ("my-worker-instance-1", 234, 78)],
)
def test_instances_begin_to_scan_at_different_places(instance: str, of_256: int, of_100: int) -> None:
    assert (partition.scan_seed(instance, 256), partition.scan_seed(instance, 100)) == (of_256, of_100)
