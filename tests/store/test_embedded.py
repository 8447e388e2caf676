"""The store that needs no server: real server processes, and the one in Python."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ffsuper.config import StoreConfig
from ffsuper.errors import StoreUnavailableError, StoreUnsuitableError
from ffsuper.store import embedded, embedded_server, libraries, loading
from ffsuper.store.wire import ServerWire


def ask(settings: StoreConfig, *command: str) -> object:
    wire = ServerWire(settings, "test")
    try:
        return libraries.reply_to(wire, *command)
    finally:
        wire.close()


def embedded_in(folder: Path) -> StoreConfig:
    return StoreConfig(url="embedded", data_dir=folder / "data")


def test_other_urls_are_left_as_they_are() -> None:
    settings = StoreConfig(url="redis://somewhere")
    with embedded.reachable(settings) as reached:
        assert reached is settings


def test_what_was_written_is_there_again_after_a_restart(tmp_path: Path) -> None:
    with embedded.reachable(embedded_in(tmp_path)) as settings:
        assert settings.url.startswith("unix://")
        ask(settings, "SET", "kept", "yes")
    with embedded.reachable(embedded_in(tmp_path)) as settings:
        assert ask(settings, "GET", "kept") == b"yes"


def test_a_second_opener_uses_the_same_server(tmp_path: Path) -> None:
    with embedded.reachable(embedded_in(tmp_path)) as first, embedded.reachable(embedded_in(tmp_path)) as second:
        assert first.url == second.url
        ask(first, "SET", "shared", "yes")
        assert ask(second, "GET", "shared") == b"yes"


def test_a_long_path_is_no_obstacle_and_its_socket_is_where_nobody_else_can_put_one(tmp_path: Path) -> None:
    folder, urls = tmp_path / ("long" * 40), set[str]()
    for _ in range(2):
        with embedded.reachable(embedded_in(folder)) as settings:
            assert ask(settings, "PING") == b"PONG"
            place = Path(settings.url.removeprefix("unix://")).parent
            assert (stat.S_IMODE(place.stat().st_mode), place.stat().st_uid) == (0o700, os.geteuid())
            urls.add(settings.url)
        assert not place.exists()
    assert len(urls) == 2


def test_a_client_without_a_worker_is_told_to_start_one(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreUnavailableError, match=r"no worker is running on the embedded store in .*start one"),
        embedded.reachable(embedded_in(tmp_path), owner=False),
    ):
        pytest.fail("opened")


def test_a_client_may_open_data_that_a_worker_has_left(tmp_path: Path) -> None:
    with embedded.reachable(embedded_in(tmp_path)) as settings:
        ask(settings, "SET", "kept", "yes")
    with embedded.reachable(embedded_in(tmp_path), owner=False) as settings:
        assert ask(settings, "GET", "kept") == b"yes"


def test_the_server_ends_with_its_owner_however_that_ends(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from ffsuper.config import StoreConfig\n"
        "from ffsuper.store import embedded\n"
        "with embedded.reachable(StoreConfig(url='embedded', data_dir=Path(sys.argv[1]))):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "data")], check=False)
    with embedded.reachable(embedded_in(tmp_path)) as settings:
        assert ask(settings, "PING") == b"PONG"


def without_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def test_without_a_server_on_path_the_one_in_python_is_used_with_a_loud_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_servers(monkeypatch, tmp_path)
    with embedded.reachable(embedded_in(tmp_path)) as settings:
        assert settings.url.startswith("redis://127.0.0.1:")
        wire = ServerWire(settings, "test")
        loading.prepare(wire, "auto")
        assert libraries.reply_to(wire, "FCALL", "ff_version", 0) == b"5"
        wire.close()
    assert "EMBEDDED STORE IN MEMORY" in caplog.text


def only_server(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Put a program named redis-server alone on PATH."""
    program = folder / "bin" / "redis-server"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


@pytest.mark.parametrize(("version", "usable"), [("6.2.14", False), ("7.0.15", True), ("8.1.0", True)])
def test_servers_that_are_too_old_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, usable: bool
) -> None:
    program = only_server(tmp_path, monkeypatch, f"echo 'Redis server v={version} sha=00000000'")
    assert embedded_server.server_program() == (str(program) if usable else None)


def test_a_server_that_does_not_start_is_reported_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_server(tmp_path, monkeypatch, "case $1 in --version) echo 'Redis server v=7.0.15';; *) exit 1;; esac")
    with (
        pytest.raises(StoreUnavailableError, match=r"did not start: see .*server\.log"),
        embedded.reachable(embedded_in(tmp_path)),
    ):
        pytest.fail("opened")


def test_what_is_stored_is_for_our_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFSUPER_STORE_PASSWORD_FILE", "/somewhere")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/somewhere")
    (tmp_path / "data" / "appendonlydir").mkdir(parents=True)  # as an earlier release has left them
    with embedded.reachable(embedded_in(tmp_path / "new")) as settings:
        data = tmp_path / "new" / "data"
        ask(settings, "SET", "kept", "yes")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (data, *data.iterdir())}
        assert modes["data"] == 0o700
        assert {modes[name] & 0o077 for name in ("store.sock", "appendonlydir", "server.log")} == {0}
        info = ask(settings, "INFO", "server")
        assert isinstance(info, bytes)
        (process_id,) = re.findall(rb"process_id:(\d+)", info)
        assert b"/somewhere" not in Path(f"/proc/{process_id.decode()}/environ").read_bytes()
    with embedded.reachable(embedded_in(tmp_path)):
        assert stat.S_IMODE((tmp_path / "data" / "appendonlydir").stat().st_mode) == 0o700


def test_a_folder_in_which_others_could_be_the_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = embedded_in(tmp_path)
    settings.data_dir.mkdir()
    settings.data_dir.chmod(0o777)
    with pytest.raises(StoreUnsuitableError, match="everybody may write to"), embedded.reachable(settings):
        pass
    settings.data_dir.chmod(0o755)
    users = os.stat_result((*settings.data_dir.stat()[:4], 12_345, *settings.data_dir.stat()[5:]))
    monkeypatch.setattr(Path, "stat", lambda _: users)
    monkeypatch.setattr(os, "geteuid", lambda: 12_346)
    with pytest.raises(StoreUnsuitableError, match="is another user's"), embedded.reachable(settings):
        pass
    for whose in (12_345, 0):  # root may look into any worker's
        monkeypatch.setattr(os, "geteuid", lambda whose=whose: whose)
        embedded.make_private_folder(settings.data_dir)
