"""A machine that systemd has booted, for the units: namespaces of this one, with their own process 1.

Its processes, mounts, network and control groups are its own, and end with it. It sees this machine's files, which it
cannot change, and has folders of its own where the units look: /etc, /opt, /run, /tmp and /var/lib.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system.workers import CHECKOUT, eventually

MANAGER = Path("/lib/systemd/systemd")
TOOLS = ("mount", "nsenter", "setpriv", "systemctl", "unshare")
PYTHON = Path("/opt/ffsuper/python", Path(sys.executable).resolve().relative_to(Path(sys.base_prefix).resolve()))
PROGRAM = f"""\
#!{PYTHON}
import sys
from ffsuper.cli import main
sys.exit(main())
"""
# Where the program's library is; needed where Python was not built for its place.
LIBRARIES = "/opt/ffsuper/python/lib"
# In every unit: what an installation in /opt/ffsuper would have found by itself; and how it ended, which systemd soon
# forgets of a unit that nothing refers to.
INSTALLED = f"""\
[Service]
Environment=PYTHONPATH=/opt/ffsuper/checkout:/opt/ffsuper/packages LD_LIBRARY_PATH={LIBRARIES}
StandardOutput=append:/run/logs/%n
StandardError=append:/run/logs/%n
ExecStopPost=/bin/sh -c 'echo ended: $SERVICE_RESULT, $EXIT_CODE $EXIT_STATUS'
"""
# What the units ask for, and would start the rest of a system. Without sysinit.target nothing starts.
TARGETS = ("basic", "multi-user", "network-online", "shutdown", "sysinit")
BOOT = """\
set -eu
mount --make-rprivate /
cd {folder}
mount -t tmpfs -o mode=755 tmpfs new
cd new
mkdir -m 755 dev dev/pts etc etc/systemd opt opt/ffsuper opt/ffsuper/python opt/ffsuper/checkout opt/ffsuper/packages
mkdir -m 755 run run/logs run/store var
mkdir -m 1777 dev/shm tmp

cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty dev
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
cp -a /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache /etc/hosts etc
cp -R {folder}/etc/. etc
mount --bind {python} opt/ffsuper/python
mount --bind {checkout} opt/ffsuper/checkout
mount --bind {packages} opt/ffsuper/packages
cp -R {folder}/bin opt/ffsuper
mount --bind {folder}/logs run/logs
mount --bind {folder}/store run/store

mount -o remount,bind,ro /
mount -o remount,bind,ro /sys
mount --bind -o ro /proc/sys /proc/sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --rbind dev /dev
mount --rbind etc /etc
mount --rbind opt /opt
mount --rbind run /run
mount --rbind var /var/lib
mount --bind tmp /tmp
mount --make-rshared /
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=ffsuper-test \\
  SYSTEMD_UNIT_PATH=/etc/systemd/system {manager} --system --unit=basic.target --show-status=no --log-target=null
