"""No secret gets out: what was to be seen of a whole deployment, up to its defects, is searched for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ffsuper.cli import Exit
from tests.system.deployment import DEFECTS, gather
from tests.system.evidence import Evidence
from tests.system.workers import Workers

SECRETS = ("password", "server token", "waitpoint secret")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    with pytest.MonkeyPatch.context() as around:
        yield gather(tmp_path_factory.mktemp("deployment"), around)


def skip_what_is_hidden(evidence: Evidence, place: str) -> None:
    if place in evidence.hidden:
        pytest.skip("only root sees that of processes that know secrets")


@pytest.mark.parametrize(
    "place", ["logs", "output", "http", "systemd", "command lines", "environments", "environments of children"]
)
def test_no_secret_was_to_be_seen(evidence: Evidence, place: str) -> None:
    skip_what_is_hidden(evidence, place)
    assert evidence.found(place, *SECRETS, "waitpoint token") == []


def test_no_secret_of_ours_is_in_the_store_its_crash_reports_or_files(evidence: Evidence) -> None:
    assert evidence.found("store", "password", "server token") == []
    assert evidence.found("files", *SECRETS) == []


def test_no_secret_is_in_the_memory_of_a_fork_server_or_a_child(evidence: Evidence) -> None:
    skip_what_is_hidden(evidence, "memory")
    assert len(evidence.memory) == 6  # of each worker a fork server and two children
    assert sum("control" in found for found in evidence.memory.values()) >= 2  # what is there is found
    assert not [name for name, found in evidence.memory.items() if found.intersection(SECRETS)]


@pytest.mark.parametrize("place", ["logs", "systemd", "command lines"])
def test_no_payload_result_or_signal_is_told_by_anybody_at_any_level(evidence: Evidence, place: str) -> None:
    assert evidence.found(place, "payload", "signal", "control") == []


def test_no_crash_has_left_a_core_behind(evidence: Evidence) -> None:
    assert evidence.cores == []


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("logs", '"level": "debug"'),
        ("logs", '"event": "store away"'),
        ("logs", 'warning "store away"'),
        ("logs", "invalid username-password pair"),
        ("logs", "SIGSEGV"),
        ("logs", "Traceback (most recent call last)"),
        ("logs", "RuntimeError: a defect, with (StoreConfig("),
        ("logs", "watching"),
        ("output", "claim_for: 70"),
        ("output", "open_presence: 70"),
        ("output", "refused: 77"),
        ("output", "list: 77"),
        ("output", "check: 0"),
        ("output", "check: 77"),
        ("output", "[store] password"),
        ("output", "crash_report"),
        ("output", "drain: 0"),
        ("http", "/livez 200"),
        ("http", "ffsuper_"),
        ("http", "/metrics 401"),
        ("systemd", "STATUS=Running"),
        ("command lines", "ffsuper.child.forkserver"),
        ("environments", "FFSUPER_STORE_PASSWORD_FILE="),
        ("store", "crash_report"),
    ],
)
def test_it_was_all_there_to_be_seen(evidence: Evidence, place: str, text: str) -> None:
    skip_what_is_hidden(evidence, place)
    assert text.encode() in evidence.seen[place]


@pytest.mark.parametrize("name", ["FFSUPER_STORE_PASSWORD", "FFSUPER_CLAIM_TOKEN", "FFSUPER_SERVER_TOKEN"])
def test_nothing_starts_with_a_secret_in_its_environment_and_it_is_not_repeated(tmp_path: Path, name: str) -> None:
    workers = Workers(tmp_path, f"unix://{tmp_path / 'none'}", environment={name: "canary"})
    worker = workers.launch()
    assert worker.wait() == Exit.CONFIG
    told = worker.log_path.read_text()
    assert f"name that in {name}_FILE" in told
    assert "canary" not in told


def test_the_defects_were_told_with_what_they_had_at_hand(evidence: Evidence) -> None:
    assert evidence.seen["logs"].count(b'"event": "defect"') == len(DEFECTS)
