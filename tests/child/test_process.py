"""Children as real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import trio
import trio.lowlevel

from ffsuper.child.process import Child, ForkServer, ForkServerSettings, open_fork_server
from ffsuper.errors import ChildError, HandlersError, RemoteProtocolError
from ffsuper.messages import Completed, Deferred, Drain, Failed, FromChild, InterruptReason, Progress, Start

SETTINGS = ForkServerSettings(("tests.child.handlers_for_tests",))
LIMIT_S = 20.0

Output = list[tuple[int, str, str]]


@asynccontextmanager
async def serving(settings: ForkServerSettings = SETTINGS, output: Output | None = None) -> AsyncIterator[ForkServer]:
    lines: Output = [] if output is None else output
    with trio.fail_after(LIMIT_S):
        async with open_fork_server(settings, lambda pid, stream, line: lines.append((pid, stream, line))) as server:
            yield server


@asynccontextmanager
async def one_child(output: Output | None = None) -> AsyncIterator[Child]:
    async with serving(output=output) as server:
        child = await server.spawn()
        yield child
        await child.aclose()


async def ask(child: Child, kind: str, payload: object = b"") -> FromChild | None:
    """Start an execution and return the first thing that the child says about it."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    await child.send(Start("{fp:1}:x", kind, 3, "retry", {"color": "blue"}, data))
    return await child.receive()


async def test_any_bytes_go_in_and_come_out_intact() -> None:
    every_byte = bytes(range(256)) * 5000
    async with one_child() as child:
        assert await ask(child, "echo", every_byte) == Completed(every_byte)


async def test_json_goes_in_and_comes_out() -> None:
    async with one_child() as child:
        assert await ask(child, "json", [1, None]) == Completed(b'{"got": [1, null]}')
        assert await ask(child, "json") == Completed(b'{"got": null}')


async def test_typed_payloads_are_checked_and_typed_results_are_written() -> None:
    async with one_child() as child:
        assert await ask(child, "typed", {"url": "a", "width": 5}) == Completed(b'{"url": "A", "width": 10}')


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({"width": 5}, "url"),
        ({"url": "a", "width": "wide"}, "payload.width"),
        ({"url": "a", "width": True}, "payload.width"),
        ([], "payload"),
        (b"not json", "it is not JSON"),
        (b"\xff", "it is not JSON"),
    ],
)
async def test_a_payload_that_does_not_fit_fails_for_good_and_names_the_field(payload: object, told: str) -> None:
    async with one_child() as child:
        failure = await ask(child, "typed", payload)
        assert isinstance(failure, Failed)
        assert (failure.category, failure.retryable) == ("payload", False)
        assert told in failure.reason


async def test_the_context_tells_what_the_handler_needs_and_takes_progress() -> None:
    output: Output = []
    async with one_child(output) as child:
        assert await ask(child, "context") == Progress(50, "half way")
        result = await child.receive()
        assert isinstance(result, Completed)
        assert json.loads(result.result) == {
            "execution_id": "{fp:1}:x",
            "kind": "context",
            "attempt": [3, "retry"],
            "tags": {"color": "blue"},
            "draining": False,
        }
    assert any("a line in the log" in line for _, _, line in output)


async def test_a_drain_shows_in_the_context() -> None:
    async with one_child() as child:
        await child.send(Drain())
        await ask(child, "context")
        result = await child.receive()
        assert isinstance(result, Completed)
        assert json.loads(result.result)["draining"] is True


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("value", Failed("ValueError: broken", "exception")),
        ("fatal", Failed("hopeless", "fatal", retryable=False)),
        ("exit", Failed("SystemExit: 3", "exception")),
        ("interrupt", Failed("KeyboardInterrupt: ", "exception")),
    ],
)
async def test_what_a_handler_raises_becomes_its_failure_and_the_child_goes_on(name: str, expected: Failed) -> None:
    async with one_child() as child:
        assert await ask(child, "raise", name) == expected
        assert await ask(child, "echo", b"on") == Completed(b"on")


async def test_a_long_reason_is_cut() -> None:
    async with one_child() as child:
        failure = await ask(child, "raise", "long")
        assert isinstance(failure, Failed)
        assert len(failure.reason) <= 2000


@pytest.mark.parametrize(("kind", "payload"), [("raise", "defer"), ("return-defer", b"")])
async def test_a_deferral_is_raised_or_returned(kind: str, payload: object) -> None:
    async with one_child() as child:
        assert isinstance(await ask(child, kind, payload), Deferred)


async def test_a_result_that_cannot_be_stored_fails_for_good() -> None:
    async with one_child() as child:
        failure = await ask(child, "unstorable")
        assert isinstance(failure, Failed)
        assert (failure.category, failure.retryable) == ("result", False)


