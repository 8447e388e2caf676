"""The systemd unit that starts the worker: it has to outwait the drain.

Its settings come from a file and its drop-ins, or from systemd itself. Source: systemd.syntax(7), systemd.service(5).
"""

from __future__ import annotations

import contextlib
import math
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffsuper.commands.checks.finding import Finding, problem, warning
from ffsuper.config import Config
from ffsuper.line import HAND_BACK_S

INSTALLED = Path("/etc/systemd/system")
SYSTEMCTL_S = 10.0
# DefaultTimeoutStopSec of systemd-system.conf(5).
DEFAULT_STOP_S = 90.0
# After the drain's time: for the kill of what still runs, the children's end, and the return to the store.
END_S = HAND_BACK_S
# Words of a command line that start something other than a worker.
NO_WORKER = {"server", "engine", "dev"}
SPANS_S = {
    **dict.fromkeys(("us", "usec", "µs", "μs"), 1e-6),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604_800.0),
    **dict.fromkeys(("M", "month", "months"), 2_629_800.0),
    **dict.fromkeys(("y", "year", "years"), 31_557_600.0),
}


@dataclass(frozen=True, slots=True)
class Unit:
    """What a unit says.

    Attributes:
        name: for people.
        kind: its Type=.
        stop_s: how long it waits for the worker's end; infinite for as long as that takes.
        command: what it starts; empty when that is not known.
    """

    name: str
    kind: str
    stop_s: float
    command: str = ""


def look(config: Config, file: Path, named: str | None) -> Iterator[Finding]:
    """Yield which units cut the drain short, and that the one named starts no worker.

    Args:
        file: the configuration; without a unit's name those that start a worker with it are looked at.
        named: a unit file, or the name of a unit that systemd is asked about.
    """
    try:
        units = list(units_of(file, INSTALLED)) if named is None else [unit_called(named)]
    except UnitError as error:
        yield problem(f"--unit: {error}")
        return
    for unit in units:
        if others := NO_WORKER.intersection(words_of(unit.command)):
            started = f"starts ffsuper {min(others)} and no worker"
            yield warning(f"{unit.name}: {started}: name the unit that starts ffsuper --config {file}")
        else:
            yield from too_short(config, unit)


def too_short(config: Config, unit: Unit) -> Iterator[Finding]:
    """Yield that a unit does not wait for long enough, if so."""
    drain_s, grace_s = config.drain.timeout_s, config.children.grace_s
    needed_s = drain_s + grace_s + END_S
    if unit.stop_s >= needed_s:
        return
    takes = f"a drain may take {needed_s:g} s ([drain] timeout_s, [children] grace_s and {END_S:g} s)"
    if unit.kind.startswith("notify"):
        yield warning(
            f"{unit.name}: {takes}, and systemd waits {unit.stop_s:g} s for it, longer because the worker asks for "
            f"that as it drains; a machine that shuts down may not: to be certain set TimeoutStopSec={needed_s:g}"
        )
    else:
        yield problem(
            f"{unit.name}: {takes}, and systemd kills the worker after {unit.stop_s:g} s: set "
            f"TimeoutStopSec={needed_s:g}, or Type=notify"
        )


class UnitError(Exception):
    """The operator's: a unit cannot be looked at."""


