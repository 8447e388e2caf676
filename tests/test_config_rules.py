from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ffsuper.config import (
    ChildrenConfig,
    ClaimConfig,
    Config,
    DrainConfig,
    EngineConfig,
    LeaseConfig,
    ServerConfig,
    StoreConfig,
    WorkerConfig,
)
from ffsuper.config_loader import Loaded
from ffsuper.config_rules import is_loopback, shown
from ffsuper.errors import SectionError


def problems(section: Callable[..., object], **settings: Any) -> list[str]:
    with pytest.raises(SectionError) as caught:
        section(**settings)
    return caught.value.problems


def test_the_defaults_break_no_rule() -> None:
    assert Config() == Config()


@pytest.mark.parametrize(
    ("lanes", "told"),
    [
        ((), "lanes: must name at least one lane"),
        (("a", ""), "lanes[1]: must not be empty"),
        (("a" * 65,), f'lanes[0]: must be at most 64 bytes long, got 65: "{"a" * 65}"'),
        (("ä",), 'lanes[0]: must be printable ASCII, got "ä"'),
        (("a\x7f",), 'lanes[0]: must be printable ASCII, got "a\\u007f"'),
        (("a\n",), 'lanes[0]: must be printable ASCII, got "a\\u000a"'),
        (("a", "b", "a"), 'lanes[2]: "a" is already in the list'),
    ],
)
def test_lanes_that_the_protocol_does_not_allow_are_refused(lanes: tuple[str, ...], told: str) -> None:
    assert problems(WorkerConfig, lanes=lanes) == [f"[worker] {told}"]


def test_lanes_may_have_spaces_colons_braces_and_64_bytes() -> None:
    lanes = ("a b", "a:b", "{a}", "~" * 64)
    assert WorkerConfig(lanes=lanes).lanes == lanes


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (("gpu", ""), "capabilities[1]: must not be empty"),
        (("a,b",), 'capabilities[0]: must not contain a comma, got "a,b"'),
        (("a b",), 'capabilities[0]: must not contain white space or control characters, got "a b"'),
        (("a\u3000b",), 'capabilities[0]: must not contain white space or control characters, got "a\\u3000b"'),
        (("a\x85",), 'capabilities[0]: must not contain white space or control characters, got "a\\u0085"'),
        (("\ud800",), 'capabilities[0]: must not contain white space or control characters, got "\\ud800"'),
        (tuple(str(n) for n in range(257)), "capabilities: must be at most 256 different tokens, got 257"),
        (
            ("ab", "€" * 1365),
            "capabilities: must be at most 4096 bytes when joined by commas, got 4098; the longest token is "
            + shown("€" * 1365),
        ),
    ],
)
def test_capabilities_that_the_protocol_does_not_allow_are_refused(tokens: tuple[str, ...], told: str) -> None:
    assert problems(WorkerConfig, capabilities=tokens) == [f"[worker] {told}"]


def test_capabilities_may_reach_both_limits_and_any_printable_text() -> None:
    for tokens in (tuple(str(n) for n in range(256)), ("a" * 2047, "b" * 2048), ("东京-gpu",), ("a",) * 1000):
        assert WorkerConfig(capabilities=tokens).capabilities == tokens


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"id": ""}, "id: must not be empty"),
        ({"id": "a b"}, 'id: must not contain white space or control characters, got "a b"'),
        ({"instance_id": "a\x00"}, 'instance_id: must not contain white space or control characters, got "a\\u0000"'),
        (
            {"handlers": ("app.py",)},
            'handlers[0]: must name a module such as "app.handlers", not a file, got "app.py"',
        ),
        (
            {"handlers": ("a", "b.", "")},
            'handlers[1]: must be the dotted name of a module such as "app.handlers", got "b."',
        ),
        ({"handlers": ("a", "a")}, 'handlers[1]: "a" is already in the list'),
    ],
)
def test_names_that_cannot_work_are_refused(settings: dict[str, Any], told: str) -> None:
    assert f"[worker] {told}" in problems(WorkerConfig, **settings)


