"""Assembly of the two function libraries from ``lua/``.

The server takes a library as one text. Shared parts come first, in the order of their file names, then the
library's own files in the order of theirs; each file sees the locals of the files before it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

FLOWFABRIC = "flowfabric"
FFSUPER = "ffsuper"
PROTOCOL_VERSION = b"5"


@cache
def source_folder() -> Path:
    """Return the folder with the Lua sources: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "lua"
    return installed if installed.is_dir() else package.parent / "lua"


@cache
def assemble(name: str) -> str:
    """Return the whole text of library ``name``, ready for FUNCTION LOAD."""
    folder = source_folder()
    files = [*sorted((folder / "shared").glob("*.lua")), *sorted((folder / name).glob("*.lua"))]
    return "\n".join([f"#!lua name={name}", *(file.read_text(encoding="utf-8") for file in files)])
