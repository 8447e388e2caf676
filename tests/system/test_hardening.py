"""What handlers may do to others, and others to them: seen from inside children of real workers."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pwd
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ffsuper.child import server_process, spawning
from ffsuper.child.orphans import FORK_SERVER
from ffsuper.cli import Exit
from ffsuper.client import Client
from ffsuper.errors import ConfigError
from tests.system.workers import CHECKOUT, LIMIT_S, Worker, Workers, eventually

HANDLERS = "tests.system.prying_handlers_for_tests"
OTHER, THIRD = "nobody", "daemon"
NEEDED = "kill,setgid,setuid"
LACKING = "CAP_KILL, CAP_SETGID, CAP_SETUID"
# Version of its interface.
LANDLOCK_SIGNALS_SINCE = 6
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, to be somebody else, and setpriv"
)
confines = pytest.mark.skipif(
    ctypes.CDLL(None).syscall(444, None, 0, 1) < LANDLOCK_SIGNALS_SINCE, reason="Landlock cannot confine signals here"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Provide a folder that everybody may reach and write in, where the tests' own is for us alone."""
    with tempfile.TemporaryDirectory(prefix="ffsuper-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


class Place:
    """Workers with a store of their own, so that they need nothing of ours.

    Attributes:
        data: what the store keeps.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.workers = Workers(folder, "embedded", settings={"handlers": HANDLERS, "status": ""})
        self.workers.environment["FFSUPER_STORE_DATA_DIR"] = str(self.data)

    def start(self, worker_user: str = "", capabilities: str = "", /, **children: object) -> Worker:
        """Start a worker and wait until it is ready.

        Args:
            worker_user: whom the worker runs as, given these capabilities; empty for ourselves.
            children: its settings in ``[children]``.
        """
        worker = self.launch(worker_user, capabilities, **children)
        worker.wait_for("ready")
        return worker

    def launch(self, worker_user: str = "", capabilities: str = "", /, **children: object) -> Worker:
        if worker_user:
            self.workers.program = ("-m", "tests.system.other_user", worker_user, capabilities, "-m", "ffsuper")
        for key, value in children.items():
            self.workers.environment[f"FFSUPER_CHILDREN_{key}".upper()] = str(value)
        return self.workers.launch(children=2)

    @property
    def socket(self) -> Path:
        return self.data / "store.sock"

    def run(self, kind: str, payload: object = b"") -> Any:
        """Run an execution; return its result."""
        with Client(f"unix://{self.socket}") as client:
            return self.result(client.submit(kind, payload))

    def result(self, execution: str) -> Any:
        """Wait until an execution has completed; return its result."""
        with Client(f"unix://{self.socket}") as client:
            shown = client.wait(execution, LIMIT_S)
            assert shown.state == "completed", shown
            value = client.result(execution)
        return json.loads(value) if value else None

    def begin(self, kind: str, payload: object = b"") -> str:
        """Have an execution run that does not end by itself; return its id."""
        with Client(f"unix://{self.socket}") as client:
            return client.submit(kind, payload)


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    place = Place(folder)
    yield place
    place.workers.end_all()
    with (place.data / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the store has ended, too


def others(worker: Worker, sibling: int) -> dict[str, int]:
    """Return the processes that a child may be curious about."""
    fork_server = worker.fork_server()
    assert fork_server is not None
    return {"supervisor": worker.process.pid, "fork server": fork_server.pid, "sibling": sibling}


def wait_begun(place: Place) -> int:
    """Return the child in which ``wait`` runs, once it does."""
    return int(eventually(lambda: text_of(place.folder / "begun"), "a handler to begin"))


def text_of(file: Path) -> str | None:
    with suppress(FileNotFoundError):
        return file.read_text()
    return None


# --- what a child has


def test_a_child_has_no_descriptors_but_its_own_and_an_environment_without_ours(place: Place) -> None:
    place.workers.environment |= {"AWS_SECRET_ACCESS_KEY": "hush", "FFSUPER_LOG_LEVEL": "info"}
    worker = place.start()
    place.begin("wait", str(place.folder))
    waiting = wait_begun(place)
    found = place.run("own-things")
    assert found["pid"] != waiting
    assert waiting in [child.pid for child in worker.children()]
    assert sorted(found["descriptors"], key=int)[:3] == ["0", "1", "2"]
    kinds = [link.split(":")[0] for _, link in sorted(found["descriptors"].items(), key=lambda one: int(one[0]))]
    assert kinds[:3] == ["/dev/null", "pipe", "pipe"]
    assert sorted(kinds[3:]) == ["pipe", "socket"]
    assert found["input"] == ""
    strange = {name for name in found["environment"] if name.startswith(("FFSUPER_", "AWS_", "CREDENTIALS_"))}
    assert strange == set()
    assert "PATH" in found["environment"]


def test_no_program_that_a_child_starts_gains_anything(place: Place) -> None:
    worker = place.start()
    found = place.run("own-status")
    assert (found["child"]["NoNewPrivs"], found["grandchild"]["NoNewPrivs"]) == ("1", "1")
    fork_server = worker.fork_server()
    assert fork_server is not None
    assert "NoNewPrivs:\t1" in Path(f"/proc/{fork_server.pid}/status").read_text()


def test_limits_are_ours_unless_they_are_configured_and_there_are_no_core_files(place: Place) -> None:
    place.start()
    found = place.run("own-limits")
    assert found.pop("CORE") == [0, 0]
    assert found == {name: list(resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))) for name in found}


def test_configured_limits_hold(place: Place) -> None:
    place.start(open_files=64, processes=5000, file_mb=1)
    assert place.run("own-limits") == {
        "NOFILE": [64, 64],
        "NPROC": [5000, 5000],
        "FSIZE": [1 << 20, 1 << 20],
        "CORE": [0, 0],
    }
    assert place.run("open-files") < 64
    assert place.run("write", {"path": str(place.folder / "small"), "bytes": 1 << 20}) == "done"
    assert place.run("write", {"path": str(place.folder / "large"), "bytes": (1 << 20) + 1}) == "OSError"


def test_limits_that_nobody_can_set_are_told_at_the_start_and_by_the_check(place: Place) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    worker = place.launch(open_files=most + 1)
    assert worker.wait() == Exit.CONFIG
    told = f"[children] open_files: {most + 1} is more than the worker itself may have, which is {most}"
    assert told in worker.log_path.read_text()
    assert told in checked(place)


def checked(place: Place) -> str:
    """Return what ``ffsuper check`` has to say about the last worker's configuration."""
    arguments = ("check", "--offline", "--config", str(place.folder / "worker-1.toml"))
    environment = os.environ | place.workers.environment
    command = [sys.executable, *place.workers.program, *arguments]
    return subprocess.run(command, capture_output=True, check=False, text=True, env=environment).stderr


# --- what user code cannot do to others of its user


@needs_root
def test_a_child_cannot_look_into_a_process_of_its_own_user(place: Place) -> None:
    worker = place.start(OTHER)
    place.begin("wait", str(place.folder))
    for who, pid in others(worker, wait_begun(place)).items():
        assert psutil.Process(pid).username() == OTHER
        found = place.run("look-into", pid)
        assert set(found.values()) == {"PermissionError"}, (who, found)


@confines
@pytest.mark.parametrize("user", [pytest.param(OTHER, marks=needs_root), ""])
def test_a_child_cannot_kill_a_process_of_its_own_user(place: Place, user: str) -> None:
    worker = place.start(user)
    place.begin("wait", str(place.folder))
    for who, pid in others(worker, wait_begun(place)).items():
        assert place.run("kill", pid) == "PermissionError", who
        assert is_alive(psutil.Process(pid)), who
    assert place.run("end-own-program") == -signal.SIGKILL


@confines
def test_the_import_of_handlers_cannot_signal_the_worker(place: Place) -> None:
    place.start()
    assert place.run("imported") == "PermissionError"


@needs_root
def test_a_fork_bomb_ends_at_the_limit_and_with_its_child(place: Place) -> None:
    most = processes_of(OTHER) + 60
    worker = place.start(OTHER, processes=most)
    bomb = place.begin("bomb", str(place.folder))
    assert 0 < int(eventually(lambda: text_of(place.folder / "exploded"), "the bomb")) < most
    assert place.run("own-limits")["NPROC"] == [most, most]  # others run on beside it
    (place.folder / "go").touch()
    assert place.result(bomb) > 0
    worker.signal(signal.SIGTERM)
    assert worker.wait() == Exit.OK
    assert [one for one in psutil.process_iter() if is_below(one, worker.process.pid)] == []


def processes_of(user: str) -> int:
    """Return how many threads a user has: that is what the kernel counts."""
    return sum(one.num_threads() for one in psutil.process_iter() if one.username() == user)


def is_below(process: psutil.Process, supervisor: int) -> bool:
    """Tell whether a process has the mark of a supervisor in its command line, as children and their forks have."""
    with suppress(psutil.Error):
        return process.cmdline()[-1:] == [f"worker-1/{supervisor}"]
    return False


# --- what the supervisor can still do, though all are concealed, and it is not root


@needs_root
def test_a_worker_that_is_not_root_ends_what_hangs_and_shows_where(place: Place) -> None:
    worker = place.start(OTHER, grace_s=0.2)
    hanging = place.begin("hang")
    worker.wait_for("child killed", reason="killed because a handler did not end")
    with Client(f"unix://{place.socket}") as client:
        assert client.wait(hanging, LIMIT_S).state == "failed"
    assert any("in hang" in one["line"] for one in worker.events() if one["event"] == "output")


@needs_root
@pytest.mark.parametrize("as_root", [True, False])
def test_the_memory_of_what_a_child_has_started_is_seen(place: Place, as_root: bool) -> None:
    worker = (
        place.start("root", user=OTHER, hard_memory_mb=200) if as_root else place.start(OTHER, hard_memory_mb=200)
    )
    growing = place.begin("grow")
    assert "over the limit of 200 MiB" in worker.wait_for("child killed")["reason"]
    with Client(f"unix://{place.socket}") as client:
        assert client.wait(growing, LIMIT_S).state == "failed"


@needs_root
@pytest.mark.parametrize("as_root", [True, False])
def test_what_a_dead_worker_has_left_is_found_and_ended(place: Place, as_root: bool) -> None:
    worker = place.start("root", user=OTHER) if as_root else place.start(OTHER)
    place.begin("wait", str(place.folder))
    child, fork_server = psutil.Process(wait_begun(place)), worker.fork_server()
    assert fork_server is not None
    fork_server.suspend()
    eventually(lambda: fork_server.status() == psutil.STATUS_STOPPED, "the fork server to stand still")
    worker.signal(signal.SIGKILL)
    worker.wait()
    eventually(lambda: not is_alive(child), "the child's death")
    assert is_alive(fork_server)
    again = place.workers.launch()
    again.wait_for("leases of a dead process ended")
    assert not is_alive(fork_server)


@needs_root
@pytest.mark.parametrize("as_root", [True, False])
def test_what_children_have_started_dies_with_a_killed_worker(place: Place, as_root: bool) -> None:
    worker = place.start("root", user=OTHER) if as_root else place.start(OTHER)
    place.begin("start-daemon", str(place.folder))
    daemon = psutil.Process(wait_begun(place))
    assert daemon.username() == OTHER
    worker.signal(signal.SIGKILL)
    eventually(lambda: not is_alive(daemon), "the death of what a child has started")


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


# --- core files


IN_FOLDER_WITH_CORES = """
import os, resource, runpy, sys
os.chdir(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""


@pytest.fixture
def dumps(place: Place) -> Path:
    """Provide a folder into which a program that crashes there leaves a core file; the worker runs there."""
    folder = place.folder / "cores"
    folder.mkdir()
    place.workers.program = ("-c", IN_FOLDER_WITH_CORES, str(folder), "ffsuper")
    place.workers.environment["PYTHONPATH"] = str(CHECKOUT)
    (folder / "crash.py").write_text("import os; os.abort()")
    command = [sys.executable, "-c", IN_FOLDER_WITH_CORES, str(folder), "crash"]
    crashed = subprocess.run(command, check=False, env=os.environ | {"PYTHONPATH": str(folder)}, stderr=-3)
    cores = list(folder.glob("core*"))
    if crashed.returncode != -signal.SIGABRT or not cores:
        pytest.skip("no core file is left here, whatever crashes")
    cores[0].unlink()
    return folder


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_a_supervisor_that_crashes_leaves_no_core_file(place: Place, dumps: Path, number: signal.Signals) -> None:
    worker = place.start()
    worker.signal(number)
    assert worker.wait() == -number
    assert list(dumps.glob("core*")) == []


@pytest.mark.parametrize(("core_mb", "left"), [(0, []), (1000, ["core"])])
def test_a_child_that_crashes_leaves_a_core_file_only_where_that_is_configured(
    place: Place, dumps: Path, core_mb: int, left: list[str]
) -> None:
    place.start(core_mb=core_mb)
    with Client(f"unix://{place.socket}") as client:
        assert "SIGABRT" in client.wait(client.submit("abort", str(dumps)), LIMIT_S).record["failure_reason"]
    assert [file.name.partition(".")[0] for file in dumps.glob("core*")] == left


def test_a_program_that_a_child_starts_leaves_no_core_file(place: Place, dumps: Path) -> None:
    place.start()
    assert place.run("abort-program", str(dumps)) == -signal.SIGABRT
    assert list(dumps.glob("core*")) == []


# --- children as another user


@needs_root
@pytest.mark.parametrize(("user", "capabilities"), [("root", ""), (THIRD, NEEDED)])
def test_children_run_as_the_user_that_is_configured_with_nothing_of_the_workers(
    place: Place, user: str, capabilities: str
) -> None:
    worker = place.start(user, capabilities, user=OTHER)
    assert psutil.Process(worker.process.pid).username() == user
    account = pwd.getpwnam(OTHER)
    groups = sorted(os.getgrouplist(OTHER, account.pw_gid))
    fork_server = worker.fork_server()
    assert fork_server is not None
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{fork_server.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    for found in (status, *place.run("own-status").values()):
        assert set(found["Uid"].split()) == {str(account.pw_uid)}
        assert set(found["Gid"].split()) == {str(account.pw_gid)}
        assert sorted(map(int, found["Groups"].split())) == groups
        assert [int(found[f"Cap{which}"], 16) for which in ("Prm", "Eff", "Amb")] == [0, 0, 0]
        assert found["NoNewPrivs"] == "1"
    assert place.run("own-things")["environment"]["HOME"] == account.pw_dir


@needs_root
def test_children_of_another_user_can_do_nothing_to_the_supervisor_and_the_store(place: Place) -> None:
    worker = place.start("root", user=OTHER)
    assert set(place.run("look-into", worker.process.pid).values()) == {"PermissionError"}
    assert place.run("kill", worker.process.pid) == "PermissionError"
    assert place.socket.is_socket()
    assert place.run("connect", str(place.socket)) == "PermissionError"


@needs_root
@pytest.mark.parametrize(("user", "capabilities"), [("root", ""), (THIRD, NEEDED)])
def test_the_supervisor_can_do_all_that_it_must_to_children_of_another_user(
    place: Place, user: str, capabilities: str
) -> None:
    worker = place.start(user, capabilities, user=OTHER, grace_s=0.2)
    place.run("say", "hello")
    said = [one["stream"] for one in worker.events() if one["event"] == "output" and one["line"] == "hello"]
    assert sorted(said) == ["stderr", "stdout"]
    place.begin("hang")
    worker.wait_for("child killed", reason="killed because a handler did not end")
    place.begin("wait", str(place.folder))
    child, fork_server = psutil.Process(wait_begun(place)), worker.fork_server()
    assert fork_server is not None
    worker.signal(signal.SIGKILL)
    worker.wait()
    eventually(lambda: not is_alive(child) and not is_alive(fork_server), "the death of the children")


@needs_root
@pytest.mark.parametrize(
    ("worker_user", "user", "told"),
    [
        ("root", "nobody-has-this-name", 'there is no user "nobody-has-this-name" on this machine'),
        ("root", "root", "must not be root: name a user that may do less than the worker"),
        (OTHER, OTHER, f'the worker itself runs as "{OTHER}": name another user, or leave it out'),
        (
            OTHER,
            THIRD,
            f'this process may not start others as "{THIRD}": it is not root, and has no {LACKING} (Ambient',
        ),
    ],
)
def test_a_user_that_children_cannot_have_is_told_at_the_start_and_by_the_check(
    place: Place, worker_user: str, user: str, told: str
) -> None:
    worker = place.launch(worker_user, user=user)
    assert worker.wait() == Exit.CONFIG
    (ended,) = [one for one in worker.events() if one["event"] == "ended"]
    assert ended["error"].startswith(f"[children] user: {told}")
    assert f"[children] user: {told}" in checked(place)


@needs_root
def test_handlers_that_the_user_cannot_read_are_told(place: Place) -> None:
    closed = place.folder / "closed"
    closed.mkdir(mode=0o700)
    place.workers.environment["FFSUPER_WORKER_PYTHON_PATH"] = str(closed)
    worker = place.launch("root", user=OTHER)
    assert worker.wait() == Exit.CONFIG
    told = f"[worker] python_path: {closed} cannot be read by {OTHER}, whom the handlers run as"
    assert told in worker.log_path.read_text()
    assert told in checked(place)


@needs_root
async def test_a_python_that_the_user_cannot_run_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python").symlink_to(sys.executable)
    monkeypatch.setattr(server_process, "FORK_SERVER", (str(closed / "python"), *FORK_SERVER[1:]))
    settings = server_process.ForkServerSettings((HANDLERS,), user=OTHER)
    with pytest.raises(
        ConfigError, match=rf'^\[children\] user: "{OTHER}" may not run {closed}/python: it needs Python'
    ):
        async with spawning.open_fork_server(settings, lambda *_: None):
            pytest.fail("started")


# --- when the machine has no more processes


@needs_root
def test_a_worker_outlives_that_there_are_no_more_processes_for_a_while(place: Place) -> None:
    worker = place.start(OTHER)
    fork_server = worker.fork_server()
    assert fork_server is not None
    let_have_processes(fork_server.pid, "1")
    for child in worker.children():
        child.kill()
    # An executor looks after its child when it has something to run.
    execution = place.begin("own-status")
    error = worker.wait_for("child did not start")["error"]
    assert error == "no child can be made: [Errno 11] Resource temporarily unavailable"
    let_have_processes(fork_server.pid, str(resource.getrlimit(resource.RLIMIT_NPROC)[1]))
    assert place.result(execution)["child"]["NoNewPrivs"] == "1"
    assert worker.fork_server() == fork_server


def let_have_processes(pid: int, most: str) -> None:
    """Have a process start another one only while its user has fewer than this."""
    group = pwd.getpwnam(OTHER).pw_gid
    command = ["prlimit", f"--pid={pid}", f"--nproc={most}:"]
    subprocess.run(command, user=OTHER, group=group, extra_groups=[], check=True)
