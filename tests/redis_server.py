"""A private redis-server on a unix socket, for the tests that need a real one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis


def server_program() -> str:
    """Return the path of the server to test with; ``FFSUPER_TEST_SERVER`` names another one."""
    program = os.environ.get("FFSUPER_TEST_SERVER") or shutil.which("redis-server") or shutil.which("valkey-server")
    assert program, "no redis-server on PATH: run 'make test', which installs it"
    return program


@contextmanager
def running_server(folder: Path, *options: str) -> Iterator[str]:
    """Run a server without persistence; yield its ``unix://`` URL once it answers."""
    socket = folder / "redis.sock"
    process = subprocess.Popen(
        [
            server_program(),
            *("--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"),
            *("--dir", str(folder), "--daemonize", "no", "--logfile", str(folder / "redis.log")),
            *options,
        ],
    )
    try:
        wait_until_it_answers(socket, process)
        yield f"unix://{socket}"
    finally:
        process.kill()
        process.wait()


def wait_until_it_answers(socket: Path, process: subprocess.Popen[bytes]) -> None:
    """Connect until the server answers a PING; fail when it exits instead."""
    while True:
        assert process.poll() is None, f"redis-server exited with {process.returncode}"
        with redis.Redis(unix_socket_path=str(socket)) as client:
            try:
                client.ping()
            except redis.AuthenticationError:
                return
            except redis.ConnectionError:
                process_waits(0.005, process)
            else:
                return


def process_waits(seconds: float, process: subprocess.Popen[bytes]) -> None:
    """Give the server a moment, or return early when it ends."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return
