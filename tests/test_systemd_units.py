"""The units outwait the drain, start what exists, give away little, and have no option that systemd would ignore."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from ffsuper.cli import Exit
from ffsuper.config import ChildrenConfig, Config, DrainConfig
from ffsuper.config_loader import load
from ffsuper.server_supervisor import GRACE_S, STALLED_S
from ffsuper.store.embedded_server import START_S
from tests.config_files import config

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "systemd"
WORKER, INSTANCE, SERVER = (FOLDER / f"{name}.service" for name in ("ffsuper", "ffsuper@", "ffsuper-server"))
UNITS = (WORKER, INSTANCE, SERVER)
WORKERS = (WORKER, INSTANCE)
NOTIFY_RELOAD, RELAXED = (FOLDER / f"{name}.conf" for name in ("notify-reload", "relaxed"))
LEAST = '[worker]\nhandlers = ["app"]'
# What systemd-analyze gives: 0 is locked up, 10 open.
HIGHEST_EXPOSURE = 2.0
NOTIFY_RELOAD_SINCE = 253
LONGEST_USER_NAME = 31

# systemd ignores what it does not know, with a line in its log that nobody reads.
KNOWN = {
    "Unit": "Description Wants After StartLimitIntervalSec",
    "Service": """
        Type NotifyAccess ExecStart ExecReload TimeoutStartSec WatchdogSec TimeoutAbortSec KillMode TimeoutStopSec
        Restart RestartSec RestartPreventExitStatus SuccessExitStatus OOMPolicy LimitNOFILE
        DynamicUser User StateDirectory WorkingDirectory Environment LoadCredential
        CapabilityBoundingSet LockPersonality MemoryDenyWriteExecute PrivateDevices PrivateIPC PrivateUsers
        ProtectClock ProtectControlGroups ProtectHome ProtectHostname ProtectKernelLogs ProtectKernelModules
        ProtectKernelTunables ProtectProc RestrictAddressFamilies RestrictNamespaces RestrictRealtime
        SystemCallArchitectures SystemCallErrorNumber SystemCallFilter UMask
    """,
    "Install": "WantedBy",
}
REPEATED = {"Environment", "LoadCredential", "SystemCallFilter"}

Options = dict[str, list[str]]


def sections(text: str) -> dict[str, Options]:
    """Return section to option to values; an option stands once, unless it is one of a list."""
    found: dict[str, Options] = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, separator, value = line.partition("=")
            assert separator, line
            assert name not in found[section] or name in REPEATED, name
            found[section][name].append(value)
    return found


def service(unit: Path, instance: str = "") -> Options:
    """Return what a unit says about its service, as for an instance on a host called h."""
    text = unit.read_text(encoding="utf-8").replace("%i", instance).replace("%S", "/var/lib").replace("%H", "h")
    return sections(text)["Service"]


def environment(options: Options) -> dict[str, str]:
    return dict(one.split("=", 1) for one in options["Environment"])


def with_credentials(folder: Path, options: Options, *stored: str) -> Config:
    """Load a configuration as a unit does when these files are in /etc/credstore; each has its own name in it."""
    for id_, _, file in (one.partition(":") for one in options["LoadCredential"]):
        if file in stored:
            (folder / id_).write_text(file)
    return config(folder, LEAST, {"CREDENTIALS_DIRECTORY": str(folder)})


@cache
def systemd_version() -> int:
    """Return the version of the systemd that is installed; 0 when there is none."""
    if not shutil.which("systemd-analyze"):
        return 0
    told = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    return int(told.split()[1])


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *arguments]
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def complaints(unit: Path) -> list[str]:
    """Return what is wrong with a unit: in systemd's own words, or by our list where there is no systemd."""
    if systemd_version():
        done = analyze("verify", "--man=no", "--recursive-errors=no", unit)
        return done.stderr.splitlines() or [f"exit code {done.returncode}"] * bool(done.returncode)
    return [
        f"{section}: {name}"
        for file in (unit, *unit.with_name(f"{unit.name}.d").glob("*"))
        for section, options in sections(file.read_text(encoding="utf-8")).items()
        for name in options
        if name not in KNOWN[section].split()
    ]


