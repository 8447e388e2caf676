"""Workers that take what a server admits: budgets, quotas, capabilities, suspensions; the server is started again."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ffsuper.admin.client import AdminClient
from ffsuper.client import Client
from ffsuper.errors import InvalidRequestError
from tests.system.test_server import free_port, start_server
from tests.system.workers import LIMIT_S, Worker, Workers, eventually


@dataclass
class World:
    """A server, a worker that takes its work from it, and somebody who knows nothing but the server."""

    workers: Workers
    port: int
    server: Worker
    admin: AdminClient

    def start_worker(self, name: str, **settings: object) -> Worker:
        return self.workers.start(name, engine="false", source="server", server_url=self.url, **settings)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def restart_server(self) -> None:
        self.server.signal(signal.SIGTERM)
        assert self.server.wait() == 0
        self.server = start_server(self.workers, self.port)

    def blocked_for(self, execution: str, reason: str) -> None:
        """Wait until an execution is blocked for this reason."""
        eventually(lambda: self.admin.show(execution).record["blocking_reason"] == reason, f"{execution}: {reason}")

    def completes(self, execution: str) -> None:
        assert self.admin.wait(execution, LIMIT_S).state == "completed"


@pytest.fixture
def world(workers: Workers, client: Client) -> Iterator[World]:
    port = free_port()
    server = start_server(workers, port)
    with AdminClient(f"http://127.0.0.1:{port}", patience_s=LIMIT_S) as admin:
        world = World(workers, port, server, admin)
        world.start_worker("worker-1", children=4)
        yield world


def gate(folder: Path, name: str) -> dict[str, Any]:
    """Return the payload of an execution that runs until its gate is opened."""
    (folder / name).mkdir()
    return {"folder": str(folder / name)}


def has_begun(folder: Path, name: str) -> bool:
    return (folder / name / "started-0").exists()


def open_gate(folder: Path, name: str) -> None:
    (folder / name / "go").touch()


def test_a_budget_that_is_breached_holds_executions_back_until_it_is_reset(world: World) -> None:
    budget = world.admin.create_budget({"tokens": 10})
    policy = {"budget_ids": [budget]}
    world.completes(world.admin.submit("echo", policy=policy))
    assert world.admin.report_usage(budget, {"tokens": 10}).status == "ok"
    spender = world.admin.submit("echo", policy=policy)
    plain = world.admin.submit("echo")
    world.completes(plain)
    world.blocked_for(spender, "waiting_for_budget")
    world.restart_server()
    world.admin.reset_budget(budget)
    world.completes(spender)


def test_a_quota_lets_so_many_run_at_a_time_and_the_next_when_one_has_ended(world: World, tmp_path: Path) -> None:
    policy = {"quota_policy_id": world.admin.create_quota(max_concurrent=2)}
    names = [f"gate-{number}" for number in range(4)]
    executions = [world.admin.submit("wait-for-file", gate(tmp_path, name), policy=policy) for name in names]
    eventually(lambda: sum(has_begun(tmp_path, name) for name in names) == 2, "two to begin")
    running = [name for name in names if has_begun(tmp_path, name)]
    for execution, name in zip(executions, names, strict=True):
        if name not in running:
            world.blocked_for(execution, "waiting_for_quota")
    assert sum(has_begun(tmp_path, name) for name in names) == 2
    open_gate(tmp_path, running[0])
    eventually(lambda: sum(has_begun(tmp_path, name) for name in names) == 3, "the third to begin")
    world.restart_server()
    for name in names:
        open_gate(tmp_path, name)
    for execution in executions:
        world.completes(execution)


def test_an_execution_waits_for_a_worker_that_can_run_it(world: World) -> None:
    policy = {"routing_requirements": {"required_capabilities": ["gpu"]}}
    demanding = world.admin.submit("echo", policy=policy)
    world.blocked_for(demanding, "waiting_for_capable_worker")
    world.start_worker("worker-2", capabilities='["gpu"]')
    world.completes(demanding)
    assert world.admin.show(demanding).attempts[0]["worker_instance_id"] == "worker-2"


def test_a_suspended_execution_gives_its_place_back_and_comes_back_by_the_server(world: World) -> None:
    policy = {"quota_policy_id": world.admin.create_quota(max_concurrent=1)}
    waits = world.admin.submit("approval", {"signals": ["go"]}, policy=policy)
    eventually(lambda: world.admin.state(waits) == "suspended", "the suspension")
    world.completes(world.admin.submit("echo", policy=policy))
    world.restart_server()
    assert world.admin.signal(waits, "go", {"by": "ann"}).effect == "resume_condition_satisfied"
    world.completes(waits)
    assert b"ann" in (world.admin.result(waits) or b"")


def test_a_policy_without_a_budgets_id_is_refused(world: World) -> None:
    with pytest.raises(InvalidRequestError, match="invalid_policy_json"):
        world.admin.submit("echo", policy={"budget_ids": [str(uuid.uuid4()), "nonsense"]})
