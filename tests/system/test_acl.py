"""The users of ``config/acl``: each program can do its work as the user that is meant for it, and nothing else.

``docs/operations.md``, "Access to the store", says what they are for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from ffsuper.admin.client import AdminClient
from ffsuper.cli import Exit
from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store import keys
from ffsuper.store.keys import ExecutionKeys
from tests.cluster import running_cluster
from tests.redis_server import running_server
from tests.system.rights import HANDSHAKE, acl_files, commands_inside, needs_of
from tests.system.test_server import free_port, start_server
from tests.system.workers import CHECKOUT, LIMIT_S, Workers, eventually

LONG_S = 30.0
PASSWORD = "a password"
DIGEST = hashlib.sha256(PASSWORD.encode()).hexdigest()
USERS = ("engine", "operator", "server", "submitter", "worker")
RETRY = {"retry_policy": {"max_retries": 1, "backoff": {"type": "fixed", "delay_ms": 1}}}


@dataclass(frozen=True)
class Guarded:
    """A store with the users of ``config/acl``, and one that may do everything."""

    url: str
    folder: Path
    admin: Any

    def settings(self, user: str) -> StoreConfig:
        """Return how a user gets in."""
        return StoreConfig(url=self.url, username=f"ffsuper-{user}", password=PASSWORD, library="never")

    def environment(self, user: str) -> dict[str, str]:
        """Return the variables by which a program becomes a user."""
        return {
            "FFSUPER_STORE_URL": self.url,
            "FFSUPER_STORE_USERNAME": f"ffsuper-{user}",
            "FFSUPER_STORE_PASSWORD_FILE": str(self.folder / "password"),
        }

    def connection(self, user: str) -> redis.Redis:
        """Return a connection as a user."""
        return redis.Redis.from_url(self.url, username=f"ffsuper-{user}", password=PASSWORD, protocol=2)

    def ffsuper(self, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a subcommand as a user."""
        return subprocess.run(
            [sys.executable, "-m", "ffsuper", *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            cwd=CHECKOUT,
            env=os.environ | self.environment(user),
            check=False,
        )

    def refusals(self) -> list[dict[str, Any]]:
        """Return what somebody was refused."""
        return refused_by(self.admin.acl_log())


def refused_by(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out that redis-py may not tell its name, which it does where the server knows how, and need not."""
    return [one for one in entries if one["object"].lower() != "client|setinfo"]


@contextmanager
def empty_store(folder: Path) -> Iterator[Guarded]:
    """Run a store that knows the users and holds nothing, made as the docs say."""
    write_password(folder)
    acl = folder / "users.acl"
    acl.write_text("\n".join(["user default off", *users(), f"user admin on #{DIGEST} ~* &* +@all", ""]))
    with (
        running_server(folder, "--aclfile", str(acl)) as url,
        redis.Redis.from_url(url, username="admin", password=PASSWORD) as admin,
    ):
        yield Guarded(url, folder, admin)


def write_password(folder: Path) -> None:
    """Write the file that programs have the password from."""
    (folder / "password").write_text(f"{PASSWORD}\n")
    (folder / "password").chmod(0o600)


def users() -> list[str]:
    """Return the lines of the files, each user with its password."""
    return [file.read_text().strip().replace(" resetpass ", f" #{DIGEST} ") for file in acl_files()]


@contextmanager
def ready_store(folder: Path) -> Iterator[Guarded]:
    """Run one that an operator has made ready."""
    with empty_store(folder) as store:
        made_ready = store.ffsuper("operator", "library", "--load")
        assert made_ready.returncode == 0, made_ready.stderr
        yield store


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    with ready_store(tmp_path) as store:
        yield store


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Provide a store for tests that change nothing in it."""
    with ready_store(tmp_path_factory.mktemp("refusing")) as store:
        yield store


@pytest.fixture
def workers(tmp_path: Path, guarded: Guarded) -> Iterator[Workers]:
    workers = Workers(tmp_path, guarded.url, settings={"engine": "false"})
    become(workers, guarded, "worker")
    yield workers
    workers.end_all()


def become(workers: Workers, store: Guarded, user: str, library: str = "never") -> None:
    """Start what is started from now on as a user."""
    workers.environment = store.environment(user) | {"FFSUPER_STORE_LIBRARY": library}


@pytest.fixture
def submitter(guarded: Guarded) -> Iterator[Client]:
    with Client(guarded.settings("submitter")) as client:
        yield client


def result(client: Client, execution: str) -> Any:
    assert client.wait(execution, LONG_S).state == "completed"
    return json.loads(client.result(execution) or b"null")


def all_complete(client: Client, *executions: str) -> None:
    for execution in executions:
        assert client.wait(execution, LONG_S).state == "completed"


def test_a_worker_an_engine_and_a_submitter_are_refused_nothing_that_their_work_takes(
    guarded: Guarded, workers: Workers, submitter: Client, tmp_path: Path
) -> None:
    worker = workers.start(ttl_ms=1_500, children=4)
    become(workers, guarded, "engine")
    engine = workers.start_engine(ttl_ms=1_500)

    plain = submitter.submit("echo", b"hello", tags={"a": "b"}, idempotency_key="once")
    assert submitter.submit("echo", b"hello", idempotency_key="once") == plain
    framed = submitter.submit("stream", 4, policy=RETRY)
    assert [frame.payload for frame in submitter.tail(framed)][-1] == b"1.3"
    all_complete(
        submitter,
        *(plain, framed, submitter.submit("echo", delay=0.05), submitter.submit("fail-once", policy=RETRY)),
        *(submitter.submit("defer-once"), submitter.submit("progress")),
    )
    assert submitter.wait(submitter.submit("segfault"), LONG_S).state == "failed"

    suspended = submitter.submit("approval", {"signals": ["go"]})
    eventually(lambda: submitter.state(suspended) == "suspended", "the suspension")
    assert submitter.signal(suspended, "go", {"by": "ann"}).effect == "resume_condition_satisfied"
    assert result(submitter, suspended) == [["go", '{"by": "ann"}']]
    timed_out = submitter.submit("approval", {"signals": ["go"], "more": {"timeout": 0.2}})
    assert submitter.wait(timed_out, LONG_S).state == "failed"
    buffered = submitter.submit("approval-beforehand", str(tmp_path))
    eventually((tmp_path / "token").exists, "the token")
    point, token = (tmp_path / "token").read_text().split()
    assert (
        submitter.signal(buffered, "go", b"early", waitpoint_id=point, token=token).effect
        == "buffered_for_pending_waitpoint"
    )
    (tmp_path / "sent").touch()
    assert result(submitter, buffered) == [0, "early"]

    flow = submitter.create_flow()
    first = flow.add("echo", b"a")
    second = flow.add("echo", b"b", passing=first)
    flow.add("fail-for-good", b"", after=[first])
    assert flow.wait(LONG_S).state == "failed"
    assert submitter.result(second) == b"a"
    cancelled = submitter.create_flow()
    cancelled.add("echo", b"", after=[cancelled.add("until-cancelled", str(tmp_path))])
    eventually((tmp_path / "history").exists, "a handler that runs")
    assert cancelled.cancel().state == "cancelled"

    assert submitter.replay(plain) == "waiting"
    all_complete(submitter, plain)
    assert submitter.history(plain)
    assert submitter.depth("default")["terminal"] == len(submitter.list_lane("default", "terminal")) > 8

    worker.wait_for("finished")
    for program in (worker, engine):
        program.signal(signal.SIGTERM)
        assert program.wait() == Exit.OK
    assert guarded.refusals() == []


def test_a_worker_takes_over_what_a_killed_one_has_left(
    guarded: Guarded, workers: Workers, submitter: Client, tmp_path: Path
) -> None:
    first = workers.start("worker-1", ttl_ms=1_500)
    execution = submitter.submit("wait-for-file", {"folder": str(tmp_path)})
    first.wait_for("claimed")
    first.process.kill()
    first.wait()
    (tmp_path / "go").touch()
    workers.start("worker-1", ttl_ms=1_500)
    all_complete(submitter, execution)
    assert guarded.refusals() == []


def test_a_server_admits_what_its_workers_run(guarded: Guarded, workers: Workers, tmp_path: Path) -> None:
    port = free_port()
    become(workers, guarded, "server")
    start_server(workers, port)
    become(workers, guarded, "worker")
    workers.start(source="server", server_url=f"http://127.0.0.1:{port}")
    become(workers, guarded, "engine")
    workers.start_engine()
    with AdminClient(f"http://127.0.0.1:{port}", patience_s=LIMIT_S) as admin:
        policy = {
            "budget_ids": [admin.create_budget({"tokens": 12})],
            "quota_policy_id": admin.create_quota(max_concurrent=1, window_s=1, max_requests=50),
        }
        spender = admin.submit("spend", policy["budget_ids"][0], policy=policy)
        assert admin.wait(spender, LONG_S).state == "completed"
        assert json.loads(admin.result(spender) or b"null") == ["ok", "ok", "hard_breach"]
        held_back = admin.submit("echo", policy=policy)
        eventually(lambda: admin.show(held_back).record["blocking_reason"] == "waiting_for_budget", "the budget")
        admin.reset_budget(policy["budget_ids"][0])
        assert admin.wait(held_back, LONG_S).state == "completed"
        both = [admin.submit("echo", policy=policy) for _ in range(2)]
        for execution in both:
            assert admin.wait(execution, LONG_S).state == "completed"
        assert admin.rotate_secret("k2", "00" * 32).is_complete
        running = admin.submit("until-cancelled", str(tmp_path))
        eventually((tmp_path / "history").exists, "a handler that runs")
        admin.change_priority(admin.submit("echo", lane="nobody"), 5)
        admin.cancel(running)
    assert guarded.refusals() == []


def test_the_same_users_do_for_a_cluster_while_it_moves_a_slot(tmp_path: Path) -> None:
    write_password(tmp_path)
    with running_cluster(tmp_path) as cluster:
        for node in cluster.nodes:
            for line in users():
                node.ask("ACL", "SETUSER", *line.split()[1:])
        store = Guarded(cluster.url, tmp_path, None)
        assert store.ffsuper("operator", "library", "--load").returncode == Exit.OK
        lanes = [f"lane-{number}" for number in range(6)]
        workers = Workers(tmp_path, cluster.url, settings={"lanes": json.dumps(lanes), "ttl_ms": 1_500})
        become(workers, store, "engine")
        try:
            workers.start(engine="true")
            with Client(store.settings("submitter"), patience_s=LONG_S) as client:
                executions = [client.submit("echo", lane=lane) for lane in lanes * 20]
                slot = key_slot(ExecutionKeys.of(executions[0]).core.encode())
                source = cluster.master_of(slot)
                cluster.move_slot(slot, source, cluster.another_master(source))
                all_complete(client, *executions, client.submit("fail-once", lane=lanes[0], policy=RETRY))
        finally:
            workers.end_all()
        for node in cluster.nodes:
            with redis.Redis(port=node.port) as admin:
                assert refused_by(admin.acl_log()) == []


def test_an_operator_looks_at_workers_and_tells_them_what_to_do(guarded: Guarded, workers: Workers) -> None:
    worker = workers.start()
    for arguments in (
        *(["workers"], ["lanes"], ["top", "--once"], ["library"], ["submit", "echo"], ["list"]),
        *(["quiet", "worker-1", "--wait", "30"], ["resume", "worker-1", "--wait", "30"]),
        ["drain", "worker-1", "--wait", "30"],
    ):
        done = guarded.ffsuper("operator", *arguments)
        assert (done.returncode, done.stderr) == (Exit.OK, ""), arguments
    assert worker.wait() == Exit.OK
    assert guarded.refusals() == []


@pytest.mark.parametrize("user", ["worker", "engine"])
def test_check_is_content_with_a_users_rights(guarded: Guarded, workers: Workers, user: str) -> None:
    become(workers, guarded, user)
    workers.start("worker-1").signal(signal.SIGTERM)
    toml = str(workers.folder / "worker-1.toml")
    for may_ask in (False, True):
        if may_ask:
            guarded.admin.execute_command("ACL", "SETUSER", f"ffsuper-{user}", "+acl|whoami", "+acl|dryrun")
        checked = guarded.ffsuper(user, "check", "--config", toml)
        assert checked.returncode == Exit.OK, checked.stderr


@pytest.mark.parametrize(
    ("library", "code", "told"),
    [
        ("never", Exit.STORE_UNSUITABLE, '[store] library = "never" forbids loading it'),
        ("auto", Exit.STORE_ACCESS, "the store lacks library flowfabric. the store refuses access"),
    ],
)
def test_a_worker_says_who_has_to_load_what_a_store_lacks(
    tmp_path: Path, library: str, code: Exit, told: str
) -> None:
    with empty_store(tmp_path) as store:
        workers = Workers(tmp_path, store.url, settings={"engine": "false"})
        become(workers, store, "worker", library)
        worker = workers.launch()
        assert worker.wait() == code
        (ended,) = [one for one in worker.events() if one["event"] == "ended"]
        assert ended["error"].startswith(told) or told in ended["error"]
        assert "run ffsuper library --load as a user who may load libraries" in ended["error"]
        assert "Traceback" not in worker.log_path.read_text()
        assert store.admin.dbsize() == 0


def test_a_library_that_is_lost_is_waited_for_until_an_operator_loads_it(
    guarded: Guarded, workers: Workers, submitter: Client
) -> None:
    worker = workers.start()
    execution = submitter.submit("echo")
    all_complete(submitter, execution)
    guarded.admin.execute_command("FUNCTION FLUSH")
    worker.wait_for("store away")
    assert guarded.ffsuper("operator", "library", "--load").returncode == Exit.OK
    all_complete(submitter, submitter.submit("echo"))
    assert guarded.refusals() == []


def test_a_wrong_password_is_told_and_nobody_is_the_default_user(guarded: Guarded, workers: Workers) -> None:
    (guarded.folder / "password").write_text("another\n")
    worker = workers.launch()
    assert worker.wait() == Exit.STORE_ACCESS
    assert "invalid username-password pair" in worker.log_path.read_text()
    with redis.Redis.from_url(guarded.url) as anybody, pytest.raises(redis.AuthenticationError):
        anybody.ping()


def test_a_user_has_no_password_until_it_is_given_one(tmp_path: Path) -> None:
    acl = tmp_path / "users.acl"
    acl.write_text("".join(file.read_text() for file in acl_files()))
    with running_server(tmp_path, "--aclfile", str(acl)) as url:
        for user in USERS:
            for password in ("", "ffsuper", user):
                with (
                    redis.Redis.from_url(url, username=f"ffsuper-{user}", password=password) as client,
                    pytest.raises(redis.AuthenticationError),
                ):
                    client.ping()


AT = ExecutionKeys.of(ExecutionId("{fp:7}:00000000-0000-0000-0000-000000000000"))
# What nobody of ffsuper's may do, but where it is said here.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "CONFIG GET": ("requirepass",),
    "CONFIG SET": ("maxmemory", "1"),
    "CONFIG REWRITE": (),
    "FLUSHALL": (),
    "FLUSHDB": (),
    "KEYS": ("*",),
    "SCAN": ("0",),
    "RANDOMKEY": (),
    "DBSIZE": (),
    "ACL LIST": (),
    "ACL SETUSER": ("ffsuper-worker", "+@all"),
    "ACL SAVE": (),
    "EVAL": ("return 1", "0"),
    "EVAL_RO": ("return 1", "0"),
    "EVALSHA": ("0" * 40, "0"),
    "SCRIPT LOAD": ("return 1",),
    "SCRIPT FLUSH": (),
    "FUNCTION DELETE": ("flowfabric",),
    "FUNCTION FLUSH": (),
    "FUNCTION RESTORE": ("",),
    "FUNCTION DUMP": (),
    "FUNCTION KILL": (),
    "CLIENT LIST": (),
    "CLIENT KILL": ("TYPE", "normal"),
    "CLIENT PAUSE": ("1",),
    "CLUSTER RESET": (),
    "MONITOR": (),
    "SHUTDOWN": ("NOSAVE",),
    "SAVE": (),
    "BGREWRITEAOF": (),
    "REPLICAOF": ("NO", "ONE"),
    "PSYNC": ("?", "-1"),
    "MIGRATE": ("127.0.0.1", "1", "key", "0", "1"),
    "MODULE LIST": (),
    "SWAPDB": ("0", "1"),
    "DUMP": (AT.core,),
    "RENAME": (AT.core, "ff:exec:other"),
    "PERSIST": (AT.core,),
    "OBJECT FREQ": (AT.core,),
    "PSUBSCRIBE": ("*",),
    "SUBSCRIBE": ("news",),
    "PUBLISH": ("news", "false"),
    "SPUBLISH": ("news", "false"),
    "PUBSUB CHANNELS": (),
    "GET": ("session:1",),
    "SET": ("session:1", "x"),
    "HGETALL": ("users",),
    "HSET": ("users", "a", "b"),
    "DEL": ("session:1",),
    "FCALL": ("ff_renew_lease", "1", "session:1"),
    "WAITAOF": ("1", "0", "0"),
}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("command", FORBIDDEN)
def test_what_is_outside_is_refused(refusing: Guarded, user: str, command: str) -> None:
    with refusing.connection(user) as client:
        refuses(client, *command.split(), *FORBIDDEN[command])


def refuses(client: Any, *command: str) -> None:
    """Make sure that a command is refused for want of a right, or is none that the server knows."""
    with pytest.raises(redis.ResponseError) as refused:
        client.execute_command(*command)
    is_unknown = str(refused.value).startswith("unknown command")
    assert is_unknown or isinstance(refused.value, redis.exceptions.NoPermissionError), refused.value


NOT_FOR: dict[str, tuple[tuple[str, ...], ...]] = {
    "worker": (
        ("FUNCTION", "LOAD", "REPLACE", "#!lua name=flowfabric\n"),
        ("SET", AT.part("payload"), "x"),
        ("SET", AT.part("policy"), "{}"),
        ("HSET", AT.part("tags"), "a", "b"),
        ("DEL", AT.core),
        ("HSET", AT.partition.waitpoint_hmac, "current_kid", "mine"),
        ("HSET", keys.PARTITION_CONFIG, "num_flow_partitions", "1"),
        ("SET", keys.worker_order("worker-1"), "{}"),
        ("HSET", keys.LEADER, "holder", "mine"),
        ("PUBLISH", "ffsuper:orders", "*"),
        ("SUBSCRIBE", "ff:dag:completions"),
        ("HGETALL", "ff:flow:{fp:7}:x:core"),
        ("GET", AT.partition.idempotency("default", "once")),
        ("HSET", "ff:budget:{b:1}:x:limits", "hard:tokens", "9999"),
        ("FCALL", "ffsuper_lead", "1", keys.LEADER, "mine", "1000"),
    ),
    "engine": (
        ("FUNCTION", "LOAD", "REPLACE", "#!lua name=flowfabric\n"),
        ("HSET", AT.partition.waitpoint_hmac, "current_kid", "mine"),
        ("HSET", keys.PARTITION_CONFIG, "num_flow_partitions", "1"),
        ("SET", keys.worker_order("worker-1"), "{}"),
        ("PUBLISH", "ffsuper:orders", "*"),
    ),
    "server": (
        ("FUNCTION", "LOAD", "REPLACE", "#!lua name=flowfabric\n"),
        ("HSET", keys.PARTITION_CONFIG, "num_flow_partitions", "1"),
        ("SET", keys.worker_alive("worker-1"), "mine"),
        ("SET", keys.worker_order("worker-1"), "{}"),
        ("PUBLISH", "ffsuper:orders", "*"),
    ),
    "submitter": (
        ("FUNCTION", "LOAD", "REPLACE", "#!lua name=flowfabric\n"),
        ("HSET", AT.part("claim_grant"), "worker_id", "mine"),
        ("HSET", AT.part("lease:current"), "lease_id", "mine"),
        ("SET", AT.part("result"), "x"),
        ("XADD", AT.stream(0), "*", "a", "b"),
        ("ZADD", AT.partition.index("lease_expiry"), "1", AT.id),
        ("ZADD", AT.partition.lane(LaneId("default"), "active"), "1", AT.id),
        ("SADD", AT.partition.worker_leases("mine"), AT.id),
        ("HSET", AT.partition.waitpoint_hmac, "current_kid", "mine"),
        ("SET", keys.worker_alive("worker-1"), "mine"),
        ("GET", keys.worker_alive("worker-1")),
        ("SADD", keys.LANES, "mine"),
        ("SUBSCRIBE", "ffsuper:eligible:default"),
        ("PUBLISH", "ffsuper:orders", "*"),
    ),
    "operator": (
        ("FUNCTION", "DELETE", "flowfabric"),
        ("HSET", AT.part("lease:current"), "lease_id", "mine"),
        ("SET", AT.part("result"), "x"),
        ("SET", keys.worker_alive("worker-1"), "mine"),
        ("DEL", keys.worker_order("worker-1")),
        ("HDEL", AT.partition.waitpoint_hmac, "current_kid"),
    ),
}


@pytest.mark.parametrize(
    ("user", "command"),
    [(user, command) for user, commands in NOT_FOR.items() for command in commands],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_what_another_user_is_for_is_refused(refusing: Guarded, user: str, command: tuple[str, ...]) -> None:
    with refusing.connection(user) as client:
        refuses(client, *command)


def test_a_submitter_can_neither_claim_nor_complete(
    guarded: Guarded, workers: Workers, submitter: Client, tmp_path: Path
) -> None:
    waiting, running = submitter.submit("echo", lane="nobody"), submitter.submit("until-cancelled", str(tmp_path))
    workers.start().wait_for("claimed")
    before = submitter.show(waiting)
    record = submitter.show(running).record
    at, taken = ExecutionKeys.of(ExecutionId(waiting)), ExecutionKeys.of(ExecutionId(running))
    lane = LaneId("nobody")
    index = at.partition.index
    lease = (record["current_lease_id"], record["current_lease_epoch"], record["current_attempt_id"])
    attempt = taken.attempt(0)
    calls: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
        (
            "ff_issue_claim_grant",
            (at.core, at.part("claim_grant"), at.partition.lane(lane, "eligible")),
            (waiting, "me", "me", lane, "", "1000", "", "", ""),
        ),
        (
            "ffsuper_claim_first",
            (
                *(
                    at.partition.lane(lane, "eligible"),
                    at.partition.lane(lane, "blocked:route"),
                    index("lease_expiry"),
                ),
                *(at.partition.worker_leases("me"), at.partition.lane(lane, "active")),
                *(index("execution_deadline"), at.partition.noop),
            ),
            ("", "me", "me", lane, "1000", "1000", "0", "0", "lease", "attempt"),
        ),
        (
            "ff_complete_execution",
            (
                *(taken.core, attempt, taken.partition.index("lease_expiry")),
                *(taken.partition.worker_leases("worker-1"), taken.partition.lane(LaneId("default"), "terminal")),
                *(taken.part("lease:current"), taken.part("lease:history")),
                *(taken.partition.lane(LaneId("default"), "active"), taken.stream_meta(0), taken.part("result")),
                *(taken.partition.index("attempt_timeout"), taken.partition.index("execution_deadline")),
            ),
            (running, *lease, "forged"),
        ),
    ]
    with guarded.connection("submitter") as client:
        for function, touched, arguments in calls:
            try:
                reply = client.fcall(function, len(touched), *touched, *arguments)
            except redis.exceptions.NoPermissionError:
                continue
            except redis.ResponseError as error:
                assert "user executing the script" in str(error) or "ACL failure" in str(error)  # noqa: PT017
                continue
            pytest.fail(f"{function} answers {reply}")
    assert submitter.show(waiting).record == before.record
    assert submitter.state(running) == "active"
    assert submitter.result(running) is None


def test_who_may_cancel_may_also_write_the_record_by_hand(guarded: Guarded, submitter: Client) -> None:
    """The limit of what an ACL can do, as the docs tell it: functions run with the rights of those who call them."""
    execution = submitter.submit("echo", lane="nobody")
    with guarded.connection("submitter") as client:
        client.hset(ExecutionKeys.of(ExecutionId(execution)).core, "public_state", "completed")
    assert submitter.state(execution) == "completed"


SETTING_UP = frozenset({"ffsuper_install_partitions", "ffsuper_install_secret"})
ROTATION = frozenset({"ffsuper_rotate_secret"})
PRESENCE = frozenset({"ffsuper_release_alive", "ffsuper_renew_alive", "ffsuper_replace_alive"})
CONNECTING = ("store/wire", "store/cluster", "store/libraries", "store/loading", "store/presence")
WORKING = (
    *("store/announcements", "store/secrets", "store/attempts", "store/batch_claims", "store/claim_calls"),
    *("store/claims", "store/single_claims", "store/finds", "store/scans", "store/takeovers", "store/leases"),
    *("store/outcomes", "store/delivery", "store/looks", "store/signals"),
)
SWEEPING = (
    "store/leadership",
    "store/sweeps",
    "store/blocked",
    "store/housekeeping",
    "store/dependencies",
    "store/looks",
)
SUBMITTING = ("store/submissions", "store/signals", "store/streams", "store/flows", "store/operations")


@dataclass(frozen=True)
class Part:
    """What a user's program consists of.

    Attributes:
        modules: of ffsuper that ask the store.
        without: functions and commands in them that it has no need for, because others do that for it.
    """

    modules: tuple[str, ...]
    without: frozenset[str]


PARTS = {
    "worker": Part((*CONNECTING, *WORKING), SETTING_UP | ROTATION | {"function|load"}),
    "engine": Part((*CONNECTING, *WORKING, *SWEEPING), SETTING_UP | ROTATION | {"function|load"}),
    "submitter": Part(
        (*CONNECTING, *SUBMITTING), SETTING_UP | PRESENCE | {"function|load", "sscan", "sadd", "srem", "set", "del"}
    ),
    "server": Part(
        (
            *CONNECTING,
            *SUBMITTING,
            *SWEEPING,
            "store/announcements",
            "store/admission",
            "store/budgets",
            "store/secrets",
        ),
        frozenset({"ffsuper_install_partitions", "function|load"}) | PRESENCE,
    ),
    "operator": Part(
        (*CONNECTING, *SUBMITTING, "store/fleet", "store/workers", "store/secrets"), ROTATION | PRESENCE | {"sscan"}
    ),
}


@pytest.mark.parametrize("user", USERS)
def test_a_user_may_use_the_commands_that_its_programs_use_and_no_others(refusing: Guarded, user: str) -> None:
    known = {name.decode() for name in refusing.admin.execute_command("COMMAND LIST")}
    needs = needs_of(PARTS[user].modules, known)
    needed = {"fcall"} | HANDSHAKE | (needs.commands - PARTS[user].without)
    for function in needs.functions - PARTS[user].without:
        needed |= commands_inside(function, known)
    assert rights_of(user, r"\+([a-z|_]+)") == needed


def rights_of(user: str, pattern: str) -> set[str]:
    """Return what a user's file grants."""
    (file,) = [file for file in acl_files() if file.stem == user]
    text = file.read_text()
    assert text.startswith(f"user ffsuper-{user} on resetpass resetkeys resetchannels clearselectors -@all ")
    assert text.count("\n") == 1
    assert not re.search(r"[+~&]@|nopass|allkeys|allchannels|~\*|&\*|>|<", text)
    return set(re.findall(pattern, text))


@pytest.mark.parametrize("user", USERS)
def test_a_user_reaches_only_keys_and_channels_that_are_named_in_the_sources(user: str) -> None:
    sources = [*CHECKOUT.glob("ffsuper/store/*.py"), *CHECKOUT.glob("lua/*/*.lua")]
    text = "\n".join(source.read_text(encoding="utf-8") for source in sources)
    families = set(re.findall(r"[\"'](ff(?:super)?:[a-z_]+)", text))
    for pattern in rights_of(user, r"(?:%R)?[~&](\S+?)[\s)]"):
        head = re.match(r"ff(?:super)?:[a-z_]+(?=[:\s]|$)", pattern)
        assert pattern == "ffsuper:*" or (head and head[0] in families), pattern


def test_every_file_belongs_to_a_user_that_is_tested() -> None:
    assert {file.stem for file in acl_files()} == set(USERS)