def installed(folder: Path, unit: Path, *drop_ins: Path, text: str | None = None) -> Path:
    """Install a unit whose program exists; of the template an instance."""
    there = folder / unit.name.replace("@", "@images")
    text = unit.read_text(encoding="utf-8") if text is None else text
    there.write_text(re.sub("^ExecStart=/opt/ffsuper/bin/ffsuper ", "ExecStart=/bin/sh ", text, flags=re.MULTILINE))
    for drop_in in drop_ins:
        shutil.copy(drop_in, folder / f"{there.name}.d")
    return there


by_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
by_worker = pytest.mark.parametrize("unit", WORKERS, ids=lambda unit: unit.stem)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Provide what stands for /etc/systemd/system."""
    for unit in UNITS:
        (tmp_path / f"{unit.name.replace('@', '@images')}.d").mkdir()
    return tmp_path


@by_unit
def test_systemd_finds_nothing_wrong_with_the_unit(folder: Path, unit: Path) -> None:
    assert complaints(installed(folder, unit)) == []


@by_unit
def test_systemd_finds_nothing_wrong_with_the_unit_when_it_is_relaxed(folder: Path, unit: Path) -> None:
    assert complaints(installed(folder, unit, RELAXED)) == []


@by_worker
def test_only_a_systemd_that_is_too_old_minds_the_reload_that_is_waited_for(folder: Path, unit: Path) -> None:
    found = complaints(installed(folder, unit, NOTIFY_RELOAD))
    if 0 < systemd_version() < NOTIFY_RELOAD_SINCE:
        (complaint,) = found
        assert complaint.endswith("Failed to parse service type, ignoring: notify-reload")
    else:
        assert found == []


def test_a_misspelt_option_would_be_found(folder: Path) -> None:
    text = WORKER.read_text(encoding="utf-8").replace("KillMode=", "KilMode=")
    (complaint,) = complaints(installed(folder, WORKER, text=text))
    assert "KilMode" in complaint


def test_our_list_has_the_options_that_are_used_and_no_others() -> None:
    used: dict[str, set[str]] = defaultdict(set)
    for file in (*UNITS, NOTIFY_RELOAD, RELAXED):
        for section, options in sections(file.read_text(encoding="utf-8")).items():
            used[section] |= set(options)
    assert used == {section: set(names.split()) for section, names in KNOWN.items()}


@by_unit
def test_the_unit_gives_little_away(folder: Path, unit: Path) -> None:
    if not systemd_version():
        pytest.skip("systemd-analyze is not installed")
    told = analyze("security", "--offline=true", "--no-pager", installed(folder, unit)).stdout
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", told)
    assert float(exposure) <= HIGHEST_EXPOSURE


@by_worker
def test_the_unit_outwaits_the_drain_and_the_kill(unit: Path) -> None:
    production = load(ROOT / "config" / "worker.toml", {}).config
    (limit,) = service(unit)["TimeoutStopSec"]
    for drain, children in ((DrainConfig(), ChildrenConfig()), (production.drain, production.children)):
        assert float(limit) > drain.timeout_s + children.grace_s


@by_worker
def test_the_unit_outwaits_the_start_of_the_store_and_of_a_child(unit: Path) -> None:
    (limit,) = service(unit)["TimeoutStartSec"]
    assert float(limit) > START_S + ChildrenConfig().boot_timeout_s


@pytest.mark.parametrize(
    ("unit", "command"),
    [
        (WORKER, "/opt/ffsuper/bin/ffsuper --config /etc/ffsuper/worker.toml"),
        (INSTANCE, "/opt/ffsuper/bin/ffsuper --config /etc/ffsuper/images.toml"),
        (SERVER, "/opt/ffsuper/bin/ffsuper server --config /etc/ffsuper/worker.toml"),
    ],
)
def test_the_unit_starts_the_program_as_documented(unit: Path, command: str) -> None:
    assert service(unit, "images")["ExecStart"] == [command]


@by_unit
def test_the_program_itself_tells_systemd_how_it_is(unit: Path) -> None:
    options = service(unit)
    assert (options["Type"], options["NotifyAccess"]) == (["notify"], ["main"])
    assert float(options["WatchdogSec"][0]) > 0


@by_worker
def test_a_reload_is_a_hangup_and_notify_reload_brings_its_own(unit: Path) -> None:
    assert service(unit)["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert service(NOTIFY_RELOAD) == {"Type": ["notify-reload"], "ExecReload": [""]}


@by_worker
def test_the_signal_to_stop_goes_to_the_supervisor_and_the_kill_to_all(unit: Path) -> None:
    assert service(unit)["KillMode"] == ["mixed"]


@by_worker
def test_a_child_killed_for_memory_leaves_the_worker_running(unit: Path) -> None:
    assert service(unit)["OOMPolicy"] == ["continue"]


@by_unit
def test_a_wrong_configuration_is_not_started_again(unit: Path) -> None:
    assert service(unit)["Restart"] == ["on-failure"]
    assert service(unit)["RestartPreventExitStatus"] == [str(int(Exit.CONFIG))]


@by_worker
def test_work_handed_back_is_no_failure(unit: Path) -> None:
    assert service(unit)["SuccessExitStatus"] == [str(int(Exit.HANDED_BACK))]


@pytest.mark.parametrize(("unit", "state"), [(WORKER, "ffsuper"), (INSTANCE, "ffsuper@images")])
def test_the_embedded_store_and_the_handlers_keep_their_data_in_the_state_directory(
    unit: Path, state: str, tmp_path: Path
) -> None:
    options = service(unit, "images")
    assert options["StateDirectory"] == [state]
    assert options["WorkingDirectory"] == [environment(options)["HOME"]] == [f"/var/lib/{state}"]
    settings = config(tmp_path, LEAST, environment(options))
    assert settings.store.data_dir.parent == Path("/var/lib", state)


def test_the_template_is_the_unit_but_for_what_each_instance_has_of_its_own() -> None:
    one, other, single = service(INSTANCE, "a"), service(INSTANCE, "b"), service(WORKER)
    own = {name for name in one if one[name] != other[name]}
    assert own == {"ExecStart", "User", "StateDirectory", "WorkingDirectory", "Environment", "LoadCredential"}
    assert {name: one[name] for name in one.keys() - own} == {name: single[name] for name in single.keys() - own}
    for name in own - {"LoadCredential", "User"}:
        assert set(one[name]).isdisjoint(other[name])
        assert set(one[name]).isdisjoint(single[name])


def test_no_state_directory_is_in_another() -> None:
    """Otherwise systemd starts only the one that was first: the other's link is in the way."""
    folders = [Path(service(unit, name)["StateDirectory"][0]) for unit, name in ((WORKER, ""), (INSTANCE, "store"))]
    assert not [one for one in folders for other in folders if one in other.parents]


