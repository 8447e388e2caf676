"""The command line as its users call it: what it prints, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from ffsuper.cli import Exit, main
from ffsuper.commands import executions
from ffsuper.errors import OutcomeUnknownError, StoreUnavailableError
from ffsuper.messages import ExecutionId
from ffsuper.store.keys import ExecutionKeys
from tests.lua import by_name
from tests.lua.executions import WORKER, call_claim, call_grant
from tests.lua.world import Arg, World
from tests.redis_server import running_server

UNKNOWN = "{fp:1}:00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def store(url: str, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    """Empty the store that the commands use."""
    monkeypatch.setenv("FFSUPER_STORE_URL", url)
    client = redis.Redis.from_url(url)
    client.flushall()
    client.close()
    return client


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Call the program; return its exit code, stdout and stderr."""
    code = main(arguments)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out.strip(), err.strip()


def test_an_execution_is_submitted_shown_listed_and_cancelled(
    store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    code, execution, _ = run(capsys, "submit", "job", '{"a": 1}', "--tag", "color=blue", "--priority", "5")
    assert code == Exit.OK
    code, out, _ = run(capsys, "show", execution)
    assert code == Exit.OK
    for part in (execution, "waiting", "job", "priority 5", "color=blue"):
        assert part in out
    code, out, _ = run(capsys, "list")
    assert (code, out.split()[0]) == (Exit.OK, execution)
    code, out, _ = run(capsys, "cancel", execution, "--reason", "not needed")
    assert (code, out) == (Exit.OK, f"{execution} cancelled")
    code, _, err = run(capsys, "result", execution)
    assert (code, err) == (Exit.ENDED_OTHERWISE, f"ffsuper: {execution} is cancelled: not needed")
    assert run(capsys, "cancel", execution) == (Exit.INPUT, "", f"ffsuper: {execution} has ended already: cancelled")
    assert run(capsys, "replay", execution) == (Exit.OK, f"{execution} waiting", "")
    code, _, err = run(capsys, "replay", execution)
    assert (code, "execution_not_terminal" in err, "it has not ended yet" in err) == (Exit.INPUT, True, True)


def test_everything_is_there_as_json(store: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "submit", "job", "--json")
    execution = json.loads(out)["execution_id"]
    shown = json.loads(run(capsys, "show", execution, "--json")[1])
    assert (shown["id"], shown["state"], shown["record"]["namespace"]) == (execution, "waiting", "default")
    assert [one["id"] for one in json.loads(run(capsys, "list", "--json")[1])] == [execution]
    assert json.loads(run(capsys, "cancel", execution, "--json")[1]) == {"state": "cancelled"}
    assert json.loads(run(capsys, "replay", execution, "--json")[1]) == {"state": "waiting"}


def stored_payload(url: str, execution: str) -> bytes:
    tag = execution[: execution.index("}") + 1]
    with redis.Redis.from_url(url) as client:
        return bytes(client.get(f"ff:exec:{tag}:{execution}:payload") or b"")


def test_payloads_come_from_the_argument_a_file_or_standard_input(
    store: redis.Redis,
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "data").write_bytes(b"\x00\xff")
    _, execution, _ = run(capsys, "submit", "job", f"@{tmp_path / 'data'}")
    assert stored_payload(url, execution) == b"\x00\xff"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xfe raw")))
    _, execution, _ = run(capsys, "submit", "job", "-")
    assert stored_payload(url, execution) == b"\xfe raw"


def test_an_idempotency_key_submits_once(store: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(capsys, "submit", "job", "--idempotency-key", "order-7")
    assert run(capsys, "submit", "job", "--idempotency-key", "order-7") == first


def test_a_delayed_execution_says_until_when(store: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    _, execution, _ = run(capsys, "submit", "job", "--delay", "3600")
    assert "delayed (waiting_for_delay: delayed until" in run(capsys, "show", execution)[1]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["submit", "job", "{not json"], Exit.INPUT, "payload is not JSON"),
        (["submit", "job", "@/no/such/file"], Exit.INPUT, "payload @/no/such/file: No such file"),
        (["submit", "job", "--tag", "novalue"], Exit.INPUT, "--tag 'novalue': must be NAME=VALUE"),
        (["submit", "job", "--policy", "[1]"], Exit.INPUT, "--policy must be a JSON object"),
        (["submit", "job", "--policy", "{"], Exit.INPUT, "--policy is not JSON"),
        (["submit", "job", "--lane", "ünïcode"], Exit.INPUT, "1 to 64 printable ASCII"),
        (
            ["submit", "job", "--policy", '{"routing_requirements": {"required_capabilities": ["a b"]}}'],
            Exit.INPUT,
            "required:control_or_whitespace",
        ),
        (["show", "nonsense"], Exit.INPUT, "'nonsense' is not an execution id"),
        (["show", UNKNOWN], Exit.NOT_FOUND, f"execution_not_found ({UNKNOWN})"),
        (["cancel", UNKNOWN], Exit.NOT_FOUND, "execution_not_found"),
        (["replay", UNKNOWN], Exit.NOT_FOUND, "execution_not_found"),
        (["result", UNKNOWN], Exit.NOT_FOUND, "execution_not_found"),
        (["list", "--store", "http://x"], Exit.CONFIG, "--store: must begin with redis://"),
        (["list", "--lane", ""], Exit.INPUT, "ffsuper: list: invalid_input (lane ''"),
        (["lanes", "--lane", ""], Exit.INPUT, "ffsuper: lanes: invalid_input (lane ''"),
        (["signal", UNKNOWN, "go", "{"], Exit.INPUT, "ffsuper: signal: invalid_input (payload is not JSON"),
        (["check", "--config", "/no/such/file"], Exit.CONFIG, "/no/such/file"),
    ],
)
def test_bad_input_is_named_with_a_documented_exit_code(
    arguments: list[str], code: Exit, told: str, store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _, err = run(capsys, *arguments)
    assert (found, told in err) == (code, True), err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["list", "--server", "http://x", "--config", "worker.toml"], "--server: not allowed with argument --config"),
        (["--config", "worker.toml", "list", "--server", "http://x"], "--server: not allowed with argument --config"),
        (["list", "--server", "http://x", "--store", "redis://x"], "--store: not allowed with argument --server"),
        (["show", UNKNOWN, "--server-token-file", "token"], "--server-token-file: needs argument --server"),
        (["list", "--store", "redis://x", "--server-ca-file", "ca"], "--server-ca-file: needs argument --server"),
    ],
)
def test_options_that_name_two_places_or_belong_to_none_are_a_usage_error(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == Exit.USAGE
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["nonsense"], ["submit"], ["list", "--limit", "0"]])
def test_a_wrong_command_line_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == Exit.USAGE
    assert "usage: ffsuper" in capsys.readouterr().err