@pytest.mark.parametrize(
    "url",
    [
        "embedded",
        "redis://localhost",
        "redis://localhost/",
        "redis://[::1]:6379/15",
        "rediss://store.example.org:6380",
        "redis+cluster://one",
        "redis+cluster://one:7000,two:7001,[::1]:7002",
        "rediss+cluster://one:7000/0",
        "unix:///run/redis.sock",
        "unix:///run/redis.sock?db=3",
    ],
)
def test_urls_of_every_kind_are_accepted(url: str) -> None:
    assert StoreConfig(url=url).url == url


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", 'must begin with redis://, rediss://, unix:// or redis+cluster://, or be "embedded"'),
        ("localhost:6379", 'must begin with redis://, rediss://, unix:// or redis+cluster://, or be "embedded"'),
        (
            "http://x",
            'must begin with redis://, rediss://, unix:// or redis+cluster://, or be "embedded", got "http://"',
        ),
        ("redis://a b", "must not contain white space or control characters"),
        ("redis://[::1", "is not a URL: look at its brackets and special characters"),
        ("redis+cluster://", "names no host; write it as in redis+cluster://one:6379,two:6379"),
        ("redis+cluster://one,", "names no host; write it as in redis+cluster://one:6379,two:6379"),
        ("redis+cluster://one:0,two", "must have a port from 1 to 65535"),
        ("redis+cluster://one/1", "must end after the ports: a cluster has no database but 0"),
        ("redis+cluster://me@one", "must not contain a user name: put it into username"),
        ("redis://", "names no host; write it as in redis://localhost:6379/0"),
        ("redis://x:70000", "must have a port from 1 to 65535"),
        ("redis://x:0", "must have a port from 1 to 65535"),
        ("redis://x:port", "must have a port from 1 to 65535"),
        ("redis://x/one", "must end after the port or with a database number, as in redis://localhost:6379/0"),
        ("redis://x?protocol=3", "must not have options after a question mark"),
        ("redis://x/0#a", 'must not contain "#"'),
        ("redis://me@x", "must not contain a user name: put it into username"),
        ("unix://", "names no socket; write it as in unix:///run/redis/redis.sock"),
        ("unix://run/x", "must have an absolute path, as in unix:///run/redis/redis.sock, with three slashes"),
        ("unix:///x?protocol=3", "must not have options after the question mark other than db"),
        ("unix:///x?db=one", "must give db as a number"),
    ],
)
def test_urls_that_cannot_work_are_refused(url: str, told: str) -> None:
    assert problems(StoreConfig, url=url) == [f"[store] url: {told}"]


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hush@x",
        "redis://me:hush@x:99999/hush?password=hush",
        "rediss://me:hu@hush@x/0",
        "unix://:hush@/run/redis.sock",
        "redis://:hush/@x",
        "redis://x?password=hush",
        "unix:///x?password=hush",
        "me:hush@x",
        "me:hush://x",
    ],
)
def test_a_password_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    told = problems(StoreConfig, url=url)
    assert told
    assert "hush" not in "".join(told)


def test_a_password_in_the_url_is_told_where_it_belongs() -> None:
    text = "[store] url: must not contain a password: put it into a file and name that in password_file"
    assert problems(StoreConfig, url="redis://:hush@x") == [text]


def test_tls_files_need_a_tls_url() -> None:
    told = problems(StoreConfig, url="redis://x", tls_ca_file=Path("ca.pem"))
    assert told == ["[store] tls_ca_file: needs a url that begins with rediss://"]
    assert StoreConfig(url="rediss://x", tls_ca_file=Path("ca.pem")).tls_ca_file == Path("ca.pem")


def test_a_tls_key_needs_its_certificate() -> None:
    told = problems(StoreConfig, url="rediss://x", tls_key_file=Path("key.pem"))
    assert told == ["[store] tls_key_file: needs tls_cert_file beside it"]


@pytest.mark.parametrize("url", ["http://x", "https://ff.example.org/", "http://[::1]:8080/behind/a/proxy"])
def test_server_urls_of_every_kind_are_accepted(url: str) -> None:
    assert ClaimConfig(source="server", server_url=url).server_url == url


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ff.example.org", "must begin with http:// or https://"),
        ("redis://x", "must begin with http:// or https://"),
        ("http://a b", "must not contain white space or control characters"),
        ("http://[::1", "is not a URL: look at its brackets and special characters"),
        ("http://", "names no host; write it as in https://flowfabric.example.org"),
        ("http://x:0", "must have a port from 1 to 65535"),
        ("http://x:port/", "must have a port from 1 to 65535"),
        ("http://x/?", "must not have anything after the path"),
        ("http://x/#a", "must not have anything after the path"),
        (
            "http://me:hush@x",
            "must not contain a user name or a password; a bearer token is put into a file, named in token_file",
        ),
    ],
)
def test_server_urls_that_cannot_work_are_refused(url: str, told: str) -> None:
    assert problems(ClaimConfig, source="server", server_url=url) == [f"[claim] server_url: {told}"]


def test_asking_a_server_needs_to_know_where_it_is() -> None:
    assert problems(ClaimConfig, source="server") == ['[claim] server_url: must be given when source is "server"']


def test_certificates_to_trust_need_a_tls_server() -> None:
    told = problems(ClaimConfig, source="server", server_url="http://x", ca_file=Path("ca.pem"))
    assert told == ["[claim] ca_file: needs a server_url that begins with https://"]
    assert ClaimConfig(source="server", server_url="https://x", ca_file=Path("ca.pem")).ca_file == Path("ca.pem")


def test_a_user_name_has_no_white_space() -> None:
    told = problems(StoreConfig, username="a b")
    assert told == ['[store] username: must not contain white space or control characters, got "a b"']


