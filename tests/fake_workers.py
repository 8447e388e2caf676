"""Workers that only say how they are, and obey: what a look at a fleet needs of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ffsuper.store import keys
from ffsuper.store.announcements import ORDERS

TTL_MS = 60_000
LISTEN_S = 10.0
AFTER = {"quiet": "quiet", "resume": "running"}


@dataclass
class FakeWorker:
    """One of them. Its clock goes on by a second whenever it says something.

    Attributes:
        told: what it says beside what all do.
        obeyed: the orders that were for it.
    """

    name: str
    store: Any  # redis.Redis, whose subscriptions have no types
    told: dict[str, Any] = field(default_factory=dict)
    obeyed: list[str] = field(default_factory=list)
    written_ms: int = 1_000_000

    @property
    def nonce(self) -> str:
        return f"nonce-of-{self.name}"

    def begin(self) -> None:
        """Live: hold the alive key and be listed."""
        holder = {"nonce": self.nonce, "host": "box", "pid": 7, "since": "2026-01-01T00:00:00Z"}
        self.store.set(keys.worker_alive(self.name), json.dumps(holder), px=TTL_MS)
        self.store.sadd(keys.OWN_WORKERS, self.name)

    def say(self) -> None:
        """Write the status."""
        self.written_ms += 1_000
        said = {"nonce": self.nonce, "state": "running", "host": "box", "pid": 7, "written_ms": self.written_ms}
        self.store.set(keys.worker_status(self.name), json.dumps(said | self.told), px=TTL_MS)

    def end(self) -> None:
        """End in order."""
        self.store.srem(keys.OWN_WORKERS, self.name)
        self.store.delete(keys.worker_status(self.name), keys.worker_alive(self.name))

    def obey(self) -> None:
        """Look for an order, and do what it says."""
        order: Mapping[str, Any] = json.loads(self.store.get(keys.worker_order(self.name)) or b"{}")
        if order.get("nonce") != self.nonce:
            return
        self.obeyed.append(order["order"])
        if order["order"] == "drain":
            self.end()
        else:
            self.told["state"] = AFTER[order["order"]]


@contextmanager
def listening(*workers: FakeWorker) -> Iterator[None]:
    """Let workers live, and answer what is announced, while the block lasts."""
    for worker in workers:
        worker.begin()
        worker.say()
    with workers[0].store.pubsub() as subscription:
        subscription.subscribe(ORDERS)
        assert subscription.get_message(timeout=LISTEN_S), "not subscribed"
        end = threading.Event()
        thread = threading.Thread(target=answer, args=(subscription, workers, end))
        thread.start()
        try:
            yield
        finally:
            end.set()
            workers[0].store.publish(ORDERS, "nobody")
            thread.join()


def answer(subscription: Any, workers: tuple[FakeWorker, ...], end: threading.Event) -> None:
    while not end.is_set():
        message = subscription.get_message(timeout=LISTEN_S)
        for worker in workers:
            if message is not None and message["data"] in (b"*", worker.name.encode()):
                worker.obey()
                if "drain" not in worker.obeyed:
                    worker.say()
