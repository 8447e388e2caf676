"""The settings as frozen classes, each of which refuses values that cannot work; ``config_loader`` fills them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from ffsuper import config_rules as rules
from ffsuper.config_rules import Checks

# Section to its one key that never stands in the file.
SECRET_KEYS: Mapping[str, str] = {"store": "password", "claim": "token", "server": "token"}

# Bounds are there to catch a wrong unit or a slip, not to say what is wise.
HOUR_MS = 3_600_000
DAY_S = 86_400.0
YEAR_S = 366 * DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Section ``[worker]``: who this worker is and what it takes.

    Attributes:
        id: logical worker; grants are made out to it. All instances of one pool share it.
        instance_id: this process; one live process per name. Default: ``<id>@<host name>``.
        lanes: the lanes whose executions it claims, taken in turn.
        capabilities: tokens that executions may require; in byte order and without duplicates once loaded.
        handlers: importable modules that register the handlers; at least one once loaded.
        python_path: folders put before ``sys.path`` in the children; absolute once loaded.
    """

    id: str = "ffsuper"
    instance_id: str = ""
    lanes: tuple[str, ...] = ("default",)
    capabilities: tuple[str, ...] = ()
    handlers: tuple[str, ...] = ()
    python_path: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        with Checks(self, "worker") as check:
            check.all_of("id", rules.name_mistakes(self.id))
            if self.instance_id:
                check.all_of("instance_id", rules.name_mistakes(self.instance_id))
            check.items("lanes", rules.lane_mistakes(self.lanes))
            check.items("capabilities", rules.capability_mistakes(self.capabilities))
            check.items("handlers", rules.module_mistakes(self.handlers))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """Section ``[store]``: where the executions are kept.

    Attributes:
        url: ``redis://``, ``rediss://``, ``unix://`` or ``embedded``, or for a cluster ``redis+cluster://`` or
            ``rediss+cluster://`` with one or more of its servers; never with a password.
        username: ACL user; empty for the default one.
        password: from ``password_file`` or the credential ``store_password``; never from the file or the environment.
        password_file: a file whose first line is the password.
        tls_ca_file: certificates to trust, for ``rediss://``; the system's when absent.
        tls_cert_file: our certificate, where the server asks for one.
        tls_key_file: its key, unless the certificate's file has it.
        data_dir: where the embedded store keeps its data; absolute once loaded.
        timeout_s: how long one call may take, connecting included.
        wait_replicas: what is written counts as written when so many replicas have it; 0 for the master alone.
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
    wait_replicas: int = 0
    library: Literal["auto", "replace", "never"] = "auto"

    def __post_init__(self) -> None:
        with Checks(self, "store") as check:
            check.all_of("url", rules.url_mistakes(self.url))
            if self.username:
                check.all_of("username", rules.name_mistakes(self.username))
            check.between("timeout_s", 0.001, 3_600.0)
            check.between("wait_replicas", 0, 100)
            for key in ("tls_ca_file", "tls_cert_file", "tls_key_file"):
                encrypted = getattr(self, key) is None or self.url.startswith(("rediss://", "rediss+cluster://"))
                check.related(key, ["url"], fits=encrypted, text="needs a url that begins with rediss://")
            certified = self.tls_key_file is None or self.tls_cert_file is not None
            check.related("tls_key_file", ["tls_cert_file"], fits=certified, text="needs tls_cert_file beside it")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseConfig:
    """Section ``[lease]``: how long a claim holds without renewal.

    Attributes:
        ttl_ms: lease length on the store's clock; renewed every third of it.
        margin_ms: a child is killed this long before its lease can end.
    """

    ttl_ms: int = 30_000
    margin_ms: int = 2_000

    def __post_init__(self) -> None:
        with Checks(self, "lease") as check:
            check.between("ttl_ms", 1_000, 24 * HOUR_MS)
            check.between("margin_ms", 1, 8 * HOUR_MS)
            text = f"must be at most a third of ttl_ms, which is {self.ttl_ms // 3}, got {self.margin_ms}"
            check.related("margin_ms", ["ttl_ms"], fits=3 * self.margin_ms <= self.ttl_ms, text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimConfig:
    """Section ``[claim]``: how work is found.

    Attributes:
        poll_interval_ms: pause after a whole round over all lanes and partitions found nothing, where no announcement
            ends it: from functions that are not ours, or behind executions that other workers have to take. Else 5 s.
        unknown_kind: what happens to executions of a kind that no handler is registered for: ``leave`` them to other
            workers, or ``fail`` them with category ``unknown_kind``. What a server grants fails: the kind is
            known only after the claim.
        source: ``direct`` looks into the store; ``server`` asks a FlowFabric server, which minds budgets and quotas.
        server_url: the server's ``http://`` or ``https://`` address; never with a user or a password.
        token: from ``token_file`` or the credential ``claim_token``; never from the file or the environment.
        token_file: a file whose first line is the bearer token that the server asks for.
        ca_file: certificates to trust, for ``https://``; the system's when absent.
        grant_ttl_ms: a grant that was lost on the way keeps its execution from all workers for this long.
        server_timeout_s: how long the server may take to answer.
    """

    poll_interval_ms: int = 200
    unknown_kind: Literal["leave", "fail"] = "leave"
    source: Literal["direct", "server"] = "direct"
    server_url: str = ""
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    ca_file: Path | None = None
    grant_ttl_ms: int = 10_000
    server_timeout_s: float = 130.0

    def __post_init__(self) -> None:
        with Checks(self, "claim") as check:
            check.between("poll_interval_ms", 1, HOUR_MS)
            check.between("grant_ttl_ms", 1, 60_000)
            check.between("server_timeout_s", 0.1, 3_600.0)
            if self.server_url:
                check.all_of("server_url", rules.http_url_mistakes(self.server_url))
            given = bool(self.server_url) or self.source == "direct"
            check.related("server_url", ["source"], fits=given, text='must be given when source is "server"')
            encrypted = self.ca_file is None or self.server_url.startswith("https://") or not self.server_url
            check.related(
                "ca_file", ["server_url"], fits=encrypted, text="needs a server_url that begins with https://"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildrenConfig:
    """Section ``[children]``: the processes that run the handlers.

    Attributes:
        count: child processes. 0, the default, becomes the number of usable cores once loaded.
        tasks_per_process: executions that run in a child at once; more than one needs handlers that are all async.
        preload: import the handlers once and fork, so that children start fast and share their pages.
        timeout_s: a handler is interrupted after this time unless its registration says otherwise; 0 for never.
        progress_timeout_s: likewise after this time without a sign of progress.
        grace_s: time between interrupting a handler and killing its child.
        boot_timeout_s: a child that is not ready by then is killed.
        max_restarts: children may die unasked this often ...
        restart_window_s: ... within this time, before the worker gives up.
        recycle_after: a child is replaced after about so many executions; 0 for never.
        soft_memory_mb: ... or when it and its descendants are larger than this after an execution; 0 for no limit.
        hard_memory_mb: a child that grows larger than this is killed, and its attempt fails; 0 for no limit.
        user: whom the children run as, where the worker may change that; empty for the worker's own user.
        open_files: descriptors that a child may have; 0, here and below, for as many as the worker may have.
        processes: with so many processes and threads of its user there are, a child can start no more. Root can.
        file_mb: a child can make no file larger than this.
        core_mb: a child that crashes leaves a core file of at most this; none for 0, whatever the worker may leave.
        environment: variables of the children, besides PATH, HOME, LANG, LC_*, TZ, TMPDIR and PYTHON*.
    """

    count: int = 0
    tasks_per_process: int = 1
    preload: bool = True
    timeout_s: float = 0.0
    progress_timeout_s: float = 0.0
    grace_s: float = 5.0
    boot_timeout_s: float = 30.0
    max_restarts: int = 20
    restart_window_s: float = 60.0
    recycle_after: int = 0
    soft_memory_mb: int = 0
    hard_memory_mb: int = 0
    user: str = ""
    open_files: int = 0
    processes: int = 0
    file_mb: int = 0
    core_mb: int = 0
    environment: dict[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        with Checks(self, "children") as check:
            check.between("count", 0, 4_096)
            check.between("tasks_per_process", 1, 10_000)
            check.between("timeout_s", 0.0, YEAR_S)
            check.between("progress_timeout_s", 0.0, YEAR_S)
            check.between("grace_s", 0.0, DAY_S)
            check.between("boot_timeout_s", 0.1, DAY_S)
            check.between("max_restarts", 0, 1_000_000)
            check.between("restart_window_s", 0.1, YEAR_S)
            check.between("recycle_after", 0, 1_000_000_000)
            check.between("soft_memory_mb", 0, 1_000_000_000)
            check.between("hard_memory_mb", 0, 1_000_000_000)
            ordered = not self.hard_memory_mb or self.soft_memory_mb <= self.hard_memory_mb
            check.related("soft_memory_mb", ["hard_memory_mb"], fits=ordered, text="must not be above hard_memory_mb")
            if self.user:
                check.all_of("user", rules.name_mistakes(self.user))
            if self.open_files:
                check.between("open_files", 32, 1_000_000_000)
            check.between("processes", 0, 4_194_304)
            check.between("file_mb", 0, 1_000_000_000)
            check.between("core_mb", 0, 1_000_000_000)
            check.items("environment", rules.environment_mistakes(self.environment))


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainConfig:
    """Section ``[drain]``: stopping.

    Attributes:
        timeout_s: running work may finish for this long after SIGTERM; what is left is killed and handed back.
        hurried_timeout_s: for this long only after a second SIGTERM; a third ends it at once.
    """

    timeout_s: float = 60.0
    hurried_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        with Checks(self, "drain") as check:
            check.between("timeout_s", 0.0, YEAR_S)
            check.between("hurried_timeout_s", 0.0, YEAR_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Section ``[engine]``: the sweeps that make time pass.

    Attributes:
        enabled: run them in this process. None, the default, becomes true for the embedded store and false for others
            once loaded.
        leader_ttl_ms: of all engines on a store one leads; another takes over at most this long after it has died.
        delayed_interval_ms: between looks for delayed executions that have fallen due. Here, and in the other sweeps
            by time, an entry that was there at the last look is moved when it falls due, not an interval later.
        lease_expiry_interval_ms: between looks for leases that ran out.
        attempt_timeout_interval_ms: between looks for attempts that take too long.
        execution_deadline_interval_ms: between looks for executions past their deadline.
        suspension_timeout_interval_ms: between looks for suspensions that time out.
        pending_waitpoint_interval_ms: between looks for waitpoints that no suspension has used.
        unblock_interval_ms: between looks whether what blocked executions wait for is there: a capable worker, or
            room in a budget or a quota.
        dependency_interval_ms: between looks at executions that wait for others; usually these are told at once.
        retention_interval_ms: between looks for ended executions that were kept for long enough.
        index_interval_ms: between looks whether all executions are in the indexes that they belong into.
        flow_summary_interval_ms: between summaries of the flows.
        budget_reset_interval_ms: between looks for budgets that are to be reset.
        budget_interval_ms: between looks whether the breach marks of budgets are right.
        quota_interval_ms: between looks whether the counters of quotas are right, and whose places are not needed.
    """

    enabled: bool | None = None
    leader_ttl_ms: int = 3_000
    delayed_interval_ms: int = 250
    lease_expiry_interval_ms: int = 500
    attempt_timeout_interval_ms: int = 1_000
    execution_deadline_interval_ms: int = 1_000
    suspension_timeout_interval_ms: int = 1_000
    pending_waitpoint_interval_ms: int = 5_000
    unblock_interval_ms: int = 2_000
    dependency_interval_ms: int = 15_000
    retention_interval_ms: int = 60_000
    index_interval_ms: int = 300_000
    flow_summary_interval_ms: int = 15_000
    budget_reset_interval_ms: int = 5_000
    budget_interval_ms: int = 30_000
    quota_interval_ms: int = 30_000

    def __post_init__(self) -> None:
        with Checks(self, "engine") as check:
            check.between("leader_ttl_ms", 300, HOUR_MS)
            for key in (one.name for one in fields(self) if one.name.endswith("_interval_ms")):
                check.between(key, 1, 24 * HOUR_MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Section ``[server]``: the HTTP interface, of ``ffsuper server`` only.

    Attributes:
        listen: address and port.
        token: from ``token_file`` or the credential ``server_token``; never from the file or the environment.
        token_file: a file whose first line is the bearer token that requests have to bring; without any, none has to.
        cors_origins: web pages of these origins may ask, ``*`` for all; none may without any.
        stream_operations: reads and tails of output that are served at a time; more are refused with status 429.
        secret_grace_s: waitpoint tokens stay valid for so long after their secret was changed.
    """

    listen: str = "127.0.0.1:9090"
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    cors_origins: tuple[str, ...] = ()
    stream_operations: int = 64
    secret_grace_s: float = DAY_S

    def __post_init__(self) -> None:
        with Checks(self, "server") as check:
            check.all_of("listen", rules.listen_mistakes(self.listen))
            check.items("cors_origins", rules.origin_mistakes(self.cors_origins))
            check.between("stream_operations", 1, 100_000)
            check.between("secret_grace_s", 0.001, YEAR_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusConfig:
    """Section ``[status]``: what the worker tells about itself.

    Attributes:
        listen: address and port of ``/livez``, ``/readyz`` and ``/metrics``; ``auto`` is port 9464 on loopback, or
            where that is taken a free one; nothing is served when it is empty.
        stuck_after_s: an actor that does one thing for longer than this is stuck: the worker stops saying that it is
            alive. Calls to the store have to fit into it.
    """

    listen: str = "auto"
    stuck_after_s: float = 60.0

    def __post_init__(self) -> None:
        with Checks(self, "status") as check:
            if self.listen not in ("", "auto"):
                check.all_of("listen", rules.listen_mistakes(self.listen))
            check.between("stuck_after_s", 1.0, DAY_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingConfig:
    """Section ``[tracing]``: OpenTelemetry, whose own environment variables say where to, and how much.

    Attributes:
        enabled: each attempt becomes a span, linked to the span in which its execution was submitted.
    """

    enabled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """Section ``[log]``: one line an event, on stderr.

    Attributes:
        level: least severity that is written.
        format: ``keyvalue``, ``json``, or ``auto``: key=value on a terminal and JSON elsewhere.
        burst: so many lines of one event are written at once, and of what one child prints ...
        per_second: ... and so many a second from then on; 0 for all. Errors are always written.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "keyvalue", "json"] = "auto"
    burst: int = 500
    per_second: float = 100.0

    def __post_init__(self) -> None:
        with Checks(self, "log") as check:
            check.between("burst", 1, 1_000_000)
            check.between("per_second", 0.0, 100_000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole of worker.toml, a field for each section."""

    worker: WorkerConfig = field(default_factory=WorkerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    lease: LeaseConfig = field(default_factory=LeaseConfig)
    claim: ClaimConfig = field(default_factory=ClaimConfig)
    children: ChildrenConfig = field(default_factory=ChildrenConfig)
    drain: DrainConfig = field(default_factory=DrainConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    status: StatusConfig = field(default_factory=StatusConfig)
    tracing: TracingConfig = field(default_factory=TracingConfig)
    log: LogConfig = field(default_factory=LogConfig)


SECTIONS: Mapping[str, type[Any]] = get_type_hints(Config)
