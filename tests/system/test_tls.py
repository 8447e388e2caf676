"""A store that is reached by TLS and asks for certificates: both sides know who the other is, each time they meet."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
import trustme

from ffsuper.cli import Exit
from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.errors import StoreAccessError, StoreUnavailableError
from ffsuper.store.connection import open_connection
from ffsuper.store.presence import read_partition_counts
from tests.redis_server import running_server
from tests.system.test_server import free_port
from tests.system.workers import Workers, eventually

LONG_S = 30.0
# An option by which a socket that is closed resets its connection.
RESET = struct.pack("ii", 1, 0)
# Connections of a worker that are there as soon as it has done something.
ACTORS = {"ffsuper-work", "ffsuper-presence", "ffsuper-announcements"}
NO_TRUST = "no TLS with the store: its certificate is not accepted: "
NO_ENTRY = "no TLS with the store: it does not accept our certificate, or wants one"


@dataclass(frozen=True)
class Certificates:
    """Files for one side: whom it trusts, and who it says that it is."""

    folder: Path

    def put(self, authority: trustme.CA, own: trustme.LeafCert | None = None) -> Certificates:
        """Write the files, in place of those that are there."""
        self.folder.mkdir(exist_ok=True)
        authority.cert_pem.write_to_path(self.folder / "ca.crt")
        if own is not None:
            own.cert_chain_pems[0].write_to_path(self.folder / "own.crt")
            own.private_key_pem.write_to_path(self.folder / "own.key")
        return self

    @property
    def options(self) -> dict[str, str]:
        """What a server is told of them, by CONFIG SET or at its start."""
        files = {"cert": "own.crt", "key": "own.key", "ca-cert": "ca.crt"}
        return {f"tls-{name}-file": str(self.folder / file) for name, file in files.items()}

    @property
    def settings(self) -> dict[str, Path]:
        """What a program is told of them; of our own certificate only where there is one."""
        files = {"tls_ca_file": "ca.crt", "tls_cert_file": "own.crt", "tls_key_file": "own.key"}
        paths = {name: self.folder / file for name, file in files.items()}
        return {name: path for name, path in paths.items() if path.exists()}

    @property
    def environment(self) -> dict[str, str]:
        """The same, for a worker."""
        return {f"FFSUPER_STORE_{name.upper()}": str(path) for name, path in self.settings.items()}


@dataclass(frozen=True)
class Encrypted:
    """A store that asks for certificates; the admin comes in by its unix socket."""

    url: str
    authority: trustme.CA
    server: Certificates
    admin: Any

    def show(self, certificates: Certificates) -> None:
        """Have the server use other files, and everybody connect again."""
        options = [part for option in certificates.options.items() for part in option]
        self.admin.execute_command("CONFIG", "SET", *options)
        for kind in ("normal", "pubsub"):
            self.admin.execute_command("CLIENT", "KILL", "TYPE", kind)


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Encrypted]:
    authority, port = trustme.CA(), free_port()
    server = Certificates(tmp_path / "server").put(authority, authority.issue_cert("localhost"))
    options = [part for name, value in server.options.items() for part in (f"--{name}", value)]
    with (
        running_server(tmp_path, "--tls-port", str(port), "--tls-auth-clients", "yes", *options) as socket_url,
        redis.Redis.from_url(socket_url) as admin,
    ):
        yield Encrypted(f"rediss://localhost:{port}/0", authority, server, admin)


@pytest.fixture
def own(tmp_path: Path, encrypted: Encrypted) -> Certificates:
    """Provide what a program needs that the server lets in."""
    authority = encrypted.authority
    return Certificates(tmp_path / "own").put(authority, authority.issue_cert("worker@example.org"))


@pytest.fixture
def workers(tmp_path: Path, encrypted: Encrypted, own: Certificates) -> Iterator[Workers]:
    workers = Workers(tmp_path, encrypted.url, environment=own.environment)
    yield workers
    workers.end_all()


@pytest.fixture
def client(encrypted: Encrypted, own: Certificates) -> Iterator[Client]:
    with Client(StoreConfig(url=encrypted.url, **own.settings)) as client:  # type: ignore[arg-type]
        yield client


def runs(client: Client) -> None:
    """Make sure that work is done."""
    assert client.wait(client.submit("echo", b"hello"), LONG_S).state == "completed"


def test_a_worker_and_a_client_show_certificates_and_work(
    encrypted: Encrypted, workers: Workers, client: Client
) -> None:
    worker = workers.start()
    runs(client)
    names = {one["name"] for one in encrypted.admin.client_list() if not one["addr"].startswith("/")}
    assert names > ACTORS
    worker.signal(signal.SIGTERM)
    assert worker.wait() == Exit.OK


def strangers(folder: Path, encrypted: Encrypted) -> dict[str, tuple[Certificates, str]]:
    """Return files with which there must be no connection, and what is said then."""
    other = trustme.CA()
    known = encrypted.authority.issue_cert("worker@example.org")
    return {
        "no certificate": (Certificates(folder / "none").put(encrypted.authority), NO_ENTRY),
        "another authority's": (
            Certificates(folder / "other").put(encrypted.authority, other.issue_cert("worker@example.org")),
            NO_ENTRY,
        ),
        "no trust": (Certificates(folder / "distrust").put(other, known), NO_TRUST),
        "another name": (
            Certificates(folder / "known").put(encrypted.authority, known),
            f"{NO_TRUST}Hostname mismatch, certificate is not valid for 'localhost'",
        ),
    }


@pytest.mark.parametrize("who", ["no certificate", "another authority's", "no trust", "another name"])
def test_strangers_are_told_what_is_wrong_with_which_certificate(
    encrypted: Encrypted, tmp_path: Path, who: str
) -> None:
    certificates, told = strangers(tmp_path, encrypted)[who]
    if who == "another name":
        elsewhere = encrypted.authority.issue_cert("elsewhere.example.org")
        encrypted.show(Certificates(tmp_path / "elsewhere").put(encrypted.authority, elsewhere))
    settings = StoreConfig(url=encrypted.url, **certificates.settings)  # type: ignore[arg-type]

    with pytest.raises(StoreAccessError) as of_client:
        Client(settings)
    with pytest.raises(StoreAccessError) as of_actors:
        trio.run(ask_as_actors_do, settings)
    assert str(of_client.value).startswith(told)
    assert str(of_actors.value).startswith(told)

    workers = Workers(tmp_path, encrypted.url, environment=certificates.environment)
    worker = workers.launch()
    assert worker.wait() == Exit.STORE_ACCESS
    (ended,) = [one for one in worker.events() if one["event"] == "ended"]
    assert ended["error"].startswith(told)
    assert "Traceback" not in worker.log_path.read_text()
    assert encrypted.admin.dbsize() == 0


async def ask_as_actors_do(settings: StoreConfig) -> None:
    async with open_connection(settings, "test") as connection:
        await connection.run(read_partition_counts())


def test_a_server_that_hangs_up_for_another_reason_is_away(tmp_path: Path, encrypted: Encrypted) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(encrypted.server.folder / "own.crt", encrypted.server.folder / "own.key")
    with socket.create_server(("localhost", 0)) as listening:
        port = listening.getsockname()[1]

        def hang_up() -> None:
            with contextlib.suppress(OSError):  # of the listener when the test is over
                while True:
                    raw, _ = listening.accept()
                    with contextlib.suppress(OSError):  # who calls may be the first to hang up
                        caller = tls.wrap_socket(raw, server_side=True)
                        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                        caller.close()

        threading.Thread(target=hang_up, daemon=True).start()
        certificates = Certificates(tmp_path / "none").put(encrypted.authority)
        settings = StoreConfig(url=f"rediss://localhost:{port}/0", **certificates.settings)  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailableError, match="cannot reach the store"):
            Client(settings, patience_s=0.0)
        listening.shutdown(socket.SHUT_RDWR)


def test_a_key_that_belongs_to_another_certificate_is_told(
    encrypted: Encrypted, own: Certificates, workers: Workers
) -> None:
    encrypted.authority.issue_cert("worker@example.org").private_key_pem.write_to_path(own.folder / "own.key")
    worker = workers.launch()
    assert worker.wait() == Exit.STORE_ACCESS
    assert "our certificate and key are no pair of PEM files" in worker.log_path.read_text()


def test_a_server_that_comes_back_under_another_name_is_not_trusted(
    encrypted: Encrypted, workers: Workers, client: Client, tmp_path: Path
) -> None:
    worker = workers.start()
    runs(client)
    elsewhere = encrypted.authority.issue_cert("elsewhere.example.org")
    encrypted.show(Certificates(tmp_path / "elsewhere").put(encrypted.authority, elsewhere))
    told = worker.wait_for("store away")["error"]
    assert "Hostname mismatch" in told or "answer was lost" in told  # of what was on its way, and it is told once
    assert not [event for event in worker.events() if event["event"] == "store back"]
    encrypted.show(encrypted.server)
    worker.wait_for("store back")
    runs(client)


def test_files_that_are_replaced_hold_for_every_later_connection(
    encrypted: Encrypted, own: Certificates, workers: Workers, client: Client, tmp_path: Path
) -> None:
    worker = workers.start()
    runs(client)
    later = trustme.CA()
    own.put(later, later.issue_cert("worker@example.org"))
    runs(client)
    encrypted.show(Certificates(tmp_path / "later").put(later, later.issue_cert("localhost")))
    runs(client)
    eventually(lambda: {one["name"] for one in encrypted.admin.client_list()} > ACTORS, "all to be connected again")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == Exit.OK