def test_the_margin_is_at_most_a_third_of_the_ttl() -> None:
    assert LeaseConfig(ttl_ms=6000, margin_ms=2000).margin_ms == 2000
    text = "[lease] margin_ms: must be at most a third of ttl_ms, which is 1999, got 2000"
    assert problems(LeaseConfig, ttl_ms=5999, margin_ms=2000) == [text]


def test_a_value_is_not_blamed_for_not_fitting_a_wrong_one() -> None:
    assert problems(LeaseConfig, ttl_ms=3) == ["[lease] ttl_ms: must be at least 1000, got 3"]


@pytest.mark.parametrize(
    ("section", "key", "low", "high"),
    [
        (StoreConfig, "timeout_s", 0.001, 3600.0),
        (partial(LeaseConfig, margin_ms=1), "ttl_ms", 1_000, 86_400_000),
        (partial(LeaseConfig, ttl_ms=86_400_000), "margin_ms", 1, 28_800_000),
        (ClaimConfig, "poll_interval_ms", 1, 3_600_000),
        (ClaimConfig, "grant_ttl_ms", 1, 60_000),
        (ClaimConfig, "server_timeout_s", 0.1, 3600.0),
        (ChildrenConfig, "count", 0, 4096),
        (ChildrenConfig, "timeout_s", 0.0, 366 * 86_400.0),
        (ChildrenConfig, "grace_s", 0.0, 86_400.0),
        (ChildrenConfig, "boot_timeout_s", 0.1, 86_400.0),
        (ChildrenConfig, "max_restarts", 0, 1_000_000),
        (ChildrenConfig, "restart_window_s", 0.1, 366 * 86_400.0),
        (ChildrenConfig, "processes", 0, 4_194_304),
        (ChildrenConfig, "file_mb", 0, 1_000_000_000),
        (ChildrenConfig, "core_mb", 0, 1_000_000_000),
        (DrainConfig, "timeout_s", 0.0, 366 * 86_400.0),
        (EngineConfig, "leader_ttl_ms", 300, 3_600_000),
        (EngineConfig, "delayed_interval_ms", 1, 86_400_000),
        (EngineConfig, "unblock_interval_ms", 1, 86_400_000),
    ],
)
def test_numbers_are_accepted_up_to_their_bounds(
    section: Callable[..., object], key: str, low: float, high: float
) -> None:
    assert section(**{key: low}) != section(**{key: high})
    for wrong in (low - 1, high + 1, float("nan"), float("-inf"), float("inf")):
        (told,) = problems(section, **{key: wrong})
        assert f"{key}: must be at " in told
        assert told.endswith(f", got {wrong!r}")


def test_a_child_needs_some_descriptors_for_itself() -> None:
    assert ChildrenConfig(open_files=0).open_files == 0
    assert ChildrenConfig(open_files=32).open_files == 32
    assert problems(ChildrenConfig, open_files=31) == ["[children] open_files: must be at least 32, got 31"]
    assert problems(ChildrenConfig, open_files=-1) == ["[children] open_files: must be at least 32, got -1"]


def test_the_user_of_the_children_is_a_name() -> None:
    told = '[children] user: must not contain white space or control characters, got "a b"'
    assert problems(ChildrenConfig, user="a b") == [told]


def test_several_mistakes_in_one_section_are_told_at_once() -> None:
    assert problems(ChildrenConfig, count=-1, grace_s=-1.0, environment={"A=": "", "B": "\0"}) == [
        "[children] count: must be at least 0, got -1",
        "[children] grace_s: must be at least 0.0, got -1.0",
        '[children] environment."A=": must be a name that is not empty and has no equals sign or null character',
        "[children] environment.B: must not contain a null character",
    ]


def test_what_may_be_secret_is_not_in_the_representation() -> None:
    config = Config(
        store=StoreConfig(password="hush"),
        claim=ClaimConfig(token="hush"),
        server=ServerConfig(token="hush"),
        children=ChildrenConfig(environment={"KEY": "hush"}),
    )
    assert "hush" not in repr(config)
    assert "hush" not in repr(Loaded(config, {}))


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        (ServerConfig().listen, True),
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("Localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("192.168.0.1:1", False),
        ("[fe80::1]:1", False),
        ("localhost.example.org:1", False),
    ],
)
def test_an_address_that_other_machines_reach_is_known(listen: str, expected: bool) -> None:
    assert is_loopback(listen) is expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (2**70, "an integer of more than 64 bits"),
        ('a"\\\n\U000e0001', '"a\\"\\\\\\u000a\\U000e0001"'),
        ("x" * 100, f'"{"x" * 80}..."'),
        ([1], "an array"),
        ({}, "a table"),
        (None, "a date or time"),
    ],
)
def test_values_are_shown_on_one_bounded_line(value: object, text: str) -> None:
    assert shown(value) == text