async def test_progress_beyond_its_bounds_is_the_handlers_error() -> None:
    async with one_child() as child:
        assert await ask(child, "bad-progress") == Failed("ValueError: progress is 101, not 0 to 100", "exception")


async def interrupted(child: Child, reason: InterruptReason) -> FromChild | None:
    await child.send(Start("{fp:1}:x", "sleep", 0, "initial", {}, b"3600"))
    assert await child.receive() == Progress(0, "asleep")
    child.interrupt("{fp:1}:x", reason)
    return await child.receive()


async def test_a_soft_timeout_is_raised_inside_the_handler_which_may_clean_up() -> None:
    async with one_child() as child:
        assert await interrupted(child, InterruptReason.TIMEOUT) == Completed(b'"cleaned up"')


async def test_a_cancellation_is_raised_inside_the_handler() -> None:
    output: Output = []
    async with one_child(output) as child:
        failure = await interrupted(child, InterruptReason.CANCELLED)
        assert isinstance(failure, Failed)
        assert failure.category == "cancelled"
    assert "cancelled inside" in [line for _, _, line in output]


async def test_an_interrupt_that_comes_together_with_the_start_is_not_lost() -> None:
    async with one_child() as child:
        os.kill(child.pid, signal.SIGSTOP)
        await child.send(Start("{fp:1}:x", "sleep", 0, "initial", {}, b"3600"))
        child.interrupt("{fp:1}:x", InterruptReason.TIMEOUT)
        os.kill(child.pid, signal.SIGCONT)
        message = await child.receive()
        if isinstance(message, Progress):
            message = await child.receive()
        assert message in (
            Completed(b'"cleaned up"'),
            Failed("SoftTimeout: the handler's timeout is over", "timeout"),
        )


async def test_an_interrupt_for_another_execution_or_too_late_is_ignored() -> None:
    async with one_child() as child:
        child.interrupt("{fp:1}:x", InterruptReason.TIMEOUT)
        await child.send(Start("{fp:1}:y", "sleep", 0, "initial", {}, b"0.05"))
        child.interrupt("{fp:1}:x", InterruptReason.TIMEOUT)
        assert await child.receive() == Progress(0, "asleep")
        assert await child.receive() == Completed(b'"slept"')
        child.interrupt("{fp:1}:y", InterruptReason.TIMEOUT)
        assert await ask(child, "echo", b"on") == Completed(b"on")


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
        assert "last words" in death.last_output
        assert death.peak_memory_bytes > 1_000_000
        assert child.is_dead


async def test_descendants_die_with_their_child_and_delay_nothing() -> None:
    async with one_child() as child:
        progress = await ask(child, "grandchild")
        assert isinstance(progress, Progress)
        assert await child.receive() is None
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
        await child.send(Start("{fp:1}:x", kind, 0, "initial", {}, b""))
        if kind == "hold-gil":
            await child.receive()
        child.interrupt("{fp:1}:x", InterruptReason.TIMEOUT)
        child.kill()
        assert (await child.wait_dead()).signal == signal.SIGKILL


async def test_stacks_can_be_dumped_even_while_the_interpreter_is_held() -> None:
    async with one_child() as child:
        await ask(child, "hold-gil")
        child.dump_stacks()
        child.kill()
        death = await child.wait_dead()
        assert any("hold_gil" in line for line in death.last_output) or death.signal == signal.SIGKILL


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
            "from ffsuper import handler\n@handler('a')\nasync def one(ctx): ...",
            "is async, which is not supported yet",
        ),
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


async def test_a_child_that_is_not_ready_in_time_is_killed(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(3600)\n")
    settings = ForkServerSettings(("slow",), python_path=(tmp_path,), preload=False, boot_timeout_s=0.3)
    with pytest.RaisesGroup(
        pytest.RaisesExc(ChildError, match=r"was not ready within 0\.3 s"), flatten_subgroups=True
    ):
        async with serving(settings) as server:
            await server.spawn()


async def test_the_fork_servers_death_is_the_death_of_all_its_children() -> None:
    async with serving() as server:
        children = [await server.spawn() for _ in range(2)]
        (process,) = [one for one in psutil.Process().children() if "ffsuper.child.forkserver" in one.cmdline()]
        process.kill()
        for child in children:
            assert await child.receive() is None
            assert (await child.wait_dead()).signal == signal.SIGKILL
        with pytest.raises(ChildError, match="fork server"):
            await server.spawn()


SUPERVISOR = """
import sys, trio
from ffsuper.child.process import ForkServerSettings, open_fork_server
from ffsuper.messages import Start

async def main():
    settings = ForkServerSettings(("tests.child.handlers_for_tests",))
    async with open_fork_server(settings, lambda *line: None) as server:
        child = await server.spawn()
        await child.send(Start("x", "hold-gil", 0, "initial", {}, b""))
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
