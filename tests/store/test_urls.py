"""The ways to reach a store: TCP, TLS with and without client certificates, unix sockets."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ffsuper.config import StoreConfig
from ffsuper.errors import ConfigError, StoreAccessError
from ffsuper.store import libraries
from ffsuper.store.wire import ServerWire, connection_maker, opened
from tests.redis_server import running_server

MANY_CONNECTIONS = 300


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ping(settings: StoreConfig) -> object:
    wire = ServerWire(settings, "test")
    try:
        return libraries.reply_to(wire, "PING")
    finally:
        wire.close()


def tls_options(port: int, certificates: Path, clients: str) -> list[str]:
    files = {"cert": "own.crt", "key": "own.key", "ca-cert": "ca.crt"}
    given = [part for name, file in files.items() for part in (f"--tls-{name}-file", str(certificates / file))]
    return ["--tls-port", str(port), *given, "--tls-auth-clients", clients]


def test_a_program_may_connect_again_as_often_as_it_has_to(tmp_path: Path) -> None:
    with running_server(tmp_path) as url:
        maker = connection_maker(StoreConfig(url=url), "test")
        for _ in range(MANY_CONNECTIONS):
            opened(maker).disconnect()


def test_a_store_is_reached_by_tcp(tmp_path: Path) -> None:
    port = free_port()
    with running_server(tmp_path, "--port", str(port)):
        assert ping(StoreConfig(url=f"redis://127.0.0.1:{port}/3")) == b"PONG"


def test_a_store_is_reached_by_tls_when_its_authority_is_trusted(tmp_path: Path, certificates: Path) -> None:
    port = free_port()
    with running_server(tmp_path, *tls_options(port, certificates, "no")):
        url = f"rediss://localhost:{port}/0"
        assert ping(StoreConfig(url=url, tls_ca_file=certificates / "ca.crt")) == b"PONG"
        with pytest.raises(StoreAccessError, match="its certificate is not accepted"):
            ping(StoreConfig(url=url))


def test_a_store_that_asks_for_certificates_gets_ours(tmp_path: Path, certificates: Path) -> None:
    port = free_port()
    with running_server(tmp_path, *tls_options(port, certificates, "yes")):
        settings = StoreConfig(
            url=f"rediss://localhost:{port}/0",
            tls_ca_file=certificates / "ca.crt",
            tls_cert_file=certificates / "own.crt",
            tls_key_file=certificates / "own.key",
        )
        assert ping(settings) == b"PONG"


def test_an_acl_user_is_logged_in(tmp_path: Path) -> None:
    users = ["--user", "worker", "on", ">secret", "~*", "&*", "+@all", "--user", "default", "off"]
    with running_server(tmp_path, *users) as url:
        assert ping(StoreConfig(url=url, username="worker", password="secret")) == b"PONG"


def test_a_url_that_is_none_is_a_configuration_error() -> None:
    settings = StoreConfig()
    object.__setattr__(settings, "url", "http://somewhere")
    with pytest.raises(ConfigError, match=r"\[store\] url"):
        connection_maker(settings, "test")
