"""What was to be seen of a deployment: in what it printed, of its processes, and in files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.system.workers import Worker


@dataclass
class Evidence:
    """What was to be seen.

    Attributes:
        words: the secrets, and what else is looked for, by what they are.
        seen: what was seen, by where.
        memory: which of the words were in the memory of each fork server and child.
        hidden: what of processes we may not see: no process of ffsuper shows it to any user but root.
        cores: files with the memory of a program that has crashed.
    """

    words: dict[str, bytes]
    seen: dict[str, bytes] = field(default_factory=dict)
    memory: dict[str, set[str]] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    cores: list[Path] = field(default_factory=list)

    def add(self, place: str, content: str | bytes) -> None:
        """Keep what was seen, behind what was seen there before."""
        data = content.encode(errors="replace") if isinstance(content, str) else content
        self.seen[place] = self.seen.get(place, b"") + data + b"\n"

    def found(self, place: str, *names: str) -> list[str]:
        """Return which of the words were seen."""
        return [name for name in names if self.words[name] in self.seen[place]]

    def text(self, name: str) -> str:
        """Return a word."""
        return self.words[name].decode()


def look_at_processes(evidence: Evidence, workers: Sequence[Worker]) -> None:
    """Look at what the kernel shows of processes: of all the command line, of ours the environment too."""
    for process in psutil.process_iter():
        with suppress(OSError):
            evidence.add("command lines", Path(f"/proc/{process.pid}/cmdline").read_bytes())
    for process in psutil.Process().children(recursive=True):
        look_at_environment(evidence, "environments", process.pid)
    for worker in workers:
        fork_server = worker.fork_server()
        assert fork_server is not None
        for process in (fork_server, *fork_server.children(recursive=True)):
            look_at_environment(evidence, "environments of children", process.pid)
            what = "fork server" if process == fork_server else "child"
            look_at_memory(evidence, f"{worker.log_path.stem}: {what} {process.pid}", process.pid)


def look_at_environment(evidence: Evidence, place: str, pid: int) -> None:
    """Keep a process's environment."""
    try:
        evidence.add(place, Path(f"/proc/{pid}/environ").read_bytes())
    except PermissionError:
        evidence.hidden.add(place)


def look_at_memory(evidence: Evidence, name: str, pid: int) -> None:
    """Search a process's memory for the words."""
    found = evidence.memory.setdefault(name, set())
    try:
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                begin, end = (int(number, 16) for number in line.split()[0].split("-"))
                if line.split()[1].startswith("r") and "[v" not in line:
                    memory.seek(begin)
                    part = memory.read(end - begin)
                    found |= {word for word, text in evidence.words.items() if text in part}
    except PermissionError:
        evidence.hidden.add("memory")


def look_at_files(folder: Path, evidence: Evidence, kept: Sequence[Path]) -> None:
    """Keep what is in files, but for those that hold the secrets, and for the store's own."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in kept and "appendonlydir" not in path.parts:
            evidence.add("files", f"{path}:")
            evidence.add("files", path.read_bytes())
            if path.name.startswith("core"):
                evidence.cores.append(path)
