"""What ``ffsuper check`` finds; with a real store and real handlers in tests/system/test_check.py."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ffsuper.actors.lease_renewer import RETRY_SHARE
from ffsuper.commands.checks import files, ports, stores, timing, units
from ffsuper.commands.checks.finding import Finding, problem, warning
from ffsuper.commands.checks.report import Report
from ffsuper.commands.checks.units import END_S, Unit, UnitError
from ffsuper.config import Config, ServerConfig, StatusConfig, StoreConfig
from ffsuper.config_loader import load
from ffsuper.errors import FfsuperError, StoreError, StoreUnavailableError, StoreUnsuitableError
from ffsuper.messages import AttemptId, ExecutionId, LaneId, Lease, LeaseId
from ffsuper.sansio.lease import LeaseBook
from ffsuper.store.libraries import Held, Mode, Standing
from ffsuper.store.wire import Command, Wire
from tests.config_files import LEAST, config

ROOT = Path(__file__).parent.parent.parent


def texts(findings: Sequence[Finding]) -> list[str]:
    return [one.text for one in findings]


# --- times that have to fit together


def test_the_defaults_and_the_examples_fit(tmp_path: Path) -> None:
    assert list(timing.look(config(tmp_path))) == []
    assert list(timing.look(load(ROOT / "config" / "worker.toml", {}).config)) == []


@pytest.mark.parametrize(
    ("text", "beginning", "advice"),
    [
        ("[lease]\nttl_ms = 10000", "[lease] ttl_ms: a lease of 10000 ms", "raise ttl_ms to 12000"),
        ("[store]\ntimeout_s = 16", "[lease] ttl_ms: a lease of 30000 ms", "or lower timeout_s below 15.7"),
        ("[lease]\nmargin_ms = 300", "[lease] margin_ms: 300 ms", "set it to 500 or more"),
        ("[drain]\ntimeout_s = 3", "[drain] timeout_s: 3 s", "raise it to 5 or more"),
        ("[status]\nstuck_after_s = 10", "[status] stuck_after_s: 10 s", "raise it above 10"),
    ],
)
def test_times_that_do_not_fit_are_warned_of(tmp_path: Path, text: str, beginning: str, advice: str) -> None:
    (found,) = timing.look(config(tmp_path, f"{LEAST}{text}"))
    assert found.error is None
    assert found.text.startswith(beginning)
    assert advice in found.text


def outlasts_a_lost_call(settings: Config) -> bool:
    """Hold a lease whose first renewal is lost on the way, and whose second comes as late as it may."""
    book, ttl_s = LeaseBook(settings.lease.margin_ms / 1000), settings.lease.ttl_ms / 1000
    lease_id = LeaseId("lease")
    book.track(
        Lease(
            execution_id=ExecutionId("{fp:1}:x"),
            lane=LaneId("default"),
            attempt_index=0,
            attempt_id=AttemptId("attempt"),
            lease_id=lease_id,
            epoch=1,
            ttl_ms=settings.lease.ttl_ms,
            asked_at_s=0.0,
        )
    )
    due_s, deadline_s = book.next_event_s(), book.next_deadline_s()
    book.postpone(lease_id, due_s + settings.store.timeout_s + 1.5 * RETRY_SHARE * ttl_s)
    return book.take_due(deadline_s - 1e-6) != []


@pytest.mark.parametrize("ttl_ms", [1_000, 5_000, 10_000, 12_000, 30_000, 120_000])
@pytest.mark.parametrize("timeout_s", [0.1, 1.0, 3.7, 5.0, 15.0, 60.0])
def test_a_lease_is_warned_of_just_when_one_lost_call_costs_it(tmp_path: Path, ttl_ms: int, timeout_s: float) -> None:
    text = LEAST + "[lease]\nttl_ms = {}\nmargin_ms = 300\n[store]\ntimeout_s = {}\n"
    settings = config(tmp_path, text.format(ttl_ms, timeout_s))
    found = list(timing.renewal(settings))
    assert (found == []) is outlasts_a_lost_call(settings)
    for one in found:
        advised = int(one.text.split("raise ttl_ms to ")[1].split(",")[0])
        assert list(timing.renewal(config(tmp_path, text.format(advised, timeout_s)))) == []


# --- units


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90.0),
        ("1min 30s", 90.0),
        ("1min30s", 90.0),
        ("2h", 7200.0),
        ("1.5min", 90.0),
        ("500ms", 0.5),
        ("3 d", 259_200.0),
        ("infinity", math.inf),
        ("0", 0.0),
    ],
)
def test_spans_are_read_as_systemd_reads_them(text: str, expected: float) -> None:
    assert units.span_s(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "soon", "5 parsecs", "-5", "5s later", "1..2s"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- the text is the message
        units.span_s(text)


def unit_file(folder: Path, service: str, name: str = "ffsuper.service") -> Path:
    path = folder / name
    path.write_text(f"[Unit]\nTimeoutStopSec=1\n[Service]\n{service}\n[Install]\nTimeoutStopSec=2\n")
    return path


def stop_s(folder: Path, service: str) -> float:
    return units.unit_called(str(unit_file(folder, service))).stop_s


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("", 90.0),
        ("TimeoutStopSec=120", 120.0),
        ("  TimeoutStopSec = 2min  ", 120.0),
        ("TimeoutStopSec=10\nTimeoutStopSec=120", 120.0),
        ("TimeoutStopSec=10\nTimeoutStopSec=", 90.0),
        ("TimeoutSec=120", 120.0),
        ("#TimeoutStopSec=10\n;TimeoutStopSec=11", 90.0),
        ("ExecStart=/bin/x \\\n# in between\n  TimeoutStopSec=10", 90.0),
        ("TimeoutStopSec=infinity", math.inf),
        ("TimeoutStopSec=0", math.inf),
    ],
)
def test_a_unit_files_stop_timeout_is_found(tmp_path: Path, service: str, expected: float) -> None:
    assert stop_s(tmp_path, service) == expected


def test_drop_ins_come_after_the_unit_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "ffsuper.service.d").mkdir()
    (tmp_path / "ffsuper.service.d" / "20.conf").write_text("[Service]\nTimeoutStopSec=200\n")
    (tmp_path / "ffsuper.service.d" / "10.conf").write_text("[Service]\nTimeoutStopSec=100\nType=notify\n")
    unit = units.unit_called(str(unit_file(tmp_path, "TimeoutStopSec=1")))
    assert (unit.stop_s, unit.kind) == (200.0, "notify")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/opt/ffsuper/bin/ffsuper --config {file}", True),
        ("/opt/ffsuper/bin/ffsuper --config={file}", True),
        ('-/opt/ffsuper/bin/ffsuper --config "{file}"', True),
        ("/usr/bin/python3 -m ffsuper --config {file}", True),
        ("/opt/ffsuper/bin/ffsuper --config {folder}/%i.toml", True),
        ("/opt/ffsuper/bin/ffsuper --config {folder}/%i/worker.toml", False),
        ("/opt/ffsuper/bin/ffsuper server --config {file}", False),
        ("/opt/ffsuper/bin/ffsuper engine --config {file}", False),
        ("/opt/ffsuper/bin/ffsuper --config {file}.other", False),
        ("/opt/ffsuper/bin/ffsuper --config worker.toml", False),
        ("/bin/sh -c 'it is not closed", False),
        ("", False),
    ],
)
def test_a_unit_that_starts_a_worker_with_the_file_is_recognised(
    tmp_path: Path, command: str, expected: bool
) -> None:
    file = tmp_path / "worker.toml"
    assert units.starts_worker(command.format(file=file, folder=tmp_path), file) is expected


def test_of_the_installed_units_those_count_that_start_this_worker(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    ours = unit_file(tmp_path, f"ExecStart=/bin/ffsuper --config {file}\nTimeoutStopSec=10", "ffsuper-a.service")
    unit_file(tmp_path, "ExecStart=/bin/ffsuper --config /etc/other.toml", "ffsuper-b.service")
    unit_file(tmp_path, f"ExecStart=/bin/ffsuper --config {file}", "other.service")
    assert list(units.units_of(file, tmp_path)) == [Unit(str(ours), "", 10.0, f"/bin/ffsuper --config {file}")]


@pytest.mark.parametrize(
    ("kind", "seconds", "error"),
    [
        ("exec", 65 + END_S - 1, True),
        ("", 65 + END_S - 1, True),
        ("notify", 65 + END_S - 1, False),
        ("notify-reload", 65 + END_S - 1, False),
        ("exec", 65 + END_S, None),
        ("exec", math.inf, None),
    ],
)
def test_a_unit_that_cuts_the_drain_short_is_a_problem_unless_the_worker_can_ask_for_more(
    tmp_path: Path, kind: str, seconds: float, error: bool | None
) -> None:
    found = list(units.too_short(config(tmp_path), Unit("ffsuper.service", kind, seconds)))
    assert [one.error is not None for one in found] == ([] if error is None else [error])
    assert all(f"TimeoutStopSec={65 + END_S:g}" in one.text for one in found)


def test_our_own_unit_fits_our_own_example() -> None:
    example = ROOT / "config" / "worker.toml"
    unit = str(ROOT / "systemd" / "ffsuper.service")
    assert list(units.look(load(example, {}).config, example, unit)) == []


@pytest.mark.parametrize(("unit", "started"), [("ffsuper-server.service", "server"), ("ffsuper.service", None)])
def test_a_unit_that_starts_no_worker_is_warned_of(unit: str, started: str | None, tmp_path: Path) -> None:
    found = list(units.look(config(tmp_path), tmp_path / "worker.toml", str(ROOT / "systemd" / unit)))
    assert [(one.error, f"starts ffsuper {started} and no worker" in one.text) for one in found] == (
        [(None, True)] if started else []
    )


@pytest.mark.parametrize(
    ("named", "told"),
    [("/no/such.service", "there is no file /no/such.service"), ("ffsuper-not-there", "ffsuper-not-there.service")],
)
def test_a_unit_that_cannot_be_looked_at_is_a_problem(tmp_path: Path, named: str, told: str) -> None:
    (found,) = units.look(config(tmp_path), tmp_path / "worker.toml", named)
    assert found.error is not None
    assert told in found.text


def systemctl(folder: Path, monkeypatch: pytest.MonkeyPatch, shown: str) -> None:
    """Put a systemctl on PATH that tells this of every unit."""
    program = folder / "systemctl"
    program.write_text(f"#!/bin/sh\nprintf '{shown}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_systemd_is_asked_about_a_unit_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = "ExecStart={ path=/bin/ffsuper ; argv[]=/bin/ffsuper --config /w.toml ; ignore_errors=no }"
    systemctl(tmp_path, monkeypatch, rf"Type=notify\nTimeoutStopUSec=1min 30s\n{started}\nLoadState=loaded\n")
    assert units.unit_called("ffsuper") == Unit("ffsuper.service", "notify", 90.0, "/bin/ffsuper --config /w.toml")


def test_a_unit_that_systemd_does_not_know_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemctl(tmp_path, monkeypatch, r"Type=simple\nTimeoutStopUSec=1min 30s\nLoadState=not-found\n")
    with pytest.raises(UnitError, match="systemd has no unit ffsuper"):
        units.unit_called("ffsuper")


def test_a_stop_timeout_that_systemd_ignores_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnitError, match="TimeoutStopSec=soon is no time"):
        stop_s(tmp_path, "TimeoutStopSec=soon")


# --- files and ports


def test_a_secret_that_everybody_can_read_is_warned_of(tmp_path: Path) -> None:
    for name in ("password", "token"):
        (tmp_path / name).write_text("hush")
        (tmp_path / name).chmod(0o640)
    settings = config(tmp_path, LEAST + '[store]\npassword_file = "password"\n[server]\ntoken_file = "token"\n')
    assert list(files.look(settings)) == []
    (tmp_path / "token").chmod(0o644)
    (found,) = files.look(settings)
    token = tmp_path / "token"
    assert found == warning(f"[server] token_file: everybody on this machine can read {token}: chmod o= {token}")


def at_port(folder: Path, listen: str) -> list[Finding]:
    return list(ports.look(config(folder, f'{LEAST}[status]\nlisten = "{listen}"\n'), folder / "worker.toml"))


def test_a_free_port_and_none_at_all_are_fine(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    assert at_port(tmp_path, f"127.0.0.1:{port}") == []
    assert at_port(tmp_path, "127.0.0.1:0") == []
    assert at_port(tmp_path, "") == at_port(tmp_path, StatusConfig().listen) == []


def test_a_port_that_another_program_has_is_a_problem_with_its_name(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        (found,) = at_port(tmp_path, f"127.0.0.1:{listener.getsockname()[1]}")
    assert found.error is not None
    assert f"process {os.getpid()} (" in found.text


@pytest.mark.parametrize(
    ("listen", "token", "told"),
    [
        (ServerConfig().listen, "", []),
        ("[::1]:9090", "", []),
        ("0.0.0.0:9090", "hush", ["without TLS"]),
        ("192.168.0.1:9090", "", ["without a token", "without TLS"]),
    ],
)
def test_a_server_that_other_machines_reach_is_warned_of(listen: str, token: str, told: list[str]) -> None:
    found = list(ports.exposed_server(ServerConfig(listen=listen, token=token)))
    assert [one.error for one in found] == [None] * len(told)
    for one, text in zip(found, told, strict=True):
        assert one.text.startswith(f"[server] listen: other machines may reach {listen}, and {text}")


@pytest.mark.parametrize(
    ("listen", "is_told"),
    [("auto", False), ("", False), ("127.0.0.1:9464", False), ("0.0.0.0:9464", True), ("[::]:9464", True)],
)
def test_health_and_metrics_that_other_machines_reach_are_warned_of(
    tmp_path: Path, listen: str, is_told: bool
) -> None:
    found = list(ports.exposed(config(tmp_path, f'{LEAST}[status]\nlisten = "{listen}"\n')))
    start = f"[status] listen: other machines may reach {listen}, and without a token anybody there may read health"
    assert [(one.error, one.text.startswith(start)) for one in found] == [(None, True)] * is_told


def test_a_port_whose_holder_we_may_not_see_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "holder_of", lambda port: None)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        (found,) = at_port(tmp_path, f"127.0.0.1:{listener.getsockname()[1]}")
    assert found.error is None
    assert "unless this very worker has it" in found.text


LISTENER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_the_worker_that_already_runs_with_this_file_may_have_its_port(tmp_path: Path) -> None:
    config(tmp_path)
    command = [sys.executable, "-c", LISTENER, "--config", "worker.toml"]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        port = int(running.stdout.readline())
        assert at_port(tmp_path, f"127.0.0.1:{port}") == []
        running.communicate()


def test_an_address_of_another_machine_is_a_problem(tmp_path: Path) -> None:
    (found,) = at_port(tmp_path, "192.0.2.1:9464")
    assert found.error is not None
    assert "nobody can listen at 192.0.2.1:9464" in found.text


# --- the store


class FakeWire(Wire):
    """A server that gives fixed answers, by the first word of the command."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        return [self._answers.get(str(command[0]), StoreError("not allowed")) for command in commands]

    def servers(self) -> Sequence[Wire]:
        return [self]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("store_s", "answered_s", "told"),
    [
        (1000.9, 1000.0, None),
        (1001.2, 1000.0, "1.2 s ahead of"),
        (997.5, 1000.0, "2.5 s behind"),
        (1003.4, 1005.0, None),
        (1003.6, 1005.0, None),
        (1006.1, 1005.0, "3.6 s ahead of"),
    ],
)
def test_a_clock_counts_as_wrong_only_beyond_what_the_way_may_account_for(
    store_s: float, answered_s: float, told: str | None
) -> None:
    reply = [str(int(store_s)).encode(), str(round(store_s % 1 * 1e6)).encode()]
    clock = iter([1000.0, answered_s])
    found = list(stores.skewed(FakeWire(TIME=reply), lambda: next(clock)))
    assert [told in one.text for one in found if told] == ([True] if told else [])
    assert len(found) == (told is not None)


