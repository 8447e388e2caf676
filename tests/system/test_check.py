"""``ffsuper check`` as its user runs it: a real store, and handlers that are really loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from ffsuper.cli import Exit
from ffsuper.client import Client
from ffsuper.store.libraries import FFSUPER, assemble, own_mark
from tests.redis_server import running_server
from tests.system.test_server import free_port, start_server
from tests.system.workers import Workers

JOBS = """\
from ffsuper import Context, handler

@handler("greet")
def greet(ctx: Context) -> str:
    return "hello"

@handler("part")
def part(ctx: Context) -> None: ...
"""
FOREIGN = "#!lua name=flowfabric\nredis.register_function('ff_version', function() return '4' end)"
LIMIT_S = 60.0


@dataclass
class Checked:
    """What a run of the command came to."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> list[str]:
        """What it told, a line each, without what stands before all of them."""
        return [line.removeprefix("ffsuper: ") for line in self.err.splitlines()]


@dataclass
class Checkout:
    """A folder with a configuration and handlers."""

    folder: Path
    url: str
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "jobs.py").write_text(JOBS)
        self.configure()

    def configure(self, text: str = "", *, tasks: int = 1) -> None:
        """Write the configuration, with this at its end."""
        (self.folder / "worker.toml").write_text(
            f'[worker]\nhandlers = ["jobs"]\npython_path = ["."]\n[store]\nurl = "{self.url}"\n'
            f"[children]\ntasks_per_process = {tasks}\n{text}"
        )

    def give(self, secret: str, text: str) -> str:
        """Put a secret into a file of which a variable tells; return where."""
        file = self.folder / secret
        file.write_text(text)
        file.chmod(0o600)
        self.environment[f"FFSUPER_{secret}_FILE"] = str(file)
        return str(file)

    def check(self, *arguments: str) -> Checked:
        """Run the command here."""
        done = subprocess.run(
            [sys.executable, "-m", "ffsuper", "check", "--config", "worker.toml", *arguments],
            cwd=self.folder,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        return Checked(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def store_url(tmp_path: Path) -> Iterator[str]:
    """Provide a store that keeps what it is given, as one for production does."""
    with running_server(tmp_path, "--appendonly", "yes") as url:
        yield url


@pytest.fixture
def checkout(tmp_path: Path, store_url: str) -> Checkout:
    folder = tmp_path / "checkout"
    folder.mkdir()
    return Checkout(folder, store_url)


def test_nothing_is_found_where_all_is_well_and_nothing_is_written(checkout: Checkout, store: redis.Redis) -> None:
    checked = checkout.check()
    assert (checked.code, checked.told) == (
        Exit.OK,
        ["worker.toml: handlers for greet, part", "worker.toml: no problems, no warnings"],
    )
    assert "[lease] ttl_ms" in checked.out
    assert (store.dbsize(), store.function_list()) == (0, [])


def test_it_is_all_told_as_json_too(checkout: Checkout) -> None:
    checkout.configure("[drain]\ntimeout_s = 1\n")
    checked = checkout.check("--json")
    told: dict[str, Any] = json.loads(checked.out)
    assert (checked.code, told["problems"], told["kinds"]) == (Exit.OK, [], ["greet", "part"])
    assert [f"warning: {text}" for text in told["warnings"]] == checked.told[1:-1]
    assert told["warnings"][0].startswith("[drain] timeout_s: 1 s")
    assert told["settings"]["drain"]["timeout_s"] == {"value": 1.0, "origin": "worker.toml"}


def test_everything_is_told_at_once_and_the_first_problem_decides(checkout: Checkout) -> None:
    checkout.url = "unix:///no/such.sock"
    checkout.configure("[drain]\ntimeout_s = 3\n")
    (checkout.folder / "jobs.py").write_text("import no_such_module\n")
    (checkout.folder / "short.service").write_text("[Service]\nTimeoutStopSec=5\n")
    checked = checkout.check("--unit", "short.service")
    assert checked.code == Exit.STORE_UNAVAILABLE
    store, handlers, *traceback, unit, drain, summary = checked.told
    assert store.startswith("[store] url: cannot reach the store")
    assert handlers.startswith("[worker] handlers: module 'jobs' does not import: ModuleNotFoundError")
    assert any('jobs.py", line 1' in line for line in traceback)
    assert unit.startswith("short.service: a drain may take")
    assert drain.startswith("warning: [drain] timeout_s")
    assert summary == "worker.toml: 3 problems, 1 warning"


def test_mistakes_in_the_file_are_counted_as_well(checkout: Checkout) -> None:
    checkout.configure("[leese]\nttl = 1\n[log]\nburst = 0\n")
    checked = checkout.check()
    assert (checked.code, checked.told[-1]) == (Exit.CONFIG, "worker.toml: 2 problems, no warnings")


def test_offline_the_store_is_left_alone(checkout: Checkout) -> None:
    checkout.url = "unix:///no/such.sock"
    checkout.configure()
    checked = checkout.check("--offline")
    assert (checked.code, checked.told[-1]) == (Exit.OK, "worker.toml: no problems, no warnings")


@pytest.mark.parametrize(
    ("jobs", "tasks", "told"),
    [
        (JOBS + "1 / 0\n", 1, "does not import: ZeroDivisionError"),
        (JOBS.replace("part", "greet"), 1, "kind 'greet' is registered twice"),
        (JOBS, 2, "handler 'greet' is not async, and [children] tasks_per_process is 2"),
        ("", 1, "no handler is registered by jobs"),
    ],
)
def test_handlers_that_no_worker_could_run_are_told(checkout: Checkout, jobs: str, tasks: int, told: str) -> None:
    (checkout.folder / "jobs.py").write_text(jobs)
    checkout.configure(tasks=tasks)
    checked = checkout.check()
    assert (checked.code, checked.told[-1]) == (Exit.CONFIG, "worker.toml: 1 problem, no warnings")
    assert checked.told[0].startswith("[worker] handlers: ")
    assert told in checked.told[0]


def test_handlers_that_kill_their_process_are_told(checkout: Checkout) -> None:
    (checkout.folder / "jobs.py").write_text("import os\nprint('about to go', flush=True)\nos._exit(3)\n")
    (checkout.folder / "worker.toml").write_text(
        (checkout.folder / "worker.toml").read_text() + "preload = false\n"  # in [children]
    )
    checked = checkout.check()
    assert (checked.code, checked.told[-1]) == (Exit.CHILDREN, "worker.toml: 1 problem, no warnings")
    assert "died while starting, exit code 3" in checked.told[0]
    assert checked.told[1] == "about to go"


def test_a_wrong_password_is_told_and_not_shown(checkout: Checkout, store: redis.Redis) -> None:
    store.config_set("requirepass", "right")
    checkout.give("STORE_PASSWORD", "hush-but-wrong")
    checked = checkout.check()
    assert checked.code == Exit.STORE_ACCESS
    assert checked.told[1].startswith("[store] url: the store refuses access: ")
    assert "hush-but-wrong" not in checked.out + checked.err


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (["~*", "&*", "+@all", "-function|load"], "no permissions to run the 'function|load' command"),
        (["~other:*", "&*", "+@all"], "no permissions to access the 'ff:config:partitions' key"),
        (["~*", "resetchannels", "+@all"], "no permissions to access the 'ffsuper:lease_ends' channel"),
        (["~*", "&*", "+@all", "-function"], "no permissions to run the 'function|list' command"),
    ],
)
def test_a_user_who_may_not_do_what_a_worker_does_is_told(
    checkout: Checkout, store: redis.Redis, rules: list[str], told: str
) -> None:
    set_up_user = ("ACL", "SETUSER", "worker", "on", ">hush", *rules)
    store.execute_command(*set_up_user)  # type: ignore[no-untyped-call]
    checkout.environment["FFSUPER_STORE_USERNAME"] = "worker"
    checkout.give("STORE_PASSWORD", "hush")
    checked = checkout.check()
    assert checked.code == Exit.STORE_ACCESS
    assert any(told in line and not line.startswith("warning") for line in checked.told)


