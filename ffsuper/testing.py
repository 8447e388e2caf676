"""What users need to test their handlers: one at a time without a store, or a whole worker on a store of its own.

    from ffsuper.testing import run_handler

    def test_thumbnail():
        run = run_handler(thumbnail, {"url": "a.png"})
        assert run.result == {"width": 200}

An ``async def`` is awaited, on the test's own loop, so that a mock clock is the handler's clock too:

    async def test_patience(autojump_clock):
        run = await run_async_handler(patient, b"")

``pytest_plugins = ["ffsuper.testing"]`` adds the fixture ``ffsuper_engine``.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from ffsuper.child import registry
from ffsuper.child.async_runtime import AsyncContext, AsyncRuntime
from ffsuper.child.context import Context, Task, Usage, Waitpoint
from ffsuper.child.outcomes import Directive
from ffsuper.child.payload import read_payload, write_result
from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.messages import (
    CreateWaitpoint,
    Emit,
    Emitted,
    FromTask,
    Outcome,
    Progress,
    ReceivedSignal,
    ReportUsage,
    Start,
    UsageReported,
    WaitpointCreated,
)
from ffsuper.store import embedded
from ffsuper.store.store import prepare as prepare_store
from ffsuper.store.submissions import as_payload

STOP_S = 30.0


def signal(name: str, payload: object = b"") -> ReceivedSignal:
    """Return a signal for ``run_handler``; a payload that is not bytes goes as JSON."""
    data = as_payload(payload)
    return ReceivedSignal(str(uuid.uuid4()), name, "external", "client", "test", "", 0, data)


@dataclass
class Run:
    """What a handler has done.

    Attributes:
        outcome: Defer, Suspend, WaitChildren or Cancel, if it ended so; None when it returned a result.
        stored: the result as it would be stored.
        progress: ``(percent, message)``, in order.
        frames: ``(frame type, payload, metadata)``, in order.
        usage: ``(budget id, usage)``, in order.
        waitpoints: those it has made.
    """

    outcome: Outcome | None = None
    stored: bytes = b""
    progress: list[tuple[int, str]] = field(default_factory=list)
    frames: list[tuple[str, bytes, str]] = field(default_factory=list)
    usage: list[tuple[str, Mapping[str, int]]] = field(default_factory=list)
    waitpoints: list[Waitpoint] = field(default_factory=list)

    @property
    def result(self) -> Any:
        """The result as JSON; None when there is none."""
        return json.loads(self.stored) if self.stored else None


class Supervisor:
    """Stands where the supervisor would, answers at once, and writes down what it is told.

    Attributes:
        draining: what ``Context.draining`` says.
    """

    def __init__(self, run: Run, answer_usage: Callable[[Mapping[str, int]], Usage] | None, draining: bool) -> None:
        self.draining = draining
        self.task: Task | None = None
        self._run = run
        self._answer_usage = answer_usage or (lambda _usage: Usage("ok"))

    def send(self, message: FromTask) -> None:
        """Take what the handler says."""
        assert self.task is not None
        match message:
            case Progress(_, percent, text):
                self._run.progress.append((percent, text))
            case Emit(number, frame_type, metadata, payload):
                self._run.frames.append((frame_type, payload, metadata))
                self.task.note(Emitted(number, 1, ""))
            case ReportUsage(number, request, budget_id, usage, _):
                self._run.usage.append((budget_id, usage))
                told = self._answer_usage(usage)
                status = told.status.upper()
                self.task.note(UsageReported(number, request, status, told.dimension, told.current, told.limit))
            case CreateWaitpoint(number, request, key, _):
                point = Waitpoint(str(uuid.uuid4()), key or "key", f"test:{uuid.uuid4()}")
                self._run.waitpoints.append(point)
                self.task.note(WaitpointCreated(number, request, point.id, point.key, point.token))

    def wait(self, ready: Callable[[], bool]) -> None:
        """Everything is answered already."""
        assert ready()

    async def wait_until(self, ready: Callable[[], bool]) -> None:
        """Everything is answered already."""
        assert ready()

    async def wait_room(self) -> None:
        """There is always room."""


@dataclass(frozen=True)
class Prepared:
    """A handler that is about to be called."""

    run: Run
    call: Callable[[], Any]

    def end(self, value: object) -> Run:
        """Note what it returned."""
        if isinstance(value, Directive):
            self.run.outcome = value.outcome()
        else:
            self.run.stored = write_result(value)
        return self.run


def prepare(
    function: Callable[..., Any],
    payload: object,
    *,
    signals: Sequence[ReceivedSignal] = (),
    attempt_index: int = 0,
    attempt_type: str = "initial",
    tags: Mapping[str, str] | None = None,
    deadline: datetime | None = None,
    draining: bool = False,
    answer_usage: Callable[[Mapping[str, int]], Usage] | None = None,
) -> Prepared:
    """Return a call of a handler as a child would make it: the payload goes through bytes and the handler's type."""
    found = next((one for one in registry.HANDLERS.values() if one.function is function), None)
    if found is None:
        raise ValueError(f"{registry.place(function)} is no handler: decorate it with @handler(kind)")
    data = as_payload(payload)
    deadline_ms = None if deadline is None else int(deadline.timestamp() * 1000)
    kind_of_attempt = "resumed" if signals else attempt_type
    execution_id = f"{{fp:0}}:{uuid.uuid4()}"
    start = Start(
        *(1, execution_id, found.execution_kind, attempt_index, kind_of_attempt),
        *(tags or {}, deadline_ms, tuple(signals), data),
    )
    run = Run()
    supervisor = Supervisor(run, answer_usage, draining)
    supervisor.task = Task(start)
    context: Context | AsyncContext
    if found.library is None:
        context = Context(supervisor.task, supervisor)
    else:
        context = AsyncContext(supervisor.task, cast("AsyncRuntime", supervisor))
    arguments = (read_payload(data, found.payload_type),) if found.takes_payload else ()
    return Prepared(run, lambda: found.function(context, *arguments))