@pytest.mark.parametrize(
    ("standing", "mode", "error", "told"),
    [
        (Standing.OURS, "auto", None, None),
        (Standing.MISSING, "auto", None, None),
        (Standing.OLDER, "replace", None, None),
        (Standing.FOREIGN, "auto", None, None),
        (Standing.MISSING, "never", StoreUnsuitableError, "the store lacks library flowfabric"),
        (Standing.OLDER, "never", None, "holds an older library flowfabric"),
        (Standing.NEWER, "auto", None, "upgrade this worker"),
        (Standing.FOREIGN, "replace", None, "replaces the foreign library flowfabric"),
    ],
)
def test_what_a_worker_would_do_about_a_library(
    standing: Standing, mode: Mode, error: type[FfsuperError] | None, told: str | None
) -> None:
    held = Held("flowfabric", standing, "0.1.0 abc")
    found = list(stores.look_at_library(held, FakeWire(FCALL=b"5"), mode))
    assert [one.error for one in found] == ([] if told is None else [error])
    assert all(str(told) in one.text for one in found)


def test_a_later_library_without_what_workers_need_is_a_problem() -> None:
    listed = [[b"library_name", b"ffsuper", b"functions", [[b"name", b"ffsuper_lead"]]]]
    held = Held("ffsuper", Standing.NEWER, "99.0.0 abc")
    stays, lacks = stores.look_at_library(held, FakeWire(FUNCTION=listed), "auto")
    assert (stays.error, lacks.error) == (None, StoreUnsuitableError)
    assert "without ffsuper_add_member and " in lacks.text
    assert "upgrade this worker, or go back" in lacks.text