def unit_called(named: str) -> Unit:
    """Return a unit file's settings, or those that systemd has of a unit.

    Raises:
        UnitError: there is no such unit, or nobody to ask.
    """
    path = Path(named)
    if path.is_file():
        return unit_of(named, settings_in(path))
    if "/" in named:
        raise UnitError(f"there is no file {named}: name a unit file, or a unit that systemd knows")
    name = named if "." in named else f"{named}.service"
    command = ["systemctl", "show", "--property=LoadState,Type,TimeoutStopUSec,ExecStart", "--", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SYSTEMCTL_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        why = (getattr(error, "stderr", "") or str(error)).strip().partition("\n")[0]
        raise UnitError(f"systemd cannot be asked about {name} ({why}): name its file instead") from None
    shown = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if shown.get("LoadState") != "loaded":
        raise UnitError(f"systemd has no unit {name}: install it and run systemctl daemon-reload, or name its file")
    started = re.search(r"argv\[\]=(.*?) ;", shown.get("ExecStart", ""))
    settings = {"Type": shown.get("Type", ""), "TimeoutStopSec": shown.get("TimeoutStopUSec", "")}
    return unit_of(name, settings | {"ExecStart": started[1] if started else ""})


def units_of(file: Path, folder: Path) -> Iterator[Unit]:
    """Yield the installed units that start a worker with a configuration."""
    for path in sorted(folder.glob("ffsuper*.service")):
        with contextlib.suppress(UnitError):
            settings = settings_in(path)
            if starts_worker(settings.get("ExecStart", ""), file):
                yield unit_of(str(path), settings)


def starts_worker(command: str, file: Path) -> bool:
    """Tell whether a command line runs a worker with this very file; of a template, as the instance of its name."""
    words = words_of(command)
    named = (Path(word.removeprefix("--config=").replace("%i", file.resolve().stem)) for word in words[1:])
    return NO_WORKER.isdisjoint(words) and any(one.is_absolute() and one.resolve() == file.resolve() for one in named)


def words_of(command: str) -> Sequence[str]:
    """Return the words of a command line; none where it cannot be read."""
    try:
        return shlex.split(command)
    except ValueError:
        return []


def settings_in(path: Path) -> dict[str, str]:
    """Return section [Service] of a unit file and its drop-ins; of what is repeated the last.

    Raises:
        UnitError: one of them cannot be read.
    """
    settings: dict[str, str] = {}
    for part in (path, *sorted(path.with_name(f"{path.name}.d").glob("*.conf"))):
        try:
            text = part.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UnitError(f"{part} cannot be read: {error.strerror}") from None
        for name, value in assignments(text, "Service"):
            # One that sets both times; an empty value takes an earlier one back.
            settings["TimeoutStopSec" if name == "TimeoutSec" else name] = value
    return settings


def assignments(text: str, section: str) -> Iterator[tuple[str, str]]:
    """Yield the settings of a section, in order; lines that end in a backslash go on in the next."""
    current = ""
    for line in joined(text.splitlines()):
        if line.startswith("["):
            current = line.strip("[]")
        elif current == section and "=" in line:
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()


def joined(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines without comments, each with those that continue it."""
    begun = ""
    for line in lines:
        if line.lstrip().startswith(("#", ";")):
            continue
        begun += line.strip()
        if begun.endswith("\\"):
            begun = begun[:-1] + " "
        else:
            yield begun
            begun = ""
    yield begun


def unit_of(name: str, settings: Mapping[str, str]) -> Unit:
    """Return what these settings come to.

    Raises:
        UnitError: its time is none.
    """
    text = settings.get("TimeoutStopSec", "")
    try:
        stop_s = span_s(text) if text else DEFAULT_STOP_S
    except ValueError:
        raise UnitError(f"{name}: TimeoutStopSec={text} is no time, so systemd ignores it") from None
    return Unit(name, settings.get("Type", ""), stop_s or math.inf, settings.get("ExecStart", ""))


def span_s(text: str) -> float:
    """Read a time span, as in ``90``, ``1min 30s`` or ``infinity``. Source: systemd.time(7).

    Raises:
        ValueError: it is none.
    """
    if text == "infinity":
        return math.inf
    parts = re.findall(r"([0-9.]+)\s*([A-Za-zµμ]*)\s*", text)
    if not parts or "".join("".join(part) for part in parts) != re.sub(r"\s", "", text):
        raise ValueError(text)
    try:
        return sum(float(number) * SPANS_S[unit] for number, unit in parts)
    except KeyError:
        raise ValueError(text) from None
