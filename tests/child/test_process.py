"""Children as real processes: how they begin and die, what they print, what they hold."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import trio

from ffsuper.child.orphans import is_running, kill_orphans
from ffsuper.child.server_process import ForkServerSettings
from ffsuper.clock import boottime_s
from ffsuper.errors import ChildError, ForkServerGoneError, HandlersError, RemoteProtocolError, first_cause
from ffsuper.messages import Completed, InterruptReason, Progress
from tests.child.children import LIMIT_S, SETTINGS, Output, ask, hear, one_child, serving, start

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


@pytest.mark.parametrize(
    ("how", "exit_code", "by_signal"),
    [("exit", 0, None), ("code", 7, None), ("segfault", None, signal.SIGSEGV), ("kill", None, signal.SIGKILL)],
)
async def test_a_death_is_told_with_its_cause_and_the_last_words(
    how: str, exit_code: int | None, by_signal: int | None
) -> None:
    async with one_child() as child:
        assert await ask(child, "die", how) is None
        death = await child.wait_dead()
        assert (death.exit_code, death.signal) == (exit_code, by_signal)
        assert "last words" in [line.text for line in death.last_output]
        assert death.peak_memory_bytes > 1_000_000
        assert child.is_dead


async def test_descendants_die_with_their_child_and_delay_nothing() -> None:
    async with one_child() as child:
        progress = await ask(child, "grandchild")
        assert isinstance(progress, Progress)
        assert await hear(child) is None
        await child.wait_dead()
        left = psutil.pid_exists(int(progress.message)) and psutil.Process(int(progress.message)).status()
        assert left in (False, psutil.STATUS_ZOMBIE)


async def test_output_is_handed_on_line_by_line_and_the_last_lines_are_kept() -> None:
    output: Output = []
    async with one_child(output) as child:
        assert await ask(child, "print", 100) == Completed(b"")
        child.kill()
        death = await child.wait_dead()
        assert [line for _, stream, line in output if stream == "stdout"] == [f"line {n}" for n in range(100)]
        assert (child.pid, "stderr", "an error") in output
        assert len(death.last_output) == 50


async def test_a_flood_of_output_neither_blocks_nor_fills_memory() -> None:
    async with serving() as server:
        child = await server.spawn()
        before = psutil.Process().memory_info().rss
        assert await ask(child, "flood", 64) == Completed(b'"flooded"')
        assert psutil.Process().memory_info().rss - before < 200 << 20
        await child.aclose()


async def test_a_child_that_babbles_is_refused_and_can_be_killed() -> None:
    async with one_child() as child:
        with pytest.raises(RemoteProtocolError, match="not an object"):
            await ask(child, "garbage")
        child.kill()
        assert (await child.wait_dead()).signal == signal.SIGKILL


async def test_a_child_that_closes_its_descriptors_is_at_its_end_and_can_be_killed() -> None:
    async with one_child() as child:
        assert await ask(child, "close-all") is None
        child.kill()
        assert (await child.wait_dead()).signal == signal.SIGKILL


@pytest.mark.parametrize("kind", ["block-signals", "hold-gil"])
async def test_nothing_that_user_code_does_survives_a_kill(kind: str) -> None:
    async with one_child() as child:
        await child.send(start(kind))
        if kind == "hold-gil":
            await hear(child)
        child.interrupt(1, InterruptReason.TIMEOUT)
        child.kill()
        assert (await child.wait_dead()).signal == signal.SIGKILL


async def test_stacks_can_be_dumped_even_while_the_interpreter_is_held() -> None:
    async with one_child() as child:
        await ask(child, "hold-gil")
        child.dump_stacks()
        child.kill()
        death = await child.wait_dead()
        assert any("hold_gil" in line.text for line in death.stack_dump) or death.signal == signal.SIGKILL


async def test_a_stopped_child_can_be_killed() -> None:
    async with one_child() as child:
        os.kill(child.pid, signal.SIGSTOP)
        child.kill()
        assert (await child.wait_dead()).signal == signal.SIGKILL


async def test_closing_an_idle_child_lets_it_leave_by_itself() -> None:
    async with serving() as server:
        child = await server.spawn()
        await child.aclose()
        assert (await child.wait_dead()).exit_code == 0


async def test_a_child_holds_no_descriptors_but_its_own() -> None:
    async with one_child() as child:
        result = await ask(child, "descriptors")
        assert isinstance(result, Completed)
        found = json.loads(result.result)
        assert found["0"] == "/dev/null"
        assert sorted(link.split(":")[0] for link in found.values()) == [
            "/dev/null",
            "pipe",
            "pipe",
            "pipe",
            "socket",
        ]


async def test_a_child_sees_the_environment_it_is_given_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FFSUPER_STORE_PASSWORD", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with serving(replace(SETTINGS, environment={"MODE": "test"})) as server:
        child = await server.spawn()
        result = await ask(child, "environment")
        assert isinstance(result, Completed)
        found = json.loads(result.result)
        assert found["MODE"] == "test"
        assert "secret" not in result.result.decode()
        assert "PATH" in found
        await child.aclose()


async def test_a_child_loads_nothing_but_the_standard_library_until_user_code_asks() -> None:
    async with one_child() as child:
        result = await ask(child, "modules")
        assert isinstance(result, Completed)
        assert not {"trio", "redis", "cattrs", "attrs", "psutil", "outcome"} & set(json.loads(result.result))


@pytest.mark.parametrize("preload", [True, False])
async def test_handlers_that_do_not_import_are_reported_with_module_error_and_traceback(
    preload: bool, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    settings = ForkServerSettings(("broken",), python_path=(tmp_path,), preload=preload)
    told = r"module 'broken' does not import: ModuleNotFoundError.*no_such_module"
    with pytest.RaisesGroup(pytest.RaisesExc(HandlersError, match=told), flatten_subgroups=True):
        async with serving(settings) as server:
            await server.spawn()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("x = 1", "no handler is registered by jobs"),
        ("import sys; sys.exit(3)", "module 'jobs' does not import: SystemExit: 3"),
        ("def broken(:", "module 'jobs' does not import: SyntaxError"),
        (
            "from ffsuper import handler\n@handler('a')\ndef one(ctx): ...\n@handler('a')\ndef two(ctx): ...",
            r"kind 'a' is registered twice: .*jobs.py:2 \(one\) and .*jobs.py:4 \(two\)",
        ),
        ("from ffsuper import handler\n@handler('')\ndef one(ctx): ...", "kind must be a non-empty text"),
        (
            "from ffsuper import handler\n@handler('a')\ndef one(): ...",
            r"takes \(\), not \(ctx\) or \(ctx, payload\)",
        ),
        ("from ffsuper import handler\n@handler('a')\ndef one(a, b, c): ...", r"takes \(a, b, c\), not"),
        ("from ffsuper import handler\n@handler('a', timeout_s=0)\ndef one(a): ...", "timeout_s must be positive"),
    ],
)
async def test_bad_handlers_are_told_apart(source: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(source)
    with pytest.RaisesGroup(pytest.RaisesExc(HandlersError, match=told), flatten_subgroups=True):
        async with serving(ForkServerSettings(("jobs",), python_path=(tmp_path,))) as server:
            await server.spawn()


async def test_handlers_that_start_threads_when_imported_still_work(tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(
        textwrap.dedent(
            """
            import threading, time
            from ffsuper import handler
            threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()

            @handler("count")
            def count(ctx):
                return threading.active_count()
            """
        )
    )
    async with serving(ForkServerSettings(("threaded",), python_path=(tmp_path,))) as server:
        child = await server.spawn()
        assert await ask(child, "count") == Completed(b"2")
        await child.aclose()


async def test_a_child_that_dies_while_starting_is_no_child(tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text("import os; print('going', flush=True); os._exit(9)\n")
    settings = ForkServerSettings(("deadly",), python_path=(tmp_path,), preload=False)
    with pytest.RaisesGroup(
        pytest.RaisesExc(ChildError, match="died while starting, exit code 9\ngoing"), flatten_subgroups=True
    ):
        async with serving(settings) as server:
            await server.spawn()


async def test_a_child_that_is_not_ready_in_time_shows_where_it_hangs_and_is_killed(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(3600)\n")
    settings = ForkServerSettings(("slow",), python_path=(tmp_path,), preload=False, boot_timeout_s=1.0)
    told = r"was not ready within 1 s \(\[children\] boot_timeout_s\)\n.*\n  File \".*slow.py\", line 1 in <module>"
    with pytest.RaisesGroup(pytest.RaisesExc(ChildError, match=told), flatten_subgroups=True):
        async with serving(settings) as server:
            await server.spawn()


async def test_a_fork_server_that_hangs_in_an_import_shows_where(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(3600)\n")
    settings = ForkServerSettings(("slow",), python_path=(tmp_path,), boot_timeout_s=2.0)
    told = r"fork server, which imports the handlers, was not ready within 2 s"
    with pytest.RaisesGroup(pytest.RaisesExc(ChildError, match=told), flatten_subgroups=True):
        async with serving(settings) as server:
            await server.spawn()
    assert f'File "{tmp_path}/slow.py", line 1' in capfd.readouterr().err


@pytest.mark.parametrize(
    ("end", "told"),
    [("os._exit(3)", "exited with code 3"), ("os.kill(os.getpid(), 9)", "was killed by SIGKILL")],
)
async def test_a_fork_server_that_ends_in_an_import_is_told_with_how(tmp_path: Path, end: str, told: str) -> None:
    (tmp_path / "deadly.py").write_text(f"import os; {end}\n")
    with pytest.RaisesGroup(pytest.RaisesExc(ChildError, match=told), flatten_subgroups=True):
        async with serving(ForkServerSettings(("deadly",), python_path=(tmp_path,))) as server:
            await server.spawn()


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize(
    ("source", "traceback"),
    [
        (None, ""),
        ("import no_such", '\nTraceback (most recent call last):\n  File "{here}/jobs.py", line 1, in <module>\n'),
        ("def broken(:", '\n  File "{here}/jobs.py", line 1\n    def broken(:\n'),
    ],
    ids=["missing", "error", "syntax"],
)
async def test_the_traceback_of_an_import_begins_with_the_users_first_line(
    tmp_path: Path, source: str | None, traceback: str, preload: bool
) -> None:
    if source is not None:
        (tmp_path / "jobs.py").write_text(source)
    with pytest.RaisesGroup(HandlersError, flatten_subgroups=True) as raised:
        async with serving(ForkServerSettings(("jobs",), python_path=(tmp_path,), preload=preload)) as server:
            await server.spawn()
    _, line_end, rest = str(first_cause(raised.value)).partition("\n")
    assert (line_end + rest).startswith(traceback.format(here=tmp_path))
    assert bool(rest) == bool(traceback)


async def test_the_fork_servers_death_is_the_death_of_all_its_children() -> None:
    async with serving() as server:
        children = [await server.spawn() for _ in range(2)]
        (process,) = [one for one in psutil.Process().children() if "ffsuper.child.forkserver" in one.cmdline()]
        process.kill()
        for child in children:
            assert await hear(child) is None
            assert (await child.wait_dead()).signal == signal.SIGKILL
        with pytest.raises(ChildError, match="fork server"):
            await server.spawn()


SUPERVISOR = """
import sys, trio
from ffsuper.child.server_process import ForkServerSettings
from ffsuper.child.spawning import open_fork_server
from tests.child.children import start