def test_a_library_that_stays_has_to_speak_our_version() -> None:
    held = Held("flowfabric", Standing.NEWER, "9.0.0 abc")
    newer, other = stores.look_at_library(held, FakeWire(FCALL=b"6"), "auto")
    assert newer.error is None
    assert other.error is StoreUnsuitableError
    assert "version 6, and this worker speaks version 5" in other.text


def test_a_foreign_library_of_our_name_is_a_problem() -> None:
    (found,) = stores.look_at_library(Held("ffsuper", Standing.FOREIGN, ""), FakeWire(), "auto")
    assert found.error is StoreUnsuitableError


@pytest.mark.parametrize(
    ("info", "error", "told"),
    [
        ({}, None, None),
        ({"role": "master", "maxmemory_policy": "noeviction", "connected_slaves": "1"}, None, None),
        ({"role": "slave"}, StoreUnavailableError, "this is a replica"),
        ({"maxmemory_policy": "allkeys-lru"}, None, "maxmemory-policy allkeys-lru"),
        ({"connected_slaves": "0"}, None, "[store] wait_replicas: 1 are to have"),
    ],
)
def test_what_a_server_tells_of_itself(
    info: Mapping[str, str], error: type[FfsuperError] | None, told: str | None
) -> None:
    found = list(stores.look_at_info(info, StoreConfig(wait_replicas=1)))
    assert [one.error for one in found] == ([] if told is None else [error])
    assert all(str(told) in one.text for one in found)


