"""Colour: on terminals only, and never where a program reads."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ffsuper.client import Client
from ffsuper.commands.colour import Meaning, is_wanted, painted, painted_state
from tests.redis_server import running_server

ESCAPE = "\x1b["
CLEAN = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}


class Terminal(io.StringIO):
    """A text stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("is_terminal", "variables", "wanted"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": ""}, False),
        (True, {"TERM": "dumb", "FORCE_COLOR": "1"}, True),
        (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
    ],
)
def test_colour_is_for_terminals_unless_the_environment_says_otherwise(
    is_terminal: bool, variables: dict[str, str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal() if is_terminal else io.StringIO())
    assert is_wanted() is wanted


def test_text_is_painted_and_padding_keeps_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert painted("x", Meaning.BAD) == "\x1b[31mx\x1b[0m"
    assert painted("", Meaning.BAD) == ""
    assert painted_state("failed", 8) == "\x1b[31mfailed  \x1b[0m"
    assert painted_state("suspended") == painted("suspended", Meaning.WAITING)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_server(tmp_path_factory.mktemp("redis")) as url:
        with Client(url) as client:
            client.cancel(client.submit("job"))
        yield url


def on_terminal(*arguments: str, **variables: str) -> str:
    """Run ffsuper on a terminal; return what it wrote there."""
    ours, its = pty.openpty()
    program = [sys.executable, "-m", "ffsuper", *arguments]
    environment = CLEAN | {"TERM": "xterm"} | variables
    with subprocess.Popen(program, stdin=its, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        written = b""
        try:
            while chunk := os.read(ours, 4096):
                written += chunk
        except OSError:  # how Linux says that the other side of a terminal is closed
            pass
        os.close(ours)
    assert process.returncode == 0, written
    return written.decode()


@pytest.mark.parametrize("command", ["list", "show"])
def test_states_are_coloured_on_a_terminal_and_not_when_that_is_unwanted(command: str, url: str) -> None:
    with Client(url) as client:
        (one,) = client.list_lane("default", "terminal")
    arguments = ["list", "--state", "terminal"] if command == "list" else ["show", one.id]
    told = on_terminal(*arguments, "--store", url)
    assert f"{ESCAPE}2mcancelled" in told
    assert ESCAPE not in on_terminal(*arguments, "--store", url, NO_COLOR="1")
    assert ESCAPE not in on_terminal(*arguments, "--store", url, TERM="dumb")
    assert json.loads(on_terminal(*arguments, "--store", url, "--json", FORCE_COLOR="1"))


def test_nothing_is_coloured_in_a_pipe(url: str, tmp_path: Path) -> None:
    listing = [sys.executable, "-m", "ffsuper", "list", "--state", "terminal", "--store", url]
    ended = subprocess.run(listing, capture_output=True, text=True, timeout=60, check=True, env=CLEAN)
    assert ("cancelled" in ended.stdout, ESCAPE in ended.stdout) == (True, False)
