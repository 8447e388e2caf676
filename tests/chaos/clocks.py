"""Wall clocks that can be stepped: each process that is started with one has its own."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "loose_clock.c"
COMPILER = "cc"


def can_be_stepped() -> bool:
    """Tell whether there is a compiler for what is preloaded."""
    return shutil.which(COMPILER) is not None


class Clock:
    """One process's wall clock.

    Attributes:
        environment: what the process is to be started with.
        offset_s: how far it is ahead of the machine's.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.environment: dict[str, str] = {}
        self.offset_s = 0.0
        if not can_be_stepped():
            return
        library = folder / "loose_clock.so"
        if not library.exists():
            subprocess.run([COMPILER, "-shared", "-fPIC", "-O2", "-o", library, SOURCE], check=True)
        path = folder / f"{name}.clock"
        path.write_bytes(struct.pack("d", 0.0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library), "LOOSE_CLOCK": str(path)}

    def step(self, seconds: float) -> None:
        """Set it forward, or back."""
        self.offset_s += seconds
        self._memory[:] = struct.pack("d", self.offset_s)