def test_what_the_store_may_lose_is_warned_of(checkout: Checkout, store: redis.Redis) -> None:
    store.config_set("appendonly", "no")
    store.config_set("maxmemory-policy", "allkeys-lru")
    checked = checkout.check()
    assert (checked.code, checked.told[-1]) == (Exit.OK, "worker.toml: no problems, 2 warnings")
    assert any("maxmemory-policy allkeys-lru" in line for line in checked.told)
    assert any("writes nothing to disk" in line for line in checked.told)


def test_a_store_that_saves_now_and_then_keeps_something(checkout: Checkout, store: redis.Redis) -> None:
    store.config_set("appendonly", "no")
    store.config_set("save", "3600 1")
    assert checkout.check().told[-1] == "worker.toml: no problems, no warnings"


def test_a_replica_is_told(checkout: Checkout, store: redis.Redis) -> None:
    store.replicaof("127.0.0.1", "1")
    checked = checkout.check()
    assert checked.code == Exit.STORE_UNAVAILABLE
    assert any(line.startswith("[store] url: this is a replica") for line in checked.told)


def test_libraries_that_a_worker_cannot_work_with_are_told(checkout: Checkout, store: redis.Redis) -> None:
    store.function_load(FOREIGN)
    checked = checkout.check()
    assert checked.code == Exit.STORE_UNSUITABLE
    assert any("version 4, and this worker speaks version 5" in line for line in checked.told)
    assert [library[1] for library in store.function_list()] == [b"flowfabric"]