def test_a_reader_that_has_had_enough_causes_no_traceback(
    store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "submit", "job")
    read, write = os.pipe()
    os.close(read)
    listing = [sys.executable, "-m", "ffsuper", "list"]
    ended = subprocess.run(listing, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (Exit.BROKEN_PIPE, b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["list", "workers --json", "top --once --interval 0.1"])
def test_output_that_cannot_be_written_is_told_in_a_line(
    command: str, unbuffered: str, store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "submit", "job")
    program = [sys.executable, "-m", "ffsuper", *command.split()]
    with Path("/dev/full").open("w") as full:
        environ = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        ended = subprocess.run(
            program, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False, env=environ
        )
    told = "ffsuper: the output cannot be written: No space left on device\n"
    assert (ended.returncode, ended.stderr) == (Exit.OUTPUT, told)


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_output_that_nobody_wants_may_be_closed(
    closed: str, store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "submit", "job")
    shell = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "ffsuper", "list"]
    ended = subprocess.run(shell, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (Exit.OK, "", "")


def test_a_defect_keeps_its_traceback_and_has_its_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> bool:
        raise RuntimeError("never thought of")

    monkeypatch.setattr(executions, "replay", fail)
    assert main(["replay", UNKNOWN]) == Exit.DEFECT
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2] == "RuntimeError: never thought of"
    assert "please report it" in lines[-1]


def test_an_interrupted_nursery_is_no_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> bool:
        raise BaseExceptionGroup("nursery", [KeyboardInterrupt()])

    monkeypatch.setattr(executions, "replay", interrupt)
    assert main(["replay", UNKNOWN]) == Exit.INTERRUPTED


def test_a_store_that_is_away_is_told_with_its_place_and_how_to_name_another(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: object) -> bool:
        raise StoreUnavailableError("cannot reach the store: Timeout reading from socket")

    monkeypatch.setattr(executions, "list_lane", away)
    code, _, err = run(capsys, "list", "--store", "redis://db:6380/2")
    what, then = err.splitlines()
    assert (code, what) == (Exit.STORE_UNAVAILABLE, "ffsuper: cannot reach the store: Timeout reading from socket")
    assert then.startswith("ffsuper: the store is to be at redis://db:6380/2: start it, or name another by --store")
    code, _, err = run(capsys, "list", "--server", "http://127.0.0.1:9090")
    assert len(err.splitlines()) == 1