"""


class NoMachineError(Exception):
    """There can be no such machine here; says why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A running machine.

    Attributes:
        init: its process 1, as it is known outside.
        logs: what its units print, by the unit's name.
    """

    init: int
    logs: Path

    def run(self, *command: str) -> str:
        """Run a command inside; return what it prints. It has to succeed."""
        done = self.attempt(*command)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}{self.diagnosis()}"
        return done.stdout.strip()

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, whatever comes of it."""
        return subprocess.run(
            ["nsenter", "--target", str(self.init), "--mount", "--pid", "--net", "--uts", "--ipc", *command],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd="/",
        )

    def write(self, path: str, text: str) -> None:
        """Write a file inside."""
        script = 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"'
        self.run("sh", "-c", script, "sh", path, text)

    def drop_in(self, unit: str, text: str) -> None:
        """Add to a unit."""
        self.write(f"/etc/systemd/system/{unit}.service.d/{uuid.uuid4()}.conf", text)
        self.run("systemctl", "daemon-reload")

    def shown(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", f"--property={name}", "--value", unit)

    def wait_until(self, unit: str, name: str, pattern: str) -> str:
        """Wait until a property of a unit is as wanted; return it."""

        def found() -> str | None:
            value = self.shown(unit, name)
            return value if re.fullmatch(pattern, value) else None

        return eventually(found, f"{name} of {unit} to be {pattern}")

    def processes(self, unit: str) -> set[str]:
        """Return the ids, inside, of a unit's processes; empty when it has none."""
        group = self.shown(unit, "ControlGroup")
        done = self.attempt("cat", f"/sys/fs/cgroup{group}/cgroup.procs")
        return set(done.stdout.split()) if group else set()

    def endings(self, unit: str) -> list[str]:
        """Return how each run of a unit has ended, oldest first: systemd's result, and how its main process ended."""
        return re.findall("^ended: (.*)$", (self.logs / f"{unit}.service").read_text(), re.MULTILINE)

    def diagnosis(self) -> str:
        """Return what the units have logged last, for a failed test."""
        return "".join(f"\n{log.name}:\n{log.read_text()[-4000:]}" for log in self.logs.iterdir())


@contextmanager
def booted(folder: Path, etc: dict[str, str]) -> Iterator[Machine]:
    """Boot a machine; afterwards nothing of it is left.

    Args:
        folder: an empty one for its files; ``store`` in it is /run/store inside.
        etc: its files below /etc, by their relative path.

    Raises:
        NoMachineError: that is not possible here.
    """
    group = control_group()
    lay_out(folder, etc)
    script = BOOT.format(
        folder=shlex.quote(str(folder)),
        python=shlex.quote(sys.base_prefix),
        checkout=shlex.quote(str(CHECKOUT)),
        packages=shlex.quote(sysconfig.get_path("purelib")),
        manager=MANAGER,
    )
    namespaces = (
        "setpriv --pdeathsig KILL unshare --pid --fork --kill-child --mount --mount-proc --cgroup --uts --ipc --net"
    )
    start = f"echo $$ > {shlex.quote(str(group / 'cgroup.procs'))} && exec {namespaces} sh -c {shlex.quote(script)}"
    with (folder / "boot.log").open("wb") as log:
        process = subprocess.Popen(["sh", "-c", start], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        machine = Machine(first_process(process, folder / "boot.log"), folder / "logs")

        def is_up() -> bool:
            require_alive(process, folder / "boot.log")
            return machine.attempt("systemctl", "is-system-running").stdout.strip() == "running"

        eventually(is_up, "the machine to be up")
        yield machine
    finally:
        end(process)
        for left in [*sorted(group.rglob("*/"), reverse=True), group]:
            left.rmdir()


def control_group() -> Path:
    """Make a control group for the machine's root.

    Raises:
        NoMachineError: systemd is not installed, or we may not.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None] + [str(MANAGER)] * (not MANAGER.exists())
    if missing:
        raise NoMachineError(f"{', '.join(missing)} not installed")
    if os.geteuid() != 0:
        raise NoMachineError("only root can boot one")
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    roots = [fields[4] for fields in mounts if fields[fields.index("-") + 1] == "cgroup2"]
    if not roots:
        raise NoMachineError("no cgroup2 is mounted")
    own = re.findall("^0::(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    group = Path(roots[0], *own[0].split("/")[1:], f"ffsuper-test-{uuid.uuid4()}")
    try:
        group.mkdir()
    except OSError as error:
        raise NoMachineError(f"no control group can be made: {error}") from None
    return group


def lay_out(folder: Path, etc: dict[str, str]) -> None:
    """Write the machine's files."""
    for name in ("new", "etc/ffsuper", "etc/credstore", "etc/systemd/system", "bin", "logs", "store"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "store").chmod(0o755)
    (folder / "bin" / "ffsuper").write_text(PROGRAM)
    (folder / "bin" / "ffsuper").chmod(0o755)
    system = folder / "etc" / "systemd" / "system"
    for target in TARGETS:
        (system / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    for unit in (CHECKOUT / "systemd").glob("*.service"):
        shutil.copy(unit, system)
        (system / f"{unit.name}.d").mkdir()
        (system / f"{unit.name}.d" / "installed.conf").write_text(INSTALLED)
    for path, text in etc.items():
        (folder / "etc" / path).write_text(text)


def first_process(process: subprocess.Popen[bytes], log: Path) -> int:
    """Return the machine's process 1, once there is one."""

    def found() -> int | None:
        require_alive(process, log)
        return next(iter(children(process)), None)

    return eventually(found, "the machine's first process")


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the ids of a process's children, as they are known outside."""
    return [int(text) for text in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def require_alive(process: subprocess.Popen[bytes], log: Path) -> None:
    """Raise if the machine has ended: then it could not begin."""
    if process.poll() is not None:
        raise NoMachineError(f"it does not boot: {log.read_text().strip().rpartition(chr(10))[2]}")


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill the machine's process 1, and so all others in it; return when they are gone."""
    if process.poll() is None:
        for pid in children(process) or [process.pid]:
            os.kill(pid, signal.SIGKILL)
    process.wait()
