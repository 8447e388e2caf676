"""A deployment with secrets that goes through all that may happen to it, and what was to be seen of it.

There is a store with a password, a server with a token, a worker that looks into the store and one that asks the
server. One worker has its password by a file, the other and the server have theirs by systemd's credentials.
"""

from __future__ import annotations

import io
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import httpx
import pytest
import redis

from ffsuper.cli import main
from ffsuper.client import Client
from ffsuper.commands.arguments import parser
from ffsuper.commands.parsing import subcommands_of
from ffsuper.config import StoreConfig
from ffsuper.store.keys import PartitionKeys
from ffsuper.store.secrets import KID
from tests.redis_server import running_server
from tests.system.evidence import Evidence, look_at_files, look_at_processes
from tests.system.test_server import free_port
from tests.system.workers import LIMIT_S, Worker, Workers, eventually

NO_EXECUTION = "{fp:1}:00000000-0000-0000-0000-000000000000"
# A program with a defect that ends with all that is at hand in its message.
BROKEN = """\
import sys
import {module} as module

def broken(*args, **named):
    raise RuntimeError(f"a defect, with {{args!r}} and {{named!r}}")

module.{function} = broken
from ffsuper.cli import main
sys.exit(main(sys.argv[1:]))
"""
DEFECTS = (("ffsuper.actors.claimer", "claim_for"), ("ffsuper.supervisor", "open_presence"))
OWN_HANDLERS = """\
from ffsuper import handler

@handler("own")
def own(context): ...
"""
DEV_TOML = """\
[worker]
instance_id = "dev"
lanes = ["dev"]
handlers = ["own"]
python_path = ["own"]

[store]
url = "{url}"

[log]
level = "debug"
"""
# What the store keeps, by its type: how to read it all.
READS = {
    b"string": ("GET",),
    b"hash": ("HGETALL",),
    b"set": ("SMEMBERS",),
    b"list": ("LRANGE", "0", "-1"),
    b"zset": ("ZRANGE", "0", "-1"),
    b"stream": ("XRANGE", "-", "+"),
}


def gather(folder: Path, around: pytest.MonkeyPatch) -> Evidence:
    """Run it all in an empty folder."""
    names = ("password", "server token", "payload", "signal", "control")
    evidence = Evidence({name: f"canary-{secrets.token_hex(12)}".encode() for name in names})
    for name in [name for name in os.environ if name.startswith(("FFSUPER_", "CREDENTIALS_"))]:
        if name != "FFSUPER_TEST_SERVER":
            around.delenv(name)
    around.chdir(folder)
    kept = write_secrets(folder, evidence)
    workers = Workers(folder, f"unix://{folder / 'redis.sock'}")
    with cores_allowed(), listening_as_systemd(folder, evidence):
        try:
            Deployment(folder, evidence, workers, around).live()
        finally:
            workers.end_all()
    look_at_files(folder, evidence, kept)
    return evidence


def write_secrets(folder: Path, evidence: Evidence) -> list[Path]:
    """Put the secrets where an operator puts them; return where."""
    (folder / "credentials").mkdir()
    files = {
        "password": "password",
        "server-token": "server token",
        "credentials/store_password": "password",
        "credentials/claim_token": "server token",
        "credentials/server_token": "server token",
    }
    for name, word in files.items():
        (folder / name).write_text(f"{evidence.text(word)}\n")
    (folder / "redis.conf").write_text(f"requirepass {evidence.text('password')}\n")
    kept = [folder / name for name in (*files, "redis.conf")]
    for path in kept:
        path.chmod(0o600)
    return kept


@contextmanager
def cores_allowed() -> Iterator[None]:
    """Let programs that are started now dump core, as far as it is up to us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@contextmanager
def listening_as_systemd(folder: Path, evidence: Evidence) -> Iterator[None]:
    """Keep what systemd is told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(folder / "notify"))

        def listen() -> None:
            while told := receiver.recv(4096):
                evidence.add("systemd", told)

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"", str(folder / "notify"))
            listener.join()