def test_what_we_may_not_ask_is_not_found_fault_with() -> None:
    assert list(stores.forbidden(FakeWire(), stores.NEEDED)) == []
    assert stores.info_of(FakeWire()) == {}
    assert stores.option_of(FakeWire(), "save") is None


def embedded(folder: Path) -> list[Finding]:
    return list(stores.look(StoreConfig(url="embedded", data_dir=folder / "new" / "data")))


def test_the_embedded_store_needs_a_server_on_path_and_creates_nothing(tmp_path: Path) -> None:
    assert embedded(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_without_a_server_the_embedded_store_is_in_memory_which_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = embedded(tmp_path)
    assert found.error is None
    assert "in memory" in found.text


def test_without_any_server_there_is_no_embedded_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "fakeredis", None)
    (found,) = embedded(tmp_path)
    assert found.error is StoreUnavailableError
    assert "pip install 'ffsuper[embedded]'" in found.text


def test_a_data_folder_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    (found,) = embedded(tmp_path)
    assert found.error is not None
    assert f"nothing can be written into {tmp_path / 'new'}" in found.text


# --- the report


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([], "no problems, no warnings"),
        ([problem("a")], "1 problem, no warnings"),
        ([warning("a"), problem("b"), warning("c")], "1 problem, 2 warnings"),
    ],
)
def test_the_summary_counts(findings: list[Finding], expected: str) -> None:
    assert Report(findings=findings).summary() == expected
