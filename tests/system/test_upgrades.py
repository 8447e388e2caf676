"""Programs of several releases on one store: libraries are replaced under workers that run.

Libraries of other releases are made of ours. Where a later one takes other arguments, its functions have other names.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from ffsuper.cli import Exit
from ffsuper.client import Client
from ffsuper.messages import ExecutionId, LaneId
from ffsuper.store.libraries import FFSUPER, FLOWFABRIC, NAMES, Mark, assemble, own_mark
from ffsuper.store.submissions import Submission
from tests.store.older import LATER_FUNCTIONS, library_of
from tests.system.workers import Worker, Workers, eventually

EARLIER, LATER = (0, 0, 1), (99, 0, 0)
COUNT = 40
WITHOUT = "function missing in the store; doing without"
# Of the later library, one that takes its arguments in another order.
SHUFFLED = """
register('ffsuper_claim_ahead', function(keys, args)
  refuse('invalid_input', 'arguments of another release')
end)
"""
NEVER = {"FFSUPER_STORE_LIBRARY": "never"}
RETRY_AT_ONCE = {"retry_policy": {"max_retries": 3, "backoff": {"type": "fixed", "delay_ms": 0}}}


def later(name: str = FFSUPER, without: Sequence[str] = LATER_FUNCTIONS) -> str:
    """Return a library of the next release, which has other functions in the place of these."""
    return library_of(name, LATER, without=tuple(without)) + (SHUFFLED if name == FFSUPER else "")


def other_version(release: tuple[int, ...] | None, version: str) -> str:
    """Return a library that speaks another version of the protocol: one of ours, or a foreign one."""
    text = library_of(FLOWFABRIC, release or LATER).replace("return '5'", f"return '{version}'")
    return text if release else "".join(line for line in text.splitlines(True) if not line.startswith("-- ffsuper "))


def put(store: redis.Redis, *texts: str) -> None:
    """Load libraries in place of others."""
    for text in texts:
        store.function_load(text, replace=True)


def held(store: redis.Redis, name: str = FFSUPER) -> Mark | None:
    """Return which library of ours the store holds."""
    found: Any = store.function_list(name, withcode=True)
    return Mark.found_in(dict(zip(found[0][::2], found[0][1::2], strict=True))[b"library_code"].decode())


def submit(client: Client, folder: Path, count: int = COUNT) -> list[ExecutionId]:
    """Submit work of all sorts: some fails at first, some is delayed, the rest leaves traces."""
    kinds = ["fail-once", "defer-once", *["work"] * (count - 2)]
    payload = json.dumps({"folder": str(folder), "seconds": 0.01}).encode()
    return client.submit_many(
        [
            Submission(
                execution_id=client.new_id("default"),
                lane=LaneId("default"),
                execution_kind=kind,
                payload=payload if kind == "work" else b"",
                policy=RETRY_AT_ONCE,
            )
            for kind in kinds
        ]
    )


def begin(client: Client, folder: Path) -> ExecutionId:
    """Submit an execution that runs until a file appears, and wait until it does."""
    folder.mkdir()
    execution = client.submit("wait-for-file", {"folder": str(folder)})
    eventually((folder / "started-0").exists, "the execution to begin")
    return execution


def all_end(client: Client, executions: Sequence[ExecutionId]) -> None:
    """Wait until executions have completed, and make sure that each did so once, with the attempts that it needs."""

    def states() -> Counter[str | None]:
        return Counter(client.states(list(executions)))

    eventually(lambda: states() == {"completed": len(executions)}, "all executions to complete")
    for one in executions:
        shown = client.show(one)
        ends = [attempt["attempt_state"] for attempt in shown.attempts]
        assert ends == (["ended_failure", "ended_success"] if shown.kind == "fail-once" else ["ended_success"])


def ran_once(client: Client, folder: Path, executions: Sequence[ExecutionId]) -> None:
    """Make sure that the handlers of work were called once for each execution."""
    work = {one for one in executions if client.show(one).kind == "work"}
    lines = (folder / "history").read_text().splitlines()
    begun = Counter(line.split()[1] for line in lines if line.startswith("start"))
    assert begun == Counter(work)


def told(worker: Worker, event: str) -> list[str]:
    """Return the functions that a worker has told of."""
    return sorted(one["function"] for one in worker.events() if one["event"] == event)


def refuses(program: Worker, why: str) -> None:
    """Make sure that a program ends at once, and says why."""
    assert program.wait() == Exit.STORE_UNSUITABLE
    assert "Traceback" not in program.log_path.read_text()
    (ended,) = (one for one in program.events() if one["event"] == "ended")
    assert why in ended["error"]


def end(*workers: Worker) -> None:
    """Drain workers, which have nothing to complain of."""
    for worker in workers:
        worker.process.terminate()
    assert [worker.wait() for worker in workers] == [Exit.OK] * len(workers)


def load_ours(url: str) -> None:
    """Go back to our libraries as an operator does."""
    subprocess.run([sys.executable, "-m", "ffsuper", "library", "--load", "--store", url], check=True)


def test_a_worker_goes_on_by_the_protocol_when_a_later_library_replaces_ours(
    workers: Workers, client: Client, store: redis.Redis, tmp_path: Path
) -> None:
    worker = workers.start(ttl_ms=3000)
    before = submit(client, tmp_path)
    long = begin(client, tmp_path / "long")
    put(store, later(FLOWFABRIC, ()), later())
    after = submit(client, tmp_path)
    all_end(client, [*before, *after])
    worker.wait_for(WITHOUT, function="ffsuper_renew")  # the long one is renewed, too
    worker.wait_for(WITHOUT, function="ffsuper_claim_first")
    (tmp_path / "long" / "go").touch()
    all_end(client, [long])
    ran_once(client, tmp_path, [*before, *after])
    assert held(store) == Mark(LATER, "0000"), "an earlier worker has put its library back"
    assert told(worker, WITHOUT) == ["ffsuper_claim_first", "ffsuper_renew"], "it is to be told once"
    assert not [one for one in worker.events() if one["event"] in ("store away", "claim failed", "lease lost")]
    end(worker)


def test_workers_beside_an_earlier_library_go_on_when_a_new_worker_replaces_it(
    workers: Workers, client: Client, store: redis.Redis, tmp_path: Path
) -> None:
    put(store, library_of(FLOWFABRIC, EARLIER), library_of(FFSUPER, EARLIER, without=LATER_FUNCTIONS))
    workers.environment = NEVER
    early = workers.start("early", ttl_ms=3000, children=1)
    before = submit(client, tmp_path)
    early.wait_for(WITHOUT, function="ffsuper_claim_first")
    long = begin(client, tmp_path / "long")
    assert held(store) == Mark(EARLIER, "0000"), '"never" has replaced a library'
    workers.environment = {}
    new = workers.start("new", ttl_ms=3000, children=1)
    assert [held(store, name) for name in NAMES] == [own_mark(name) for name in NAMES]
    after = submit(client, tmp_path)
    (tmp_path / "long" / "go").touch()
    all_end(client, [*before, *after, long])
    ran_once(client, tmp_path, [*before, *after])
    assert told(new, WITHOUT) == []
    end(early, new)


@pytest.mark.parametrize(
    ("without", "environment"), [((), {}), ((), NEVER), (LATER_FUNCTIONS, {}), (LATER_FUNCTIONS, NEVER)]
)
def test_a_worker_that_starts_beside_a_later_library_works_and_leaves_it(
    without: Sequence[str],
    environment: dict[str, str],
    workers: Workers,
    client: Client,
    store: redis.Redis,
    tmp_path: Path,
) -> None:
    put(store, later(FLOWFABRIC, ()), later(without=without))
    workers.environment = environment
    worker = workers.start()
    executions = submit(client, tmp_path)
    all_end(client, executions)
    ran_once(client, tmp_path, executions)
    assert [held(store, name) for name in NAMES] == [Mark(LATER, "0000")] * 2
    assert told(worker, WITHOUT) == (["ffsuper_claim_first"] if without else [])
    end(worker)


UNSUITABLE = [
    pytest.param([other_version(LATER, "6"), assemble(FFSUPER)], {}, "version 6", id="later version"),
    pytest.param([other_version(LATER, "6"), assemble(FFSUPER)], NEVER, "version 6", id="later version, never"),
    pytest.param([other_version(EARLIER, "4"), assemble(FFSUPER)], NEVER, "version 4", id="earlier version, never"),
    pytest.param([other_version(None, "4")], {}, "version 4", id="foreign, version 4"),
    pytest.param([other_version(None, "6")], {}, "version 6", id="foreign, version 6"),
    pytest.param([later(without=("ffsuper_renew_alive",))], {}, "without ffsuper_renew_alive", id="later interface"),
    pytest.param(
        [assemble(FLOWFABRIC), library_of(FFSUPER, EARLIER, without=("ffsuper_lead",))],
        *(NEVER, "without ffsuper_lead"),
        id="earlier interface, never",
    ),
    pytest.param([], NEVER, "lacks library flowfabric", id="nothing, never"),
]


@pytest.mark.parametrize(("libraries", "environment", "why"), UNSUITABLE)
def test_a_worker_refuses_to_start_on_libraries_that_will_not_do_and_claims_nothing(
    libraries: Sequence[str],
    environment: dict[str, str],
    why: str,
    workers: Workers,
    client: Client,
    store: redis.Redis,
) -> None:
    execution = client.submit("no-op")
    store.function_flush()
    put(store, *libraries)
    workers.environment = environment
    refuses(workers.launch(), why)
    assert client.states([execution]) == ["waiting"]
    assert not [*store.scan_iter("ff:worker:*:alive")]


def test_engines_and_servers_refuse_likewise(workers: Workers, store: redis.Redis) -> None:
    put(store, later(without=("ffsuper_lead",)))
    engine = workers.launch_engine("engine-1")
    server = workers.launch_server("server-1", listen="127.0.0.1:0")
    for program in (engine, server):
        refuses(program, "without ffsuper_lead")
    assert held(store) == Mark(LATER, "0000")


@pytest.mark.parametrize(
    ("replacement", "why"),
    [
        (other_version(None, "4"), "version 4"),
        (later(without=("ffsuper_reclaimable", "ffsuper_trim")), "without ffsuper_reclaimable and 1 more"),
    ],
)
def test_programs_end_in_order_when_libraries_that_will_not_do_replace_ours(
    replacement: str, why: str, workers: Workers, client: Client, store: redis.Redis, tmp_path: Path
) -> None:
    engine, server = workers.start_engine(), workers.launch_server("server-1", listen="127.0.0.1:0", engine="false")
    server.wait_for("ready")
    worker = workers.start(engine="false", children=1)
    long = begin(client, tmp_path / "long")
    put(store, replacement)
    for program in (engine, server):
        assert program.wait() == Exit.STORE_UNSUITABLE
    assert why in worker.wait_for("store unsuitable")["error"]
    worker.wait_for("draining", running=1)
    late = client.submit("no-op")
    (tmp_path / "long" / "go").touch()
    assert worker.wait() == Exit.STORE_UNSUITABLE
    assert worker.events()[-1]["exit_code"] == Exit.STORE_UNSUITABLE
    all_end(client, [long])
    assert client.states([late]) == ["waiting"]
    assert "Traceback" not in worker.log_path.read_text() + engine.log_path.read_text() + server.log_path.read_text()


def test_the_way_back_is_ours_again_for_those_that_run_and_those_that_start(
    workers: Workers, client: Client, store: redis.Redis, store_url: str, tmp_path: Path
) -> None:
    worker = workers.start("first", ttl_ms=3000, children=1)
    put(store, later(FLOWFABRIC, ()), later())
    before = submit(client, tmp_path)
    worker.wait_for(WITHOUT, function="ffsuper_claim_first")
    load_ours(store_url)
    assert [held(store, name) for name in NAMES] == [own_mark(name) for name in NAMES]
    second = workers.start("second", ttl_ms=3000, children=1)
    after = submit(client, tmp_path)
    all_end(client, [*before, *after])
    ran_once(client, tmp_path, [*before, *after])
    assert [held(store, name) for name in NAMES] == [own_mark(name) for name in NAMES]
    assert told(second, WITHOUT) == []
    end(worker, second)


def test_functions_that_are_lost_come_back_beside_a_later_library_that_stays(
    workers: Workers, client: Client, store: redis.Redis, tmp_path: Path
) -> None:
    worker = workers.start(children=1)
    put(store, later())
    store.function_delete(FLOWFABRIC)
    executions = submit(client, tmp_path)
    all_end(client, executions)
    ran_once(client, tmp_path, executions)
    assert (held(store, FLOWFABRIC), held(store)) == (own_mark(FLOWFABRIC), Mark(LATER, "0000"))
    end(worker)
