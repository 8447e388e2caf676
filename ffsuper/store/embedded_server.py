"""The process behind the embedded store: ``python -m ffsuper.store.embedded_server DATA_DIR LOCK_FD``.

Runs a private server for as long as its standard input stays open, so that it ends with whoever started it, however
that happens. Prints ``<kind> <url>`` once the server answers. It and the server keep the data folder's lock open, so
that nobody else starts one on the same data while this one lives. Standard library only, until it has to be the
server itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

OLDEST_MAJOR = 7
PR_SET_PDEATHSIG = 1
# A unix socket's path has 108 bytes.
LONGEST_SOCKET_PATH = 100
START_S = 20.0


def main() -> int:
    """Serve until standard input ends; return the exit code."""
    data_dir, lock_fd = Path(sys.argv[1]), int(sys.argv[2])
    program = server_program()
    return serve_program(program, data_dir, lock_fd) if program else serve_fake()


def server_program() -> str | None:
    """Return the server to run: valkey-server or redis-server of version 7 or later from PATH; None without one."""
    for name in ("valkey-server", "redis-server"):
        program = shutil.which(name)
        if program is None:
            continue
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        major = re.search(r"v=(\d+)", told)
        if major is not None and int(major[1]) >= OLDEST_MAJOR:
            return program
    return None


def serve_program(program: str, data_dir: Path, lock_fd: int) -> int:
    """Run a real server with an append-only file in ``data_dir``, on a unix socket; both are for our user alone."""
    os.umask(0o077)
    with contextlib.suppress(FileNotFoundError):
        (data_dir / "appendonlydir").chmod(0o700)  # an earlier release left it open to others
    path = socket_path(data_dir)
    server = subprocess.Popen(
        [
            program,
            *("--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"),
            *("--dir", str(data_dir), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--daemonize", "no", "--logfile", str(data_dir / "server.log")),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[lock_fd],
        preexec_fn=die_with_parent,  # noqa: PLW1509 -- this process has one thread
    )
    try:
        if not answers(path, server):
            print(f"failed {data_dir / 'server.log'}", flush=True)  # noqa: T201
            return 1
        print(f"real unix://{path}", flush=True)  # noqa: T201
        wait_for_end_of_input(server)
        return 0
    finally:
        server.terminate()
        server.wait()
        if path.parent != data_dir.resolve():
            shutil.rmtree(path.parent, ignore_errors=True)


def die_with_parent() -> None:
    """Ask the kernel to stop this process when its parent dies without a word."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def socket_path(data_dir: Path) -> Path:
    """Return where the server listens: in its data folder, or for a long path in a new one that is ours alone.

    Not under a name that can be foretold: whoever had put a socket of his own there would be taken for the store.
    """
    path = data_dir.resolve() / "store.sock"
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        return path
    return Path(tempfile.mkdtemp(prefix="ffsuper-")) / "store.sock"


def answers(path: Path, server: subprocess.Popen[bytes]) -> bool:
    """Wait until the server has read its data and answers; False when it ends instead."""
    deadline_s = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < deadline_s:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(START_S)
            try:
                probe.connect(str(path))
                probe.sendall(b"PING\r\n")
                if probe.recv(64).startswith(b"+PONG"):
                    return True
            except OSError:
                pass
        time.sleep(0.01)
    return False


def wait_for_end_of_input(server: subprocess.Popen[bytes]) -> None:
    """Return when standard input ends, or the server does."""
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        selector.register(os.pidfd_open(server.pid), selectors.EVENT_READ)
        selector.select()


def serve_fake() -> int:
    """Be a server written in Python, in memory, on a loopback port."""
    try:
        from fakeredis import TcpFakeServer
    except ImportError:
        print("missing -", flush=True)  # noqa: T201
        return 1
    server = TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    # It answers a pipeline reply by reply; waiting for acknowledgements in between costs 40 ms a batch.
    server.RequestHandlerClass.disable_nagle_algorithm = True  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    print(f"fake redis://127.0.0.1:{port}/0", flush=True)  # noqa: T201
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
