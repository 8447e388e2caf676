"""The store that needs no server: ``store.url = "embedded"``.

The first process that opens a data folder starts a private server and owns it until it ends; processes that come
later use the same server. Without a real server on PATH the data is in memory and ends with the owner.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ffsuper.config import StoreConfig
from ffsuper.errors import StoreUnavailableError

LOG = logging.getLogger(__name__)

EMBEDDED = "embedded"
STOP_S = 15.0


@contextlib.contextmanager
def reachable(settings: StoreConfig, *, owner: bool = True) -> Iterator[StoreConfig]:
    """Provide settings whose URL leads to a running server, for as long as the block lasts.

    Args:
        owner: whether a private server may be started; otherwise it must be running.

    Raises:
        StoreUnavailableError: the embedded server is not running, or cannot be started.
    """
    if settings.url != EMBEDDED:
        yield settings
        return
    folder = settings.data_dir
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield replace(settings, url=running_url(folder))
            return
        if not owner and not (folder / "appendonlydir").exists():
            raise StoreUnavailableError(f"no worker is running on the embedded store in {folder}: start one first")
        with private_server(folder) as url:
            yield replace(settings, url=url)


def running_url(folder: Path) -> str:
    """Return where the owner's server listens.

    Raises:
        StoreUnavailableError: it is not ready yet.
    """
    try:
        return (folder / "url").read_text().strip()
    except FileNotFoundError:
        raise StoreUnavailableError(f"the embedded store in {folder} is just starting: try again") from None


@contextlib.contextmanager
def private_server(folder: Path) -> Iterator[str]:
    """Run the server process while the block lasts; yield its URL."""
    server = subprocess.Popen(
        [sys.executable, "-m", "ffsuper.store.embedded_server", str(folder)],
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
        (folder / "url").write_text(url)
        try:
            yield url
        finally:
            (folder / "url").unlink(missing_ok=True)
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