def test_an_answer_that_was_lost_is_told_with_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(_: object) -> bool:
        raise OutcomeUnknownError("the store's answer was lost: timeout")

    monkeypatch.setattr(executions, "replay", lose)
    code, _, err = run(capsys, "replay", UNKNOWN)
    assert (code, err.splitlines()) == (
        Exit.STORE_UNAVAILABLE,
        [
            "ffsuper: the store's answer was lost: timeout",
            "ffsuper: it may have been carried out: look, before you repeat it",
        ],
    )


def test_a_wait_that_is_too_short_says_so(store: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "submit", "job", "--wait", "0.01")
    assert code == Exit.ENDED_OTHERWISE
    assert "is still waiting after 0.01 s" in err


GOOD_TOML = """\
[worker]
handlers = ["jobs"]
python_path = ["."]
[store]
url = "{url}"
"""


def write_worker(folder: Path, url: str, jobs: str = "", more: str = "") -> Path:
    (folder / "jobs.py").write_text(jobs or "from ffsuper import handler\n@handler('a')\ndef a(ctx): ...\n")
    path = folder / "worker.toml"
    path.write_text(GOOD_TOML.format(url=url) + more)
    return path


def started(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a worker that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "ffsuper", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )


def test_all_mistakes_of_a_configuration_are_told_at_once(tmp_path: Path) -> None:
    path = write_worker(
        tmp_path, "redis://localhost", more='timeout_s = "long"\n[leese]\n[lease]\nttl_ms = 3\nttl = 1\n'
    )
    ended = started(path)
    assert (ended.returncode, "Traceback" in ended.stderr) == (Exit.CONFIG, False)
    for told in ("timeout_s", "leese", "ttl_ms", "[lease] ttl"):
        assert told in ended.stderr


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        ("import no_such_module\n", "module 'jobs' does not import: ModuleNotFoundError"),
        (
            "from ffsuper import handler\n@handler('a')\ndef one(ctx): ...\n@handler('a')\ndef two(ctx): ...\n",
            "kind 'a' is registered twice",
        ),
    ],
)
def test_handlers_that_do_not_load_end_the_worker_with_their_reason(
    jobs: str, told: str, tmp_path: Path, store: redis.Redis, url: str
) -> None:
    ended = started(write_worker(tmp_path, url, jobs))
    assert ended.returncode == Exit.CONFIG
    assert told in ended.stderr
    assert store.keys("ff:worker:*") == []


def test_a_store_that_is_down_ends_the_worker(tmp_path: Path) -> None:
    ended = started(write_worker(tmp_path, f"unix://{tmp_path}/none.sock"))
    assert (ended.returncode, "Traceback" in ended.stderr) == (Exit.STORE_UNAVAILABLE, False)
    assert "cannot reach the store" in ended.stderr


def test_a_store_that_refuses_the_password_ends_the_worker_and_the_password_stays_secret(tmp_path: Path) -> None:
    with running_server(tmp_path, "--requirepass", "right") as url:
        (tmp_path / "password").write_text("wrong-and-secret")
        ended = started(write_worker(tmp_path, url), FFSUPER_STORE_PASSWORD_FILE="password")
    assert (ended.returncode, "Traceback" in ended.stderr) == (Exit.STORE_ACCESS, False)
    assert "the store refuses access" in ended.stderr
    assert "wrong-and-secret" not in ended.stderr


def test_a_store_without_functions_ends_the_worker(tmp_path: Path) -> None:
    with running_server(tmp_path, "--rename-command", "FUNCTION", "") as url:
        ended = started(write_worker(tmp_path, url))
    assert (ended.returncode, "Traceback" in ended.stderr) == (Exit.STORE_UNSUITABLE, False)
    assert "knows no functions" in ended.stderr


def test_a_foreign_library_of_another_version_ends_the_worker(tmp_path: Path) -> None:
    with running_server(tmp_path) as url:
        with redis.Redis.from_url(url) as client:
            client.function_load(
                "#!lua name=flowfabric\nredis.register_function('ff_version', function() return '4' end)"
            )
        ended = started(write_worker(tmp_path, url))
    assert (ended.returncode, "Traceback" in ended.stderr) == (Exit.STORE_UNSUITABLE, False)
    assert "version 4, and this worker speaks version 5" in ended.stderr


