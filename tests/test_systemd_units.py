"""The unit outwaits the drain, starts what exists, and has no option that systemd would ignore."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from ffsuper.cli import Exit
from ffsuper.config import ChildrenConfig, DrainConfig
from ffsuper.config_loader import load
from ffsuper.server_supervisor import GRACE_S, STALLED_S
from tests.config_files import config

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "systemd" / "ffsuper.service"
SERVER = ROOT / "systemd" / "ffsuper-server.service"

# systemd ignores what it does not know, with a line in its log that nobody reads.
KNOWN = {
    "Unit": "Description Wants After StartLimitIntervalSec",
    "Service": """
        Type ExecStart KillMode TimeoutStopSec Restart RestartSec RestartPreventExitStatus SuccessExitStatus OOMPolicy
        DynamicUser StateDirectory WorkingDirectory Environment LoadCredential CapabilityBoundingSet LockPersonality
        ProtectControlGroups ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables
        RestrictRealtime UMask
    """,
    "Install": "WantedBy",
}
KNOWN_OF_SERVER = """
    LimitNOFILE MemoryDenyWriteExecute PrivateDevices ProtectClock ProtectProc RestrictAddressFamilies
    RestrictNamespaces
"""


def options(text: str) -> dict[str, dict[str, str]]:
    """Return section to option to value; every option stands once, but for a list of credentials."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, separator, value = line.partition("=")
            assert separator, line
            assert name not in found[section] or name == "LoadCredential", name
            found[section][name] = value
    return found


@pytest.fixture
def service() -> dict[str, str]:
    return options(UNIT.read_text(encoding="utf-8"))["Service"]


def complaints(unit: Path) -> list[str]:
    """Return what is wrong with a unit: in systemd's own words, or by our list where there is no systemd."""
    if shutil.which("systemd-analyze"):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.stderr.splitlines() or [f"exit code {done.returncode}"] * bool(done.returncode)
    return [
        f"{section}: {name}"
        for section, settings in options(unit.read_text(encoding="utf-8")).items()
        for name in settings
        if name not in f"{KNOWN[section]} {KNOWN_OF_SERVER}".split()
    ]


def installed(folder: Path, text: str) -> Path:
    """Write a unit whose program exists, as it does where the unit is installed."""
    unit = folder / "ffsuper.service"
    unit.write_text(re.sub("^ExecStart=/opt/ffsuper/bin/ffsuper ", "ExecStart=/bin/sh ", text, flags=re.MULTILINE))
    return unit


@pytest.mark.parametrize("unit", [UNIT, SERVER], ids=lambda unit: unit.stem)
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, unit: Path) -> None:
    assert complaints(installed(tmp_path, unit.read_text(encoding="utf-8"))) == []


def test_a_misspelt_option_would_be_found(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8").replace("KillMode=", "KilMode=")
    (complaint,) = complaints(installed(tmp_path, text))
    assert "KilMode" in complaint


def test_the_unit_has_only_known_options() -> None:
    found = options(UNIT.read_text(encoding="utf-8"))
    assert {section: sorted(settings) for section, settings in found.items()} == {
        section: sorted(names.split()) for section, names in KNOWN.items()
    }


def test_the_unit_outwaits_the_drain_and_the_kill(service: dict[str, str]) -> None:
    production = load(ROOT / "config" / "worker.toml", {}).config
    for drain, children in ((DrainConfig(), ChildrenConfig()), (production.drain, production.children)):
        assert float(service["TimeoutStopSec"]) > drain.timeout_s + children.grace_s


def test_the_unit_starts_the_worker_as_documented(service: dict[str, str]) -> None:
    assert service["ExecStart"] == "/opt/ffsuper/bin/ffsuper --config /etc/ffsuper/worker.toml"


def test_the_signal_to_stop_goes_to_the_supervisor_and_the_kill_to_all(service: dict[str, str]) -> None:
    assert service["KillMode"] == "mixed"


def test_a_child_killed_for_memory_leaves_the_worker_running(service: dict[str, str]) -> None:
    assert service["OOMPolicy"] == "continue"


def test_a_wrong_configuration_is_not_started_again(service: dict[str, str]) -> None:
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == str(int(Exit.CONFIG))


def test_work_handed_back_is_no_failure(service: dict[str, str]) -> None:
    assert service["SuccessExitStatus"] == str(int(Exit.HANDED_BACK))


def test_the_credential_is_the_one_that_the_worker_reads(service: dict[str, str], tmp_path: Path) -> None:
    name, _, _ = service["LoadCredential"].partition(":")
    (tmp_path / name).write_text("hush")
    least = '[worker]\nhandlers = ["app"]'
    assert config(tmp_path, least, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).store.password == "hush"


def test_the_embedded_store_keeps_its_data_in_the_state_directory(service: dict[str, str], tmp_path: Path) -> None:
    name, _, value = service["Environment"].replace("%S", "/var/lib").partition("=")
    settings = config(tmp_path, '[worker]\nhandlers = ["app"]', {name: value})
    assert settings.store.data_dir.parent == Path("/var/lib", service["StateDirectory"])


def test_the_servers_unit_outwaits_its_end_and_starts_it_as_documented() -> None:
    server = options(SERVER.read_text(encoding="utf-8"))["Service"]
    assert float(server["TimeoutStopSec"]) > GRACE_S + STALLED_S
    assert server["ExecStart"] == "/opt/ffsuper/bin/ffsuper server --config /etc/ffsuper/worker.toml"
    assert server["RestartPreventExitStatus"] == str(int(Exit.CONFIG))


def test_the_servers_credentials_are_those_that_it_reads(tmp_path: Path) -> None:
    names = re.findall("^LoadCredential=([a-z_]+):", SERVER.read_text(encoding="utf-8"), re.MULTILINE)
    for name in names:
        (tmp_path / name).write_text(f"hush-{name}")
    found = config(tmp_path, '[worker]\nhandlers = ["app"]', {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert (found.store.password, found.server.token) == ("hush-store_password", "hush-server_token")
