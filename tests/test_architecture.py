"""The layers of docs/architecture.md: imports point down, actors do not know one another."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ffsuper"

# From the top; a module may import what stands below its own line, and what its line allows beside it.
LAYERS = (
    ("cli", "commands", "demo", "__main__", "testing"),
    ("supervisor", "server_supervisor"),
    ("line", "engine_supervisor"),
    ("actors", "engine", "server"),
    ("client", "flows", "fleet", "admin"),
    ("clients",),
    ("metrics",),
    ("standing",),
    ("store", "child", "holder", "systemd", "channels", "logs", "grants", "http1", "tracing"),
    ("clock",),
    ("sansio",),
    ("messages", "config_loader"),
    ("config_converter",),
    ("config",),
    ("config_rules",),
    ("errors",),
)
# Within these, modules may import one another ...
TOGETHER = {"actors", "commands", "demo", "store", "child", "sansio", "channels", "engine", "server", "admin"}
# ... and these each other.
BESIDE: tuple[set[str], ...] = (
    {"cli", "commands", "demo", "__main__"},
    {"client", "flows", "fleet"},
)
# What the children load before any user code asks for more.
IN_CHILDREN = (
    "messages",
    "errors",
    "sansio/frame",
    "child/runtime",
    "child/codec",
    "child/forkserver",
    "child/hardening",
)
NO_IO = {"trio", "socket", "time", "random", "logging", "redis", "subprocess", "threading", "selectors"}


def modules() -> list[Path]:
    return sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def unit(module: Path | str) -> str:
    """Return the layer member that a module belongs to: its folder, or its own name at the top."""
    return Path(module).with_suffix("").parts[0]


def layer(name: str) -> int:
    (number,) = [number for number, members in enumerate(LAYERS) if name in members]
    return number


def imports(module: Path) -> Iterator[str]:
    """Yield every imported module's dotted name, wherever in the file it is imported."""
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "ffsuper":
            yield from (f"ffsuper.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module in ("ffsuper.actors", "ffsuper.engine"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(module: Path) -> Iterator[str]:
    """Yield the layer members of ffsuper that a module imports."""
    for name in imports(module):
        package, _, rest = name.partition(".")
        member = rest.split(".")[0]
        if package == "ffsuper" and ((PACKAGE / f"{member}.py").exists() or (member and (PACKAGE / member).is_dir())):
            yield member


def test_every_module_belongs_to_a_layer() -> None:
    for module in modules():
        if module != Path("__init__.py"):
            layer(unit(module))


@pytest.mark.parametrize("module", [path for path in modules() if path != Path("__init__.py")], ids=str)
def test_imports_point_down(module: Path) -> None:
    me = unit(module)
    for name in own_imports(module):
        beside = (name == me and name in TOGETHER) or any({name, me} <= group for group in BESIDE)
        assert layer(name) > layer(me) or beside, f"ffsuper/{module} imports ffsuper.{name}, which is not below it"


def is_actor(path: Path) -> bool:
    """Tell whether a file holds an actor: it has ``run``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.AsyncFunctionDef) and node.name == "run" for node in tree.body)


@pytest.mark.parametrize("folder", ["actors", "engine"])
def test_actors_do_not_import_one_another(folder: str) -> None:
    actors = {path.stem for path in (PACKAGE / folder).glob("*.py") if is_actor(path)}
    for module in modules():
        if unit(module) == folder:
            used = [name for name in imports(module) if name.startswith(("ffsuper.actors", "ffsuper.engine"))]
            assert actors.isdisjoint(name.split(".")[-1] for name in used), f"ffsuper/{module} imports {used}"


def test_sansio_does_no_input_or_output() -> None:
    for module in modules():
        if unit(module) == "sansio":
            used = NO_IO.intersection(name.split(".")[0] for name in imports(module))
            assert not used, f"ffsuper/{module} imports {used}"


def test_the_engine_never_looks_at_the_hosts_clock() -> None:
    for path in (PACKAGE / "engine").glob("*.py"):
        used = {name.split(".")[0] for name in imports(path.relative_to(PACKAGE))}
        assert used.isdisjoint({"time", "datetime"}), f"{path.name}: the store's clock decides what is due"


def test_only_the_store_talks_to_redis() -> None:
    users = {unit(module) for module in modules() if "redis" in {name.split(".")[0] for name in imports(module)}}
    assert users == {"store"}


@pytest.mark.parametrize("name", IN_CHILDREN)
def test_the_child_runtime_loads_nothing_but_the_standard_library(name: str) -> None:
    foreign = {"trio", "redis", "cattrs", "attrs", "psutil", "trio_util", "outcome"}
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    used = {
        part.split(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for part in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    assert not used & foreign