def test_instances_have_different_users_and_instance_ids(tmp_path: Path) -> None:
    one, other = service(INSTANCE, "a"), service(INSTANCE, "b")
    assert (one["User"], other["User"]) == (["ffsuper_a"], ["ffsuper_b"])
    assert config(tmp_path, LEAST, environment(one)).worker.instance_id == "a@h"
    (user,) = service(INSTANCE, "x" * 23)["User"]
    assert len(user) == LONGEST_USER_NAME


def test_the_workers_credentials_are_those_that_it_reads(tmp_path: Path) -> None:
    found = with_credentials(tmp_path, service(WORKER), "ffsuper.store_password", "ffsuper.claim_token")
    assert (found.store.password, found.claim.token) == ("ffsuper.store_password", "ffsuper.claim_token")


def test_an_instance_has_its_own_credentials_or_else_the_shared_ones(tmp_path: Path) -> None:
    stored = ("ffsuper.store_password", "ffsuper@b.store_password", "ffsuper@a.claim_token", "ffsuper.claim_token")
    found = with_credentials(tmp_path, service(INSTANCE, "a"), *stored)
    assert (found.store.password, found.claim.token) == ("ffsuper.store_password", "ffsuper@a.claim_token")


def test_the_servers_credentials_are_those_that_it_reads(tmp_path: Path) -> None:
    found = with_credentials(tmp_path, service(SERVER), "ffsuper.store_password", "ffsuper.server_token")
    assert (found.store.password, found.server.token) == ("ffsuper.store_password", "ffsuper.server_token")


def test_the_servers_unit_outwaits_its_end() -> None:
    (limit,) = service(SERVER)["TimeoutStopSec"]
    assert float(limit) > GRACE_S + STALLED_S


def test_relaxing_takes_back_nothing_that_the_units_do_not_have() -> None:
    relaxed = service(RELAXED)
    assert relaxed.keys() <= service(WORKER).keys()
    assert not [name for name in relaxed if relaxed[name] == service(WORKER)[name]]
