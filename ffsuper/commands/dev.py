"""``ffsuper dev``: embedded store, engine and worker in one command, with the handlers' newest code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from ffsuper.child import hardening
from ffsuper.errors import ConfigError

LOOK_S = 0.3
# Beyond the drain, for a worker that is to end.
LEAVE_S = 10.0
NOT_WATCHED = {"__pycache__", "site-packages", "node_modules"}

WORKER_TOML = """\
# Written by ffsuper dev at every start.
[worker]
id = "dev"
instance_id = "dev"
handlers = {handlers}
python_path = {python_path}

[store]
url = "embedded"
data_dir = {data_dir}

[lease]
ttl_ms = 10000

[claim]
unknown_kind = "fail"

[children]
count = 2

[drain]
timeout_s = 2.0

[log]
format = "auto"
"""


@dataclass(frozen=True, slots=True)
class Handlers:
    """What is to be run.

    Attributes:
        modules: by the names that they are imported by.
        folders: where they and what they import are; watched.
    """

    modules: Sequence[str]
    folders: Sequence[Path]


def handlers_of(arguments: Sequence[str], current: Path) -> Handlers:
    """Return what the command line names: files, or modules that can be imported from the current folder.

    Raises:
        ConfigError: a file is not there, or is no Python file.
    """
    modules, folders, problems = list[str](), list[Path](), list[str]()
    for text in arguments:
        path = current / text
        if not text.endswith(".py") and not path.exists():
            modules.append(text)
            folders.append(current)
        elif path.suffix != ".py" or not path.is_file():
            problems.append(f"{text}: is no Python file: name a file as in jobs.py, or a module as in app.jobs")
        elif not path.stem.isidentifier():
            problems.append(f"{text}: cannot be imported by that name: rename it to letters, digits and underscores")
        else:
            modules.append(path.stem)
            folders.append(path.parent)
    if problems:
        raise ConfigError(problems)
    return Handlers(list(dict.fromkeys(modules)), list(dict.fromkeys(folder.resolve() for folder in folders)))


def write_worker_toml(handlers: Handlers, data_dir: Path) -> Path:
    """Write a configuration for trying things out; return where."""
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / "worker.toml"
    # A JSON string is a TOML string, too.
    values = {
        "handlers": json.dumps(list(handlers.modules)),
        "python_path": json.dumps([str(folder) for folder in handlers.folders]),
        "data_dir": json.dumps(str(data_dir / "store")),
    }
    path.write_text(WORKER_TOML.format(**values), encoding="utf-8")
    return path


def forget_other_stores(environ: MutableMapping[str, str]) -> None:
    """Drop the variables that would lead to another store than our own: what has no handler here fails."""
    for name in [name for name in environ if name.startswith(("FFSUPER_STORE_", "FFSUPER_CLAIM_"))]:
        say(f"{name} is left aside: ffsuper dev has a store of its own, unless there is --config")
        del environ[name]


async def run(worker_toml: Path, watched: Sequence[Path], drain_s: float, meanings: Mapping[int, str]) -> None:
    """Run a worker, and another one whenever a file has changed, until SIGINT or SIGTERM.

    Args:
        meanings: of exit codes, for people.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_at_signal, signals, nursery.cancel_scope)
            while True:
                seen = snapshot(watched)
                with worker(worker_toml) as process:
                    try:
                        async with trio.open_nursery() as watching:
                            watching.start_soon(tell_end, process, meanings)
                            await wait_changed(watched, seen)
                            watching.cancel_scope.cancel()
                        say("the handlers have changed")
                    finally:
                        with trio.CancelScope(shield=True):
                            await stop(process, drain_s)


async def end_at_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    """Cancel at the first signal."""
    async for _ in signals:
        scope.cancel()


@contextmanager
def worker(worker_toml: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker; it is dead when the block is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ffsuper", "--config", str(worker_toml)],
        start_new_session=True,  # a Ctrl-C at the terminal is for us, who stop it in order
        preexec_fn=drain_with_parent,  # noqa: PLW1509 -- this process has one thread
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def drain_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies without a word."""
    hardening.die_with_parent(signal.SIGTERM)


async def wait_dead(process: subprocess.Popen[bytes]) -> int:
    """Wait until a process has ended; return its exit code."""
    if process.poll() is None:
        descriptor = os.pidfd_open(process.pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
    return process.wait()


async def tell_end(process: subprocess.Popen[bytes], meanings: Mapping[int, str]) -> None:
    """Say it when the worker ends by itself."""
    code = await wait_dead(process)
    told = signal.Signals(-code).name if code < 0 else meanings.get(code, "unknown")
    say(f"the worker has ended with exit code {code} ({told}); it starts again when a file changes")


async def stop(process: subprocess.Popen[bytes], drain_s: float) -> None:
    """Drain a worker; what it cannot finish in time it hands back."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with trio.move_on_after(drain_s + LEAVE_S):
            await wait_dead(process)


async def wait_changed(watched: Sequence[Path], seen: Mapping[Path, tuple[int, int]]) -> None:
    """Return when the files are others than they were, and no more of them change."""
    now = snapshot(watched)
    while now == seen:
        await trio.sleep(LOOK_S)
        now = snapshot(watched)
    before: Mapping[Path, tuple[int, int]] = {}
    while now != before:
        await trio.sleep(LOOK_S)
        before, now = now, snapshot(watched)


def snapshot(watched: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Return time and size of each file: of those named, and of all Python files in the folders named."""
    found = {}
    for path in watched:
        for file in python_files(path) if path.is_dir() else [path]:
            try:
                status = file.stat()
            except OSError:
                continue  # it went away just now
            found[file] = (status.st_mtime_ns, status.st_size)
    return found


def python_files(folder: Path) -> Iterator[Path]:
    """Yield the Python files below a folder; hidden folders and installed packages are left out."""
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in NOT_WATCHED and not name.startswith(".")]
        yield from (Path(root, name) for name in files if name.endswith(".py"))


def say(text: str) -> None:
    """Tell the user at the terminal."""
    print(f"ffsuper dev: {text}", file=sys.stderr, flush=True)


def welcome(store_url: str, watched: Sequence[Path], data_dir: Path | None) -> None:
    """Say where things are, and how to submit."""
    if data_dir is not None:
        say(f"data in {data_dir}; delete that folder to begin anew")
    say(f"watching {', '.join(map(str, watched))}")
    say(f"submit from another terminal: ffsuper submit KIND '{{\"a\": 1}}' --wait 10 --store {store_url}")
