"""The systems, each with the settings that it is measured with.

Two worker processes where a system has such, and eight slots in each where it has slots; all log warnings only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

APPS = Path(__file__).parent / "apps"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One system with its settings.

    Attributes:
        package: its virtual environment; its file among the apps is called after it.
        argv: of its worker, after ``python``; ``{config}``, ``{url}`` are filled in.
        per_s: about so many no-ops a second: says how many make a run of the wanted length. 0: not measured.
        workers: so many of its programs run; ``{number}`` in the environment tells them apart.
        append_only: whether the server writes an append-only file.
        about: what it does with a job, as far as that matters to a comparison.
    """

    name: str
    package: str
    argv: tuple[str, ...]
    per_s: int
    environment: Mapping[str, str] = field(default_factory=dict)
    workers: int = 1
    append_only: bool = False
    about: str = ""

    @property
    def app(self) -> str:
        """Its module among the apps."""
        return f"{self.package}_app"

    @property
    def is_ours(self) -> bool:
        """Whether it is ffsuper."""
        return self.package == "ffsuper"


def ffsuper(
    name: str, children: int, *, per_s: int = 2_500, workers: int = 1, engine: bool = False, **environment: str
) -> System:
    """Return ffsuper with so many children in each worker."""
    own = {"FFSUPER_CHILDREN_COUNT": str(children), "FFSUPER_ENGINE_ENABLED": str(engine).lower()}
    return System(
        name=name,
        package="ffsuper",
        argv=("-m", "ffsuper", "--config", "{config}"),
        per_s=per_s,
        environment=own | environment,
        workers=workers,
        about=f"child processes: {children}; leases, fences, results" + ("; runs the engine" if engine else ""),
    )


def peer(name: str, argv: str, about: str, *, per_s: int = 0, workers: int = 1, **environment: str) -> System:
    """Return a peer; its package is the first part of its name."""
    return System(
        name=name,
        package=name.partition("-")[0],
        argv=tuple(argv.split()),
        per_s=per_s,
        environment=environment,
        workers=workers,
        about=about,
    )


REFERENCE = "ffsuper-4"
OURS = (
    ffsuper("ffsuper-1", 1, per_s=1_000),
    ffsuper("ffsuper-2", 2, per_s=2_000),
    ffsuper(REFERENCE, 4),
    ffsuper("ffsuper-8", 8),
    ffsuper("ffsuper-16", 16),
    ffsuper("ffsuper-4-engine", 4, engine=True),
    ffsuper("ffsuper-4-foreign", 4, BENCH_FOREIGN="1"),
)
# The number of children makes no difference to a worker that has little to do.
AT_REST = OURS[2:]

CELERY = "-m celery -A celery_app worker --pool prefork -c 2 --loglevel WARNING"
RQ = "-m rq.cli worker-pool -n 2 -u {url} --logging-level WARNING default"
DRAMATIQ = "-m dramatiq dramatiq_app -p 2 -t 8"
TASKIQ = "-m taskiq worker taskiq_app:broker --workers 2 --max-async-tasks 8 --log-level WARNING"
HUEY = "-m huey.bin.huey_consumer huey_app.huey -k process -w 2 -q"
SAQ = "-m saq saq_app.settings --workers 2 --quiet"
STREAQ = "-m streaq run streaq_app:worker -w 2"
BULLMQ = "{apps}/bullmq_app.py"
PEERS = (
    peer("celery-late", CELERY, "2 processes; acknowledged late", per_s=1_600),
    peer("celery-late-results", CELERY, "2 processes; acknowledged late, results", per_s=1_200, BENCH_RESULTS="1"),
    peer("rq-fork", RQ, "a process per job; results", per_s=100),
    peer("rq-simple", f"{RQ} -w rq.worker.SimpleWorker", "2 processes; results", per_s=650),
    peer("dramatiq", DRAMATIQ, "8 threads in each of 2 processes", per_s=4_500),
    peer("dramatiq-results", DRAMATIQ, "8 threads in each of 2 processes; results", per_s=3_000, BENCH_RESULTS="1"),
    peer("dramatiq-1-process", DRAMATIQ.replace("-p 2", "-p 1"), "8 threads in 1 process", per_s=2_500),
    peer("taskiq-list", TASKIQ, "2 event loops; at most once", per_s=6_500),
    peer("taskiq-stream", TASKIQ, "2 event loops", per_s=6_500, BENCH_STREAM="1"),
    peer("taskiq-stream-results", TASKIQ, "2 event loops; results", per_s=3_000, BENCH_STREAM="1", BENCH_RESULTS="1"),
    peer("huey", HUEY, "2 processes; at most once, results", per_s=5_000),
    peer("saq", SAQ, "2 event loops; results", per_s=2_400),
    peer("streaq", STREAQ, "2 event loops; results", per_s=1_700),
    peer("bullmq", BULLMQ, "2 event loops; results", per_s=3_700, workers=2),
)

# What a peer offers so that the job of a dead process runs again, as far as it offers anything.
RECOVERING = (
    peer("rq-fork-retry", RQ, "retried twice", BENCH_RETRIES="2"),
    peer("celery-late-reject", CELERY, "rejected when the worker is lost", BENCH_REJECT="1"),
    peer("dramatiq", DRAMATIQ, "as it comes"),
    peer("taskiq-stream", TASKIQ, "as it comes", BENCH_STREAM="1"),
    peer("huey", HUEY, "as it comes"),
    peer("saq-retry", SAQ, "three retries", BENCH_RETRIES="3"),
    peer("streaq", STREAQ, "as it comes"),
    peer("streaq-idle-10", STREAQ, "taken over when idle for 10 s", BENCH_IDLE_S="10"),
    peer("bullmq", BULLMQ, "as it comes", workers=2),
)