class Deployment:
    """What runs, and what happens to it."""

    def __init__(self, folder: Path, evidence: Evidence, workers: Workers, around: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.evidence = evidence
        self.workers = workers
        self.around = around
        self.settings = StoreConfig(url=workers.url, password=evidence.text("password"))
        self.port, self.status_port = free_port(), free_port()
        self.by_file = {"FFSUPER_STORE_PASSWORD_FILE": str(folder / "password")}
        self.by_credential = {"CREDENTIALS_DIRECTORY": str(folder / "credentials")}
        self.logged = {"NOTIFY_SOCKET": str(folder / "notify"), "FFSUPER_LOG_LEVEL": "debug"}

    def live(self) -> None:
        """Go through everything."""
        with self.store():
            self.start()
            self.work()
            self.ask()
            for arguments in self.commands():
                self.call(*arguments)
            self.check()
            self.develop()
            self.break_down()
        for worker in (self.direct, self.served):
            wait_logged(worker, "store away")
        with self.store():
            for worker in (self.direct, self.served):
                wait_logged(worker, "store back")
            self.change_password()
            self.work_once_more()
            self.look_at_store()
            self.end()
        for worker in self.workers.started:
            self.evidence.add("logs", worker.log_path.read_bytes())
        self.evidence.add("logs", self.dev_log.read_bytes())

    @contextmanager
    def store(self) -> Iterator[None]:
        """Run the store; it keeps what it has."""
        with running_server(self.folder, "--appendonly", "yes", "--include", str(self.folder / "redis.conf")):
            yield

    def start(self) -> None:
        """Start the server and the workers."""
        self.workers.environment = self.by_credential | self.logged
        self.server = self.workers.launch_server("server", listen=f"127.0.0.1:{self.port}")
        self.server.wait_for("ready")
        self.workers.environment = self.by_file | self.logged
        self.direct = self.workers.start("direct", status=f"127.0.0.1:{self.status_port}")
        self.workers.environment = self.by_credential | self.logged | {"FFSUPER_LOG_FORMAT": "keyvalue"}
        asks = {"source": "server", "server_url": f"http://127.0.0.1:{self.port}", "lanes": '["served"]'}
        self.served = self.workers.launch("served", engine="false", status="", **asks)

    def work(self) -> None:
        """Let executions succeed, fail, crash, hang and wait for signals; look at processes while some run."""
        payload, told = self.evidence.text("payload"), self.evidence.words["signal"]
        with Client(self.settings) as client:
            asking = client.submit("approval-beforehand", str(self.folder))
            self.done = client.submit("echo", payload.encode())
            self.failed = [client.submit("spend", [payload]), client.submit("fail-for-good")]
            self.crashed = [client.submit("segfault"), client.submit("stubborn")]
            self.suspended = client.submit("approval", {"signals": ["go"]})
            waitpoint, token = eventually(lambda: words_in(self.folder / "token"), "the waitpoint's token")
            self.evidence.words["waitpoint token"] = token.encode()
            client.signal(asking, "go", told, waitpoint_id=waitpoint, token=token)
            (self.folder / "sent").touch()
            for ended in (asking, self.done, *self.failed, *self.crashed):
                client.wait(ended, LIMIT_S)
            eventually(lambda: client.state(self.suspended) == "suspended", "the suspension")
            self.look_at_running(client)

    def look_at_running(self, client: Client) -> None:
        """Look at processes while both workers run something of which we know that it is in a child's memory."""
        running = {}
        for lane in ("default", "served"):
            (self.folder / lane).mkdir()
            job = {"folder": str(self.folder / lane), "note": self.evidence.text("control")}
            running[lane] = client.submit("wait-for-file", job, lane=lane)
            eventually((self.folder / lane / "started-0").exists, f"the work in lane {lane}")
        look_at_processes(self.evidence, [self.direct, self.served])
        for lane, execution in running.items():
            (self.folder / lane / "go").touch()
            client.wait(execution, LIMIT_S)

    def ask(self) -> None:
        """Ask whatever answers to HTTP, with the token and without."""
        worker, server = f"http://127.0.0.1:{self.status_port}", f"http://127.0.0.1:{self.port}"
        execution = f"/v1/executions/{self.done.replace('{', '%7B').replace('}', '%7D')}"
        right = {"authorization": f"Bearer {self.evidence.text('server token')}"}
        asked: list[tuple[str, str, dict[str, str]]]
        asked = [(worker, path, {}) for path in ("/", "/livez", "/readyz", "/metrics", "/nothing")]
        for path in ("/healthz", "/metrics", "/openapi.json", "/docs", execution, "/v1/executions/none", "/nothing"):
            asked += [(server, path, headers) for headers in (right, {}, {"authorization": "Bearer wrong"})]
        for place, path, headers in asked:
            answer = httpx.get(f"{place}{path}", headers=headers)
            self.evidence.add("http", f"{path} {answer.status_code} {answer.headers}\n{answer.text}")

    def commands(self) -> Iterator[Sequence[str]]:
        """Yield the subcommands that talk to the store or to the server."""
        for command in ("workers", "lanes", "list", "library"):
            yield from ([command], [command, "--json"])
        for execution in (self.done, *self.failed, *self.crashed, self.suspended, NO_EXECUTION):
            yield from (["show", execution], ["show", execution, "--json"])
        yield from (["result", self.failed[1]], ["tail", self.crashed[0], "--no-follow"], ["library", "--load"])
        yield ["top", "--once", "--interval", "0.1"]
        yield from (["signal", self.done, "go"], ["replay", NO_EXECUTION], ["cancel", self.suspended])
        yield from (["quiet", "direct", "--wait", "30"], ["resume", "direct", "--wait", "30"])
        yield ["submit", "no-op", "--wait", "30"]
        server = ["--server", f"http://127.0.0.1:{self.port}"]
        yield from (["show", self.failed[0], *server], ["list", *server], ["cancel", self.done, *server])
        (self.folder / "wrong").write_text("wrong")
        yield ["list", *server, "--server-token-file", str(self.folder / "wrong")]

    def call(self, *arguments: str) -> int:
        """Run a subcommand as the operator does, and keep what it prints."""
        printed = io.BytesIO()
        out = io.TextIOWrapper(printed)
        with pytest.MonkeyPatch.context() as variables, redirect_stdout(out), redirect_stderr(out):
            variables.setenv("FFSUPER_STORE_URL", self.workers.url)
            variables.setenv("FFSUPER_STORE_PASSWORD_FILE", str(self.folder / "password"))
            variables.setenv("FFSUPER_SERVER_TOKEN_FILE", str(self.folder / "server-token"))
            code = main(arguments)
            out.flush()
        self.evidence.add("output", f"{arguments[0]}: {code}")
        self.evidence.add("output", printed.getvalue())
        return code

    def check(self) -> None:
        """Run the check of both configurations, and ask for all help."""
        for arguments, variables in (
            (["direct.toml"], self.by_file),
            (["served.toml", "--json"], self.by_credential),
        ):
            done = self.run("check", "--config", *arguments, **variables)
            self.evidence.add("output", f"check: {done.returncode}\n{done.stdout}{done.stderr}")
        root = parser()
        for one in (root, *subcommands_of(root).values()):
            self.evidence.add("output", one.format_help())

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the program to its end."""
        return subprocess.run(
            [sys.executable, "-m", "ffsuper", *arguments],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def develop(self) -> None:
        """Run ``ffsuper dev`` with a configuration of this store."""
        (self.folder / "own").mkdir()
        (self.folder / "own" / "own.py").write_text(OWN_HANDLERS)
        (self.folder / "dev.toml").write_text(DEV_TOML.format(url=self.workers.url))
        self.dev_log = self.folder / "dev.log"
        with self.dev_log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ffsuper", "dev", "--config", "dev.toml"],
                env=os.environ | self.by_file,
                stderr=log,
                stdout=log,
            )
        try:
            eventually(lambda: '"event": "ready"' in self.dev_log.read_text(), "ffsuper dev")
            process.send_signal(signal.SIGINT)
            process.wait(LIMIT_S)
        finally:
            process.kill()
            process.wait()

    def break_down(self) -> None:
        """Let workers with defects end."""
        self.workers.environment = self.by_file | self.logged
        for module, function in DEFECTS:
            script = self.folder / f"{function}.py"
            script.write_text(BROKEN.format(module=module, function=function))
            self.workers.program = (str(script),)
            broken = self.workers.launch(function, engine="false", status="", lanes=f'["{function}"]')
            with Client(self.settings) as client:
                client.submit("echo", self.evidence.words["payload"], lane=function)
            self.evidence.add("output", f"{function}: {broken.wait()}")
        self.workers.program = ("-m", "ffsuper")

    def change_password(self) -> None:
        """Let the store refuse the password for a while."""
        with redis.Redis.from_url(self.workers.url, password=self.settings.password) as store:
            store.config_set("requirepass", "another")
            for kind in ("normal", "pubsub"):
                store.client_kill_filter(_type=kind, skipme=True)
            for worker in (self.direct, self.served):
                wait_logged(worker, "invalid username-password pair")
            self.call("list")
            self.call("workers")
            done = self.run("check", "--config", "direct.toml", **self.by_file)
            self.evidence.add("output", f"check: {done.returncode}\n{done.stdout}{done.stderr}")
            self.workers.environment = self.by_file | self.logged
            self.evidence.add("output", f"refused: {self.workers.launch('refused', status='').wait()}")
            store.config_set("requirepass", self.settings.password)
        for worker in (self.direct, self.served):
            wait_logged(worker, ' back"', 2)  # the store, or the server that could not ask it

    def work_once_more(self) -> None:
        """See that all is well again."""
        with Client(self.settings) as client:
            for lane in ("default", "served"):
                client.wait(client.submit("echo", b"again", lane=lane), LIMIT_S)

    def look_at_store(self) -> None:
        """Read all that is in the store; what signs tokens is there, and is taken for a secret from now on."""
        with redis.Redis.from_url(self.workers.url, password=self.settings.password) as store:
            secret = store.hget(PartitionKeys.of_index(0).waitpoint_hmac, f"secret:{KID}")
            assert isinstance(secret, bytes)
            self.evidence.words["waitpoint secret"] = secret
            for key in store.scan_iter(count=1000):
                command, *arguments = READS[store.type(key)]
                found = store.execute_command(command, key, *arguments)
                self.evidence.add("store", f"{key!r} {found!r}")

    def end(self) -> None:
        """End everything as operators do."""
        self.call("drain", "served", "--wait", "30")
        for worker in (self.direct, self.server):
            worker.signal(signal.SIGTERM)
        for worker in (self.direct, self.served, self.server):
            self.evidence.add("output", f"{worker.log_path.name}: {worker.wait()}")


def wait_logged(worker: Worker, text: str, times: int = 1) -> None:
    """Wait until something is in the log, so often, whatever form the log has."""
    eventually(lambda: worker.log_path.read_text().count(text) >= times, f"{text!r} in {worker.log_path}")


def words_in(path: Path) -> list[str]:
    """Return the two words of a file, once they are there."""
    words = path.read_text().split() if path.exists() else []
    return words if len(words) == 2 else []
