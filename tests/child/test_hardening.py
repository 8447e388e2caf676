"""What the kernel is asked for, where there is no need of a worker."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import replace

import pytest

from ffsuper.child import accounts, hardening
from ffsuper.child.accounts import account_of, missing_capabilities
from ffsuper.errors import ConfigError
from ffsuper.messages import Completed
from tests.child.children import SETTINGS, ask, serving

NEVER_ENDS = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("effective", "missing"),
    [
        ("000001ffffffffff", []),
        ("0000000000000000", ["CAP_KILL", "CAP_SETGID", "CAP_SETUID"]),
        ("00000000000000c0", ["CAP_KILL"]),
        ("0000000000000020", ["CAP_SETGID", "CAP_SETUID"]),
    ],
)
def test_the_capabilities_that_a_change_of_user_needs(effective: str, missing: list[str]) -> None:
    status = f"Name:\tffsuper\nCapPrm:\t000001ffffffffff\nCapEff:\t{effective}\nCapBnd:\t000001ffffffffff\n"
    assert missing_capabilities(status) == missing


def test_an_unknown_user_is_told() -> None:
    with pytest.raises(ConfigError, match=r'^\[children\] user: there is no user "no such user" on this machine$'):
        account_of("no such user")


def test_a_worker_without_capabilities_may_have_no_other_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    status = tmp_path_factory.mktemp("proc") / "status"
    status.write_text("CapEff:\t0000000000000080\n")
    monkeypatch.setattr(accounts, "STATUS", status)
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(ConfigError, match="it is not root, and has no CAP_KILL, CAP_SETGID "):
        account_of("nobody")


def test_limits_above_our_own_are_found_in_their_own_units(monkeypatch: pytest.MonkeyPatch) -> None:
    most = {
        resource.RLIMIT_NOFILE: 100,
        resource.RLIMIT_NPROC: NEVER_ENDS,
        resource.RLIMIT_FSIZE: 5 << 20,
        resource.RLIMIT_CORE: 0,
    }
    monkeypatch.setattr(resource, "getrlimit", lambda number: (1, most[number]))
    wanted = {"open_files": 101, "processes": 4_000_000, "file_mb": 6, "core_mb": 1}
    assert list(hardening.too_high(wanted)) == [("open_files", 100), ("file_mb", 5), ("core_mb", 0)]
    assert list(hardening.too_high({"open_files": 100, "processes": 0, "file_mb": 5, "core_mb": 0})) == []


async def test_all_limits_that_cannot_be_set_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _number: (50, 50))
    with pytest.raises(ConfigError) as caught:
        async with serving(replace(SETTINGS, limits={"open_files": 51, "processes": 52})):
            pytest.fail("started")
    assert caught.value.problems == [
        "[children] open_files: 51 is more than the worker itself may have, which is 50",
        "[children] processes: 52 is more than the worker itself may have, which is 50",
    ]


def test_a_kernel_that_cannot_confine_is_no_obstacle() -> None:
    code = (
        "import ctypes, os, sys\n"
        "from ffsuper.child import hardening\n"
        "hardening.SYS_LANDLOCK_CREATE_RULESET = 100_000\n"
        "hardening.confine()\n"
        "os.kill(os.getppid(), 0)\n"
        "print(len(os.listdir('/proc/self/fd')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert int(done.stdout) == 4  # the standard ones, and the listing itself


@pytest.mark.parametrize("preload", [True, False])
async def test_limits_hold_with_and_without_preloading(preload: bool) -> None:
    async with serving(replace(SETTINGS, preload=preload, limits={"open_files": 40, "core_mb": 0})) as server:
        child = await server.spawn()
        assert resource.prlimit(child.pid, resource.RLIMIT_NOFILE) == (40, 40)
        assert resource.prlimit(child.pid, resource.RLIMIT_CORE) == (0, 0)
        assert isinstance(await ask(child, "descriptors"), Completed)
        await child.aclose()