async def main():
    settings = ForkServerSettings(("tests.child.handlers_for_tests",), owner="worker-1")
    async with open_fork_server(settings, lambda *line: None) as server:
        child = await server.spawn()
        await child.send(start("hold-gil", b""))
        await child.receive()
        print(child.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def test_children_die_with_a_killed_supervisor_even_while_they_hold_the_interpreter() -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    with supervisor.stdout:
        child = psutil.Process(int(supervisor.stdout.readline()))
        fork_server = child.parent()
        assert fork_server is not None
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait()
        _, alive = psutil.wait_procs([child, fork_server], timeout=10)
        assert not alive


def test_a_child_dies_with_its_supervisor_though_the_fork_server_is_stopped() -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    with supervisor.stdout:
        child = psutil.Process(int(supervisor.stdout.readline()))
        fork_server = child.parent()
        assert fork_server is not None
        fork_server.suspend()
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait()
        # Nobody reaps it while the fork server is stopped: dead is a zombie here.
        give_up_s = time.monotonic() + 10
        while child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < give_up_s
        fork_server.resume()
        fork_server.wait(10)


async def test_a_daemon_in_its_own_session_dies_with_its_child() -> None:
    async with one_child() as child:
        progress = await ask(child, "daemon")
        assert isinstance(progress, Progress)
        process = psutil.Process(int(progress.message))
        child.kill()
        await child.wait_dead()
        assert not process.is_running()


def test_what_a_dead_supervisor_has_left_is_found_by_its_mark_and_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = psutil.Process(int(supervisor.stdout.readline()))
        server = child.parent()
        assert server is not None
        server.suspend()  # it cannot obey when its supervisor dies
        supervisor.kill()
    assert is_running(server)
    assert kill_orphans("worker-2", supervisor.pid, 5.0)
    assert is_running(server)
    assert kill_orphans("worker-1", supervisor.pid, 5.0)
    assert not is_running(server)
    assert not is_running(child)


async def test_the_children_of_this_very_process_are_no_orphans() -> None:
    async with one_child(settings=replace(SETTINGS, owner="worker-1")) as child:
        assert kill_orphans("worker-1", os.getpid(), 5.0)
        assert await ask(child, "print", 1) == Completed(b"")


async def test_a_child_is_killed_when_its_time_is_up_though_nobody_asks_for_it_and_another_is_not() -> None:
    async with serving() as server:
        due, extended = await server.spawn(), await server.spawn()
        await due.send(start("sleep", 600))
        soon_s = boottime_s() + 0.2
        extended.lifespan.put(soon_s)
        due.lifespan.put(soon_s)
        extended.lifespan.put(soon_s + 600)
        death = await due.wait_dead()
        assert (death.signal, death.was_overdue) == (signal.SIGKILL, True)
        assert boottime_s() >= soon_s
        assert await ask(extended, "echo", b"alive") == Completed(b"alive")
        for child in (due, extended):
            await child.aclose()


async def test_a_child_that_we_have_killed_was_not_overdue_and_its_place_is_used_again() -> None:
    async with serving() as server:
        first = await server.spawn()
        first.lifespan.put(boottime_s() + 600)
        first.kill()
        assert not (await first.wait_dead()).was_overdue
        await first.aclose()
        second = await server.spawn()
        assert second.lifespan.place == first.lifespan.place
        first.lifespan.put(0.0)
        assert await ask(second, "echo", b"alive") == Completed(b"alive")
        await second.aclose()


async def test_what_a_child_has_started_dies_though_the_fork_server_was_killed_with_it() -> None:
    async with serving() as server:
        child = await server.spawn()
        progress = await ask(child, "helper")
        assert isinstance(progress, Progress)
        helper = os.pidfd_open(int(progress.message))
        psutil.Process(child.pid).parent().kill()  # type: ignore[union-attr]
        await child.wait_dead()
        await trio.lowlevel.wait_readable(helper)  # its death
        os.close(helper)
        await child.aclose()


async def test_children_are_killed_in_time_though_nobody_hears_of_the_deaths_of_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    socketpair = socket.socketpair

    def narrow(*args: int) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socketpair(*args)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return ours, theirs

    monkeypatch.setattr("ffsuper.child.spawning.socket.socketpair", narrow)
    async with serving() as server:
        *many, last = [await server.spawn() for _ in range(16)]
        ends = [os.pidfd_open(one.pid) for one in (*many, last)]
        for one in many:
            os.kill(one.pid, signal.SIGKILL)
        # From here on until it is dead nothing is read: the supervisor stands still.
        last.lifespan.put(boottime_s() + 0.3)
        assert select.select([ends[-1]], [], [], LIMIT_S)[0]
        for one in (*many, last):
            await one.wait_dead()
            await one.aclose()
        for end in ends:
            os.close(end)


@pytest.mark.skipif(not os.access(LAST_PID, os.W_OK), reason="cannot choose process ids here")
async def test_a_process_that_has_got_a_dead_childs_number_is_left_alone() -> None:
    async with serving() as server:
        child = await server.spawn()
        fork_server = psutil.Process(child.pid).parent()
        assert fork_server is not None
        end = os.pidfd_open(child.pid)
        # From here on until another process has the number nothing is heard: the supervisor stands still.
        fork_server.kill()
        assert select.select([end], [], [], LIMIT_S)[0]
        os.close(end)
        give_up_s = time.monotonic() + LIMIT_S
        while psutil.pid_exists(child.pid):
            if time.monotonic() > give_up_s:
                pytest.skip("nobody reaps orphans here")
            os.sched_yield()
        other = with_number(child.pid)
        try:
            assert other.pid == child.pid
            assert child.has_lost_its_number
            await child.wait_dead()
            assert other.poll() is None
        finally:
            other.kill()
            other.wait()
        await child.aclose()


async def test_a_fork_server_that_hangs_keeps_nobody_waiting_for_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffsuper.child.spawning.REPORT_S", 0.1)
    async with serving() as server:
        dead, other = await server.spawn(), await server.spawn()
        fork_server = psutil.Process(dead.pid).parent()
        assert fork_server is not None
        fork_server.suspend()
        dead.kill()
        for child in (dead, other):
            assert (await child.wait_dead()).signal == signal.SIGKILL
        with pytest.raises(ForkServerGoneError, match="killed by SIGKILL"):
            await server.spawn()
        for child in (dead, other):
            await child.aclose()


def with_number(pid: int) -> subprocess.Popen[bytes]:
    """Start a process that leads a session, with a process id if it can be had: others start processes too."""
    for _ in range(100):
        LAST_PID.write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        if process.pid == pid:
            return process
        process.kill()
        process.wait()
    return process
