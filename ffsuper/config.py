"""worker.toml and environment to frozen classes. Nothing else reads settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Section ``[worker]``: who this worker is and what it takes.

    Attributes:
        id: logical worker; grants are made out to it. All instances of one pool share it.
        instance_id: this process; one live process per name. Default: ``<id>@<host name>``.
        lanes: the lanes whose executions it claims, taken in turn.
        capabilities: tokens that executions may require; sorted and without duplicates once loaded.
        handlers: importable modules that register the handlers.
        python_path: folders put before ``sys.path`` in the children, relative to the file.
    """

    id: str = "ffsuper"
    instance_id: str = ""
    lanes: tuple[str, ...] = ("default",)
    capabilities: tuple[str, ...] = ()
    handlers: tuple[str, ...] = ()
    python_path: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Section ``[store]``: where the executions are kept.

    Attributes:
        url: ``redis://``, ``rediss://``, ``unix://`` or ``embedded``.
        username: ACL user; empty for the default one.
        password: from ``password_file``, the credential ``store_password`` or the environment; never from the file.
        password_file: a file whose first line is the password.
        tls_ca_file: certificates to trust, for ``rediss://``; the system's when absent.
        tls_cert_file: our certificate, where the server asks for one.
        tls_key_file: its key.
        data_dir: where the embedded store keeps its data, relative to the file.
        timeout_s: how long one call may take, connecting included.
        library: ``auto`` loads missing or older libraries of ours; ``replace`` also replaces a foreign ``flowfabric``
            library; ``never`` loads nothing.
    """

    url: str = "redis://localhost:6379/0"
    username: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    data_dir: Path = Path("ffsuper-data")
    timeout_s: float = 5.0
    library: Literal["auto", "replace", "never"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseConfig:
    """Section ``[lease]``: how long a claim holds without renewal.

    Attributes:
        ttl_ms: lease length on the store's clock; renewed every third of it.
        margin_ms: a child is killed this long before its lease can end.
    """

    ttl_ms: int = 30_000
    margin_ms: int = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimConfig:
    """Section ``[claim]``: how work is found.

    Attributes:
        poll_interval_ms: pause after a whole round over all lanes and partitions found nothing.
        unknown_kind: what happens to executions of a kind that no handler is registered for: ``leave`` them to other
            workers, or ``fail`` them with category ``unknown_kind``.
    """

    poll_interval_ms: int = 200
    unknown_kind: Literal["leave", "fail"] = "leave"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildrenConfig:
    """Section ``[children]``: the processes that run the handlers.

    Attributes:
        count: child processes; each runs one execution at a time. Default: the number of cores.
        preload: import the handlers once and fork, so that children start fast and share their pages.
        timeout_s: a handler is interrupted after this time unless its registration says otherwise; 0 for never.
        grace_s: time between interrupting a handler and killing its child.
        boot_timeout_s: a child that is not ready by then is killed.
        max_restarts: children may die unasked this often ...
        restart_window_s: ... within this time, before the worker gives up.
        environment: variables of the children, besides PATH, HOME, LANG, LC_*, TZ and PYTHON*.
    """

    count: int = 0
    preload: bool = True
    timeout_s: float = 0.0
    grace_s: float = 5.0
    boot_timeout_s: float = 30.0
    max_restarts: int = 20
    restart_window_s: float = 60.0
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainConfig:
    """Section ``[drain]``: stopping.

    Attributes:
        timeout_s: running work may finish for this long after SIGTERM; what is left is killed and handed back.
    """

    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Section ``[engine]``: the sweeps that make time pass.

    Attributes:
        enabled: run them in this process; the default is true for the embedded store only.
        delayed_interval_ms: between looks for delayed executions that have fallen due.
        lease_expiry_interval_ms: between looks for leases that ran out.
    """

    enabled: bool | None = None
    delayed_interval_ms: int = 500
    lease_expiry_interval_ms: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """Section ``[log]``: one line an event, on stderr.

    Attributes:
        level: least severity that is written.
        format: ``keyvalue``, ``json``, or ``auto``: key=value on a terminal and JSON elsewhere.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "keyvalue", "json"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole of worker.toml."""

    worker: WorkerConfig = field(default_factory=WorkerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    lease: LeaseConfig = field(default_factory=LeaseConfig)
    claim: ClaimConfig = field(default_factory=ClaimConfig)
    children: ChildrenConfig = field(default_factory=ChildrenConfig)
    drain: DrainConfig = field(default_factory=DrainConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    log: LogConfig = field(default_factory=LogConfig)
