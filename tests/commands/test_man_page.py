"""The man page says all that help says, in roff that nothing complains about."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ffsuper.cli import Exit
from ffsuper.commands import man_page
from ffsuper.commands.arguments import parser
from ffsuper.commands.parsing import options_of, subcommands_of


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page as ``make man`` does."""
    file = tmp_path_factory.mktemp("man") / "new" / "ffsuper.1"
    subprocess.run(
        [sys.executable, "-m", "ffsuper.commands.man_page", str(file)], capture_output=True, timeout=60, check=True
    )
    return file


def rendered(file: Path) -> str:
    """Return the page as people read it."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    program = ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=200n", str(file)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stderr == ""
    return ended.stdout


def test_groff_finds_nothing_wrong_and_every_part_is_there(file: Path) -> None:
    text = rendered(file)
    headings = re.findall(r"^([A-Z].*)$", text, re.MULTILINE)
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"):
        assert heading in headings
    for code in Exit:
        assert re.search(rf"^       {code.value} ", text, re.MULTILINE), code


@pytest.mark.parametrize("name", sorted(subcommands_of(parser())))
def test_every_subcommand_is_there_with_its_options_and_examples(name: str, file: Path) -> None:
    told = subcommands_of(parser())[name]
    rest = rendered(file).split(f"\n   {told.prog} [OPTION ...]")[1].partition("\n")[2]
    part = re.split(r"^ {0,3}\S", rest, maxsplit=1, flags=re.MULTILINE)[0]
    for option in options_of(told):
        assert option in part or option in ("-h", "--help")
    for line in (told.epilog or "").splitlines():
        assert line in part


def test_man_finds_nothing_wrong(file: Path) -> None:
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    program = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(file)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        ("--wait", "\\-\\-wait"),
        (".hidden", "\\&.hidden"),
        ("a\n.b", "a\n\\&.b"),
        ("'{\"a\"}'", "\\(aq{\\(dqa\\(dq}\\(aq"),
        ("back\\slash", "back\\eslash"),
        ("… ü", "\\[u2026] \\[u00FC]"),
    ],
)
def test_text_is_no_roff(text: str, roff: str) -> None:
    assert man_page.plain(text) == roff


def test_what_signals_do_is_told_as_it_is(file: Path) -> None:
    text = " ".join(rendered(file).split())
    assert "a second one leaves it hurried_timeout_s of [drain] for that, and a third one" in text


def test_exit_codes_say_what_to_do() -> None:
    codes = man_page.exit_codes()
    assert [int(code) for code in codes] == list(Exit)
    assert codes["2"] == "the command line is wrong: ffsuper --help"
    assert "`" not in "".join(codes.values())
