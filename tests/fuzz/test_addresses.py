"""Of any URL and address, what the rules accept can be used, and of what they refuse no password is repeated."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import redis
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from ffsuper.admin.wire import ServerWire
from ffsuper.config import ClaimConfig, ServerConfig, StatusConfig, StoreConfig, WorkerConfig
from ffsuper.errors import ConfigError
from ffsuper.grants import open_grants
from ffsuper.store.cluster import is_cluster, key_of, open_wire, seeds, server_settings
from ffsuper.store.wire import connection_maker
from tests.fuzz.examples import fuzz
from tests.fuzz.values import TEXTS

HUSH = "hush-hush"
HOSTS = (
    st.sampled_from(
        (
            *(
                "localhost",
                "127.0.0.1",
                "[::1]",
                "[::1",
                "::1]",
                "[v1.x]",
                "[fe80::1%25eth0]",
                "a..b",
                ".",
                "a.",
                "*",
                "?",
            ),
            *(
                "x" * 64,
                "ä",
                "xn--",
                "xn--a",
                "a_b",
                "%41",
                "%00",
                "%",
                "",
                "1",
                "256.1.1.1",
                "a,b",
                ",",
                "a:1,b:2",
                "[::1]:1",
            ),
            *("\u3002", "\u2024", "ß", "\u200d", "a\u00adb", "\u0661", "\uff0f", "\u2100"),
        )
    )
    | TEXTS
)
PORTS = st.sampled_from(
    ("", ":", ":0", ":1", ":6379", ":65535", ":65536", ":-1", ":x", ":+1", ":1_0", ":\u0661", ": 1", ":1:2")
)
USERS = st.sampled_from(("", "", "", f"u:{HUSH}@", f":{HUSH}@", "u@", "@", ":@", f"{HUSH}@{HUSH}@", f"u:{HUSH}"))
SCHEMES = st.sampled_from(
    ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "http", "https", "REDIS", "re dis", "", "embedded")
)
PATHS = st.sampled_from(
    ("", "/", "/0", "/1", "/01", "/-1", "/x", "//", "/run/r.sock", "/%00", "/%2F", "/a b", "/" + "9" * 10)
)
ENDS = st.sampled_from(
    (
        "",
        "",
        "",
        "?",
        "#",
        "?db=1",
        "?db=x",
        "?db=",
        "?db=1&db=2",
        f"?password={HUSH}",
        "?protocol=3",
        "?db=1#x",
        ";x",
    )
)
STORES = st.builds("{}://{}{}{}{}{}".format, SCHEMES, USERS, HOSTS, PORTS, PATHS, ENDS) | TEXTS
SERVERS = (
    st.builds(
        "{}://{}{}{}{}{}".format,
        st.sampled_from(("http", "https", "HTTP", "ftp", "")),
        USERS,
        HOSTS,
        PORTS,
        PATHS,
        ENDS,
    )
    | TEXTS
)
LISTENS = st.builds("{}{}".format, HOSTS, PORTS) | TEXTS


def refused(make: Any, **settings: Any) -> bool:
    """Tell whether settings are refused, and check that this repeats no password."""
    try:
        make(**settings)
    except ConfigError as error:
        told = str(error)
    else:
        return False
    assert told
    assert HUSH not in told
    return True


def look_up(host: str, port: int) -> None:
    """Look a host up as far as that takes no network."""
    with contextlib.suppress(OSError):
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)


@fuzz(400)
@given(url=STORES)
@example(url="redis://a..b:6379")
@example(url=f"redis://{'x' * 64}")
@example(url="redis+cluster://a..b:1,c")
@example(url="redis://\u3002")
@example(url="unix:///a%00b")
def test_a_store_that_is_accepted_can_be_reached_for(url: str) -> None:
    if url == "embedded" or refused(StoreConfig, url=url):
        return
    settings = StoreConfig(url=url)
    open_wire(settings, "test").close()
    servers = [server_settings(settings, one) for one in seeds(settings)] if is_cluster(settings) else [settings]
    assert servers
    for server in servers:
        maker = connection_maker(server, "test")
        connection: Any = maker.make_connection()
        if isinstance(connection, redis.UnixDomainSocketConnection):
            assert connection.path.startswith("/")
            assert "\0" not in connection.path
        else:
            assert 0 < connection.port < 65_536
            look_up(connection.host, connection.port)
        assert connection.db >= 0
        assert maker.connection_kwargs["protocol"] == 2
        assert not connection.credential_provider
        assert connection.password is None


@fuzz(250)
@given(url=SERVERS)
@example(url="http://a..b")
@example(url=f"http://{'x' * 64}")
@example(url="http://256.1.1.1")
@example(url="https://\u2100")
@example(url="https://[v1.x]")
@example(url="http://xn--")
@example(url=f"http://u:{HUSH}[::1]:1")
def test_a_server_that_is_accepted_can_be_asked(url: str) -> None:
    if not url or refused(ClaimConfig, source="server", server_url=url):
        return
    claim = ClaimConfig(source="server", server_url=url)
    told = ""
    try:
        trio.run(look_up_server, claim)
    except ConfigError as error:  # it is httpx that takes no such URL
        told = str(error)
    assert not told or told.startswith("[claim] server_url: ")
    assert refused(ServerWire, url=url, token="", patience_s=0.0) == bool(told)


async def look_up_server(claim: ClaimConfig) -> None:
    """Make ready to ask a server, and look up where it is."""
    async with open_grants(claim, WorkerConfig(handlers=("app",))) as grants:
        request = grants._client.build_request("POST", grants._url)
    assert request.url.path.endswith("/v1/workers/ffsuper/claim")
    look_up(request.url.raw_host.decode("ascii"), request.url.port or 80)


@fuzz(300)
@given(listen=LISTENS)
@example(listen="a..b:80")
@example(listen=f"{'x' * 64}:80")
@example(listen="\ud800:80")
@example(listen="a\0b:80")
def test_an_address_that_is_accepted_can_be_listened_at(listen: str) -> None:
    if listen in ("", "auto") or refused(StatusConfig, listen=listen):
        return
    assert not refused(ServerConfig, listen=listen)
    host, _, port = listen.rpartition(":")
    look_up(host.strip("[]"), int(port))


@fuzz(200)
@given(key=TEXTS, parts=st.lists(TEXTS | st.binary(max_size=4) | st.integers() | st.floats(), max_size=3))
def test_a_cluster_finds_the_way_for_whatever_can_be_sent(key: str, parts: list[Any]) -> None:
    for command in (("HGET", key, *parts), ("FCALL", "f", 1, key, *parts), ("XREAD", "STREAMS", key, "0")):
        assert key_of(command) == key.encode(errors="replace")
