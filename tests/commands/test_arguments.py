"""The grammar of the command line: help that holds what it promises, and mistakes that are named."""

from __future__ import annotations

import pkgutil
import re
import shlex
import subprocess
import sys

import pytest

from ffsuper.cli import Exit
from ffsuper.commands.arguments import GROUPS, SHELLS, STATES, parse, parser
from ffsuper.commands.parsing import arguments_of, subcommands_of
from ffsuper.store.submissions import LANE_INDEXES

COMMANDS = sorted(subcommands_of(parser()))
HEAVY = ("trio", "redis", "cattrs", "psutil", "argcomplete", "importlib.metadata")


def examples(name: str) -> list[list[str]]:
    """Return the arguments of ffsuper in each example of a subcommand; of the program itself under an empty name."""
    epilog = (subcommands_of(parser())[name] if name else parser()).epilog or ""
    lines = re.findall(r"^  (?:\w+=\S+ )?ffsuper (.*?)(?:  .*| [>|&].*)?$", epilog, re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_shows_a_few_examples_that_it_takes(name: str) -> None:
    shown = examples(name)
    assert 2 <= len(shown) <= 4
    for arguments in shown:
        assert parse(arguments).subcommand == name


def test_the_examples_of_the_program_work_too() -> None:
    shown = [arguments for arguments in examples("") if "--help" not in arguments]
    assert [parse(arguments).subcommand for arguments in shown] == ["dev", None, "submit"]


@pytest.mark.parametrize("name", COMMANDS)
def test_exit_codes_in_help_exist_and_ascend(name: str) -> None:
    epilog = subcommands_of(parser())[name].epilog or ""
    codes = [int(code) for code in re.findall(r"^  (\d+)  ", epilog, re.MULTILINE)]
    assert codes == sorted(set(codes) & set(Exit))


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_every_option_is_explained(name: str) -> None:
    for action in arguments_of(subcommands_of(parser())[name] if name else parser()):
        assert action.help, action


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_leads_to_a_function(name: str) -> None:
    assert callable(pkgutil.resolve_name(f"ffsuper.commands.{parse(examples(name)[0]).command}"))


def test_the_root_help_lists_every_subcommand_once_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(name for group in GROUPS.values() for name in group) == COMMANDS
    with pytest.raises(SystemExit) as left:
        parse(["--help"])
    out = capsys.readouterr().out
    assert left.value.code == Exit.OK
    for group, names in GROUPS.items():
        told = out.split(f"\n{group}:\n")[1].split("\n\n")[0]
        assert [line.split()[0] for line in told.splitlines()] == list(names)


def test_the_states_that_list_takes_are_the_indexes_of_a_lane() -> None:
    assert set(STATES) == set(LANE_INDEXES)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["shwo", "x"], "no subcommand 'shwo'; did you mean show?"),
        (["worker.toml"], "no subcommand 'worker.toml'; did you mean --config worker.toml?"),
        (["zzzz"], "no subcommand 'zzzz'; see ffsuper --help"),
        (["list", "--limt", "3"], "no option --limt; did you mean --limit?"),
        (["list", "--limt=3"], "no option --limt; did you mean --limit?"),
        (["list", "--zzzz"], "no option --zzzz; see ffsuper list --help"),
        (["list", "more"], "unexpected 'more'; see ffsuper list --help"),
        (["--json", "list"], "--json goes behind the subcommand, as in: ffsuper list --json"),
        (["list", "--state", "actve"], "did you mean active?"),
        (["completion", "ksh"], "argument SHELL: 'ksh' is none of bash, zsh, fish"),
        (["dev"], "dev needs either handlers (files or modules) or --config FILE"),
        (["dev", "jobs.py", "--config", "worker.toml"], "dev needs either handlers"),
        (["result", "x", "--wait", "-1"], "argument --wait: must be 0 or more"),
        (["submit", "x", "--delay", "-1"], "argument --delay: must be 0 or more"),
        (["submit", "x", "--priority", "9001"], "argument --priority: must be from 0 to 9000"),
        (["submit", "x", "--priority", "-1"], "argument --priority: must be from 0 to 9000"),
        (["library", "--server", "http://x"], "library needs the store itself: name it by --store or --config"),
    ],
)
def test_a_mistake_is_named_with_what_may_have_been_meant(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse(arguments)
    assert left.value.code == Exit.USAGE
    err = capsys.readouterr().err
    assert told in err
    assert err.startswith("usage: ffsuper")


def test_without_anything_to_do_two_lines_say_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse([])
    assert left.value.code == Exit.USAGE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert ["ffsuper --config worker.toml" in lines[0], "ffsuper --help" in lines[1]] == [True, True]


def test_a_subcommand_takes_the_configuration_before_and_behind_it() -> None:
    for arguments in (["--config", "a.toml", "list"], ["list", "--config", "a.toml"]):
        assert str(parse(arguments).config) == "a.toml"


def test_the_grammar_loads_nothing_heavy() -> None:
    program = f"import sys, ffsuper.cli as cli; cli.parse(['list']); print([m for m in {HEAVY} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "[]"


def test_completion_is_offered_for_the_shells_that_help_names() -> None:
    (shell,) = (action for action in arguments_of(subcommands_of(parser())["completion"]) if action.dest == "shell")
    assert shell.help == "bash, zsh or fish"
    assert SHELLS == ("bash", "zsh", "fish")