def test_a_library_of_a_newer_worker_is_warned_of(checkout: Checkout, store: redis.Redis) -> None:
    store.function_load(assemble(FFSUPER).replace(own_mark(FFSUPER).line, "-- ffsuper 99.0.0 0123"))
    checked = checkout.check()
    assert (checked.code, checked.told[-1]) == (Exit.OK, "worker.toml: no problems, 1 warning")
    assert "the store holds a newer library ffsuper (99.0.0 0123; ours is" in checked.told[1]


def test_a_partition_configuration_that_cannot_be_read_is_told(checkout: Checkout, store: redis.Redis) -> None:
    store.hset("ff:config:partitions", "num_flow_partitions", "many")
    checked = checkout.check()
    assert checked.code == Exit.STORE_UNSUITABLE
    assert any("num_flow_partitions is 'many'" in line for line in checked.told)


def test_the_server_that_grants_work_is_asked_with_the_workers_token(checkout: Checkout, workers: Workers) -> None:
    port = free_port()
    checkout.configure(f'[claim]\nsource = "server"\nserver_url = "http://127.0.0.1:{port}"\n')
    assert checkout.check().code == Exit.STORE_UNAVAILABLE
    assert checkout.check("--offline").code == Exit.OK
    workers.environment["FFSUPER_SERVER_TOKEN_FILE"] = checkout.give("CLAIM_TOKEN", "right")
    workers.settings["engine"] = "false"
    start_server(workers, port)
    assert checkout.check().told[-1] == "worker.toml: no problems, no warnings"
    checkout.give("CLAIM_TOKEN", "hush-but-wrong")
    checked = checkout.check()
    assert checked.code == Exit.STORE_ACCESS
    assert any(line.startswith("[claim] token_file: ") for line in checked.told)
    assert "hush-but-wrong" not in checked.out + checked.err


def test_a_worker_that_runs_works_on(checkout: Checkout, workers: Workers, client: Client) -> None:
    workers.start()
    assert checkout.check().told[-1] == "worker.toml: no problems, no warnings"
    assert client.wait(client.submit("echo", b"on"), LIMIT_S).state == "completed"
