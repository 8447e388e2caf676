"""The store that needs no server: ``store.url = "embedded"``.

The first process that opens a data folder starts a private server and owns it until it ends; processes that come
later use the same server. Without a real server on PATH the data is in memory and ends with the owner.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import psutil

from ffsuper.config import StoreConfig
from ffsuper.errors import StoreUnavailableError, StoreUnsuitableError
from ffsuper.sansio.partition import PartitionCounts

LOG = logging.getLogger(__name__)

EMBEDDED = "embedded"
# Partitions spread work over a cluster; here there is one server, and every look at all of them costs.
COUNTS = PartitionCounts(flow=8, budget=4, quota=4)
# Variables that the server has no use for; some name secrets.
OURS = ("FFSUPER_", "CREDENTIALS_DIRECTORY")
ROOT = 0
START_S = 20.0
STOP_S = 15.0


def new_counts(settings: StoreConfig) -> PartitionCounts | None:
    """Return the partition configuration of a new embedded store; None for any other store."""
    return COUNTS if settings.url == EMBEDDED else None


@contextlib.contextmanager
def reachable(settings: StoreConfig, *, owner: bool = True) -> Iterator[StoreConfig]:
    """Provide settings whose URL leads to a running server, for as long as the block lasts.

    Args:
        owner: whether a private server may be started; otherwise it must be running.

    Raises:
        StoreUnavailableError: the embedded server is not running, or cannot be started.
        StoreUnsuitableError: its folder is open to others.
    """
    if settings.url != EMBEDDED:
        yield settings
        return
    folder = settings.data_dir
    make_private_folder(folder)
    with (folder / "lock").open("a") as lock:
        url = wait_for_lock_or_owner(lock, folder)
        if url is not None:
            yield replace(settings, url=url)
            return
        if not owner and not (folder / "appendonlydir").exists():
            raise StoreUnavailableError(f"no worker is running on the embedded store in {folder}: start one first")
        with private_server(folder, lock) as own_url:
            yield replace(settings, url=own_url)


def make_private_folder(folder: Path) -> None:
    """Make the data folder, for our user alone; one that is there stays as it is, for it may hold more than ours.

    Raises:
        StoreUnsuitableError: somebody else could be the store there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    found, own = folder.stat(), os.geteuid()
    if found.st_mode & stat.S_IWOTH:
        raise StoreUnsuitableError(f"everybody may write to {folder}, and so be the store: chmod o-w {folder}")
    if own not in (found.st_uid, ROOT) and found.st_uid != ROOT:
        raise StoreUnsuitableError(f"{folder} is another user's, who could be the store: set [store] data_dir")


def wait_for_lock_or_owner(lock: IO[str], folder: Path) -> str | None:
    """Take the lock, which is held until the last process of an owner and its server is gone; or find its owner.

    Returns:
        None when the lock is ours; else where the owner's server listens.

    Raises:
        StoreUnavailableError: the owner is neither ready nor gone in time.
    """
    give_up_s = time.monotonic() + START_S
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid, _, url = (folder / "owner").read_text().partition(" ")
            if psutil.pid_exists(int(pid)):
                return url
        if time.monotonic() > give_up_s:
            raise StoreUnavailableError(f"the embedded store in {folder} is held by a process that is not ready")
        time.sleep(0.02)


@contextlib.contextmanager
def private_server(folder: Path, lock: IO[str]) -> Iterator[str]:
    """Run the server process while the block lasts; yield its URL. The server holds the lock too."""
    server = subprocess.Popen(
        [sys.executable, "-m", "ffsuper.store.embedded_server", str(folder), str(lock.fileno())],
        pass_fds=[lock.fileno()],
        env={name: value for name, value in os.environ.items() if not name.startswith(OURS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C at the terminal is for the worker, which stops this one last
    )
    assert server.stdin is not None
    assert server.stdout is not None
    with server.stdin, server.stdout:
        kind, _, url = server.stdout.readline().strip().partition(" ")
        if kind not in ("real", "fake"):
            server.wait(STOP_S)
            raise StoreUnavailableError(why_not_started(kind, url))
        if kind == "fake":
            LOG.warning(
                "EMBEDDED STORE IN MEMORY: there is no redis-server or valkey-server 7 or later on PATH. Everything "
                "is lost when this process ends, and it is slow: install one for anything but a first try"
            )
        (folder / "owner").write_text(f"{os.getpid()} {url}")
        try:
            yield url
        finally:
            (folder / "owner").unlink(missing_ok=True)
            server.stdin.close()
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def why_not_started(kind: str, detail: str) -> str:
    """Say why there is no private server, and what to do."""
    if kind == "missing":
        return (
            "the embedded store needs redis-server or valkey-server 7 or later on PATH, or the Python one: "
            "pip install 'ffsuper[embedded]'"
        )
    if kind == "failed":
        return f"the embedded store's server did not start: see {detail}"
    return "the embedded store's server did not start"