def run_handler(function: Callable[..., Any], payload: object = b"", **given: Any) -> Run:
    """Call a plain handler without a store and without a child; what it raises besides outcomes is raised here.

    Args:
        function: decorated with ``@handler``.
        payload: bytes as they are, anything else as JSON.
        given: ``signals`` (of ``signal``), ``attempt_index``, ``attempt_type``, ``tags``, ``deadline``, ``draining``,
            ``answer_usage`` (usage by dimension to ``Usage``).

    Raises:
        ValueError: it is no handler, or an async one.
        PayloadError: the payload does not fit the handler's type.
        ResultError: its value cannot be stored.
    """
    if inspect.iscoroutinefunction(function):
        raise ValueError(f"{registry.place(function)} is async: await run_async_handler")
    prepared = prepare(function, payload, **given)
    try:
        return prepared.end(prepared.call())
    except Directive as directive:
        return prepared.end(directive)


async def run_async_handler(function: Callable[..., Awaitable[Any]], payload: object = b"", **given: Any) -> Run:
    """As ``run_handler`` for an ``async def``, on the loop that this is awaited on, with that loop's clock."""
    prepared = prepare(function, payload, **given)
    try:
        return prepared.end(await prepared.call())
    except Directive as directive:
        return prepared.end(directive)


class Engine:
    """A store with all that makes time pass in it, and workers on it.

    Attributes:
        client: for submitting, signalling, looking.
    """

    def __init__(self, folder: Path, store: StoreConfig) -> None:
        self.client = Client(store)
        self._folder = folder
        self._store = store

    @contextmanager
    def worker(self, *modules: str, **settings: Mapping[str, object]) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker, in a process of its own, while the block lasts; it drains at the end.

        Args:
            modules: register the handlers; imported from where the tests' own modules are.
            settings: sections of worker.toml, as ``children={"count": 1}``.
        """
        sections: dict[str, dict[str, object]] = {
            "worker": {"handlers": list(modules), "python_path": [path for path in sys.path if Path(path).is_dir()]},
            "store": {"url": self._store.url},
            "engine": {"enabled": True, "delayed_interval_ms": 20, "lease_expiry_interval_ms": 20},
            "claim": {"poll_interval_ms": 20},
        }
        for section, keys in settings.items():
            sections.setdefault(section, {}).update(keys)
        path = self._folder / f"worker-{uuid.uuid4()}.toml"
        path.write_text("\n".join(toml_section(name, keys) for name, keys in sections.items()))
        process = subprocess.Popen([sys.executable, "-m", "ffsuper", "--config", str(path)])
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def toml_section(name: str, keys: Mapping[str, object]) -> str:
    """Return a section of worker.toml; JSON's texts, numbers, booleans and lists are TOML's too."""
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


@contextmanager
def private_engine() -> Iterator[Engine]:
    """Provide an engine on a store of its own, which is gone afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ffsuper-")))
        settings = StoreConfig(url="embedded", data_dir=folder / "data")
        store = stack.enter_context(embedded.reachable(settings))
        prepare_store(store, embedded.COUNTS)
        engine = Engine(folder, store)
        stack.callback(engine.client.close)
        yield engine


try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture
    def ffsuper_engine() -> Iterator[Engine]:
        """Provide a private engine for one test."""
        with private_engine() as engine:
            yield engine
