"""What a store needs before it is used: ffsuper_install_partitions."""

from __future__ import annotations

from typing import Any

from tests.lua.world import World

CONFIG = "ff:config:partitions"


def install(world: World, *counts: int) -> Any:
    return world.call("ffsuper_install_partitions", [CONFIG], list(counts))


def test_the_first_numbers_stay(world: World) -> None:
    assert install(world, 256, 32, 16) == [1, "OK", "installed"]
    assert install(world, 8, 8, 8) == [1, "OK", "kept"]
    written = {"num_flow_partitions": "256", "num_budget_partitions": "32", "num_quota_partitions": "16"}
    assert world.value(CONFIG) == written


def test_numbers_that_are_missing_are_refused_before_anything_is_written(world: World) -> None:
    for counts in ((), (1,), (1, 2)):
        assert install(world, *counts)[:2] == [0, "invalid_input"]
    assert not world.redis.exists(CONFIG)