@pytest.mark.parametrize("count", ["0", "70000", "many", ""])
def test_an_unreadable_partition_configuration_ends_the_worker(
    count: str, tmp_path: Path, store: redis.Redis, url: str
) -> None:
    store.hset("ff:config:partitions", "num_flow_partitions", count)
    ended = started(write_worker(tmp_path, url))
    assert (ended.returncode, "Traceback" in ended.stderr) == (Exit.STORE_UNSUITABLE, False)
    assert "num_flow_partitions is" in ended.stderr


def test_children_that_keep_dying_while_they_start_end_the_worker(
    tmp_path: Path, store: redis.Redis, url: str
) -> None:
    path = write_worker(
        tmp_path, url, "import os\nos._exit(9)\n", "[children]\ncount = 1\nmax_restarts = 2\npreload = false\n"
    )
    ended = started(path)
    assert (ended.returncode, "Traceback" in ended.stderr) == (Exit.CHILDREN, False)
    assert "died while starting, exit code 9" in ended.stderr


def test_every_exit_code_is_documented() -> None:
    documented = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", documented, re.MULTILINE)
    assert rows == [(str(code.value), code.name) for code in Exit]


def suspended(store: redis.Redis, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Submit an execution, claim it as the stock worker would, and suspend it; return its id and its token."""
    execution = run(capsys, "submit", "job")[1]
    keys = ExecutionKeys.of(ExecutionId(execution))
    world = World(store)
    claim(world, keys)
    reply = by_name.call(
        world,
        "ff_suspend_execution",
        by_name.keys_of(keys, WORKER, 0, "point", "none"),
        {
            "execution_id": execution,
            "attempt_index": 0,
            "waitpoint_id": "point",
            "waitpoint_key": "key",
            "lease_id": "lease",
            "lease_epoch": 1,
            "attempt_id": "attempt",
            "suspension_id": "s",
            "resume_condition_json": '{"required_signal_names":["go"]}',
            "lease_history_maxlen": 9,
        },
    )
    assert reply[1] == "OK", reply
    return execution, str(reply[5])


def claim(world: World, keys: ExecutionKeys) -> None:
    assert call_grant(world, keys)[1] == "OK"
    assert call_claim(world, keys, lease_id="lease", attempt_id="attempt")[1] == "OK"


def test_a_signal_is_sent_and_its_effect_told(store: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    execution, token = suspended(store, capsys)
    assert run(capsys, "signal", execution, "other") == (Exit.OK, "no_op", "")
    code, out, err = run(capsys, "signal", execution, "go", '{"by": "ann"}', "--json")
    assert (code, json.loads(out)["effect"], err) == (Exit.OK, "resume_condition_satisfied", "")
    code, out, _ = run(capsys, "show", execution)
    assert [word in out for word in ("acquired", "released", "reason suspend")] == [True] * 3
    assert token not in out
    assert token not in run(capsys, "show", execution, "--json")[1]


def test_a_signal_with_a_wrong_token_or_to_nobody_is_refused(
    store: redis.Redis, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    execution, _ = suspended(store, capsys)
    wrong = tmp_path / "token"
    wrong.write_text(f"k1:{'0' * 40}\n")
    code, _, err = run(capsys, "signal", execution, "go", "--token-file", str(wrong))
    assert (code, "invalid_token" in err) == (Exit.INPUT, True)
    assert "0" * 40 not in err
    waiting = run(capsys, "submit", "job")[1]
    code, _, err = run(capsys, "signal", waiting, "go")
    assert (code, "execution_not_suspended (waiting)" in err) == (Exit.INPUT, True)


def test_a_tail_writes_what_there_is(store: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    execution = ExecutionId(run(capsys, "submit", "job")[1])
    keys = ExecutionKeys.of(execution)
    world = World(store)
    claim(world, keys)
    for number in range(3):
        frame: dict[str, Arg] = {"execution_id": execution, "attempt_index": 0, "lease_id": "lease", "lease_epoch": 1}
        more: dict[str, Arg] = {"frame_type": "delta", "ts": 5, "payload": f"line {number}", "retention_maxlen": 9}
        by_name.call(
            world,
            "ff_append_frame",
            by_name.keys_of(keys, WORKER, 0, "none", "none"),
            {**frame, **more, "max_payload_bytes": 99},
        )
    code, out, _ = run(capsys, "tail", execution, "--no-follow", "--json")
    assert code == Exit.OK
    told = [json.loads(line) for line in out.splitlines()]
    assert [(one["attempt_index"], one["frame_type"], one["payload"]) for one in told] == [
        (0, "delta", f"line {number}") for number in range(3)
    ]
