"""What is said in the fork server's name may be a lie: the modules of handlers are imported there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from ffsuper.child.server_process import ForkServerSettings
from ffsuper.errors import ForkServerGoneError
from tests.child.children import serving


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """Provide a process that is nobody's child but ours."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process


def lying(lie: str) -> ForkServerSettings:
    return ForkServerSettings(("tests.child.lying_handlers_for_tests",), environment={"LIE": lie})


@pytest.mark.parametrize(
    "lie",
    [
        "nonsense",
        "[" * 4000,
        "[]",
        "{}",
        '{"died": 1}',
        '{"spawned": 77, "pid": 1}',
        '{"spawned": 1, "pid": -1}',
        '{"a": "b"}',
    ],
)
async def test_nonsense_costs_the_fork_server(lie: str) -> None:
    async with serving(lying(lie)) as server:
        with pytest.raises(ForkServerGoneError, match="spoken nonsense, and was killed"):
            await server.spawn()


async def test_a_process_that_is_no_child_of_the_fork_server_is_not_killed_as_one(
    victim: subprocess.Popen[bytes],
) -> None:
    async with serving(lying(f'{{"spawned": 1, "pid": {victim.pid}}}')) as server:
        with pytest.raises(ForkServerGoneError, match="is not its own, and was killed"):
            await server.spawn()
    victim.communicate(b"\n")
    assert victim.returncode == 0
