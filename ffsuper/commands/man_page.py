"""The man page, made from the help and from docs/, so in a checkout: ``python -m ffsuper.commands.man_page FILE``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from ffsuper.commands.arguments import GROUPS, parser
from ffsuper.commands.parsing import arguments_of, subcommands_of

OPERATIONS = Path(__file__).parent.parent.parent / "docs" / "operations.md"

DESCRIPTION = """\
Work is kept as executions in Redis or Valkey. ffsuper claims them under leases, runs handlers written in Python in
child processes, keeps the leases alive from outside the user's code, and hands every outcome back. Without a
subcommand it runs a worker: SIGTERM drains it, a second one leaves it hurried_timeout_s of [drain] for that, and a
third one makes it hand back at once what it runs.
"""
ENVIRONMENT = {
    "FFSUPER_STORE_URL": "The store, where no option names one; redis://localhost:6379/0 without it.",
    "FFSUPER_STORE_USERNAME, FFSUPER_STORE_PASSWORD_FILE": "As whom to talk to the store, also to that of --store, "
    "and the file with the password.",
    "FFSUPER_SERVER_TOKEN_FILE": "The file with the token for --server, where --server-token-file is not given.",
    "FFSUPER_SECTION_KEY": "Overrides KEY of [SECTION] in the configuration, as FFSUPER_LEASE_TTL_MS does.",
    "CREDENTIALS_DIRECTORY": "Where store_password, claim_token and server_token are; set by systemd.",
    "NO_COLOR, FORCE_COLOR": "Forbids colour; asks for it where stdout is no terminal.",
}
FILES = {
    "worker.toml": "The configuration: ffsuper check prints every setting. The units read /etc/ffsuper/worker.toml.",
    "ffsuper-dev/": "The store of ffsuper dev, in the current folder.",
}
SEE_ALSO = "redis-server(1), valkey-server(1), systemd.service(5), jq(1)"

# What roff would take for something else.
SIGNS = {"\\": "\\e", "-": "\\-", "'": "\\(aq", '"': "\\(dq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}


def page() -> str:
    """Return the page."""
    root = parser()
    commands = subcommands_of(root)
    lines = [
        f'.TH FFSUPER 1 "" "ffsuper {version("ffsuper")}" "User Commands"',
        ".nr HY 0",
        *(".SH NAME", "ffsuper \\- run Python work that must not get lost"),
        *(
            ".SH SYNOPSIS",
            ".B ffsuper",
            "\\-\\-config",
            ".I FILE",
            ".br",
            ".B ffsuper",
            ".I COMMAND",
            "[\\fIOPTION\\fR ...]",
        ),
        *(".SH DESCRIPTION", plain(DESCRIPTION.replace("\n", " "))),
        *(".SH OPTIONS", *entries(arguments_of(root)), *examples(root)),
    ]
    for group, names in GROUPS.items():
        lines.append(f".SH COMMANDS: {plain(group.upper())}")
        lines += [line for name in names for line in command(commands[name])]
    lines += [".SH EXIT STATUS", *(line for code, told in exit_codes().items() for line in entry(code, told))]
    for heading, told in (("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        lines += [f".SH {heading}", *(line for name, text in told.items() for line in entry(name, text))]
    return "\n".join([*lines, ".SH SEE ALSO", plain(SEE_ALSO)]) + "\n"


def plain(text: str) -> str:
    """Return text as roff prints it."""
    signs = (SIGNS.get(sign, sign) if sign.isascii() else f"\\[u{ord(sign):04X}]" for sign in text.strip("\n"))
    return re.sub(r"^\.", r"\\&.", "".join(signs), flags=re.MULTILINE)


def entry(name: str, text: str) -> list[str]:
    """Return a paragraph under a name."""
    return [".TP", f"\\fB{plain(name)}\\fR", plain(text)]


def entries(actions: Iterable[argparse.Action]) -> list[str]:
    """Return a paragraph for each option and argument."""
    lines: list[str] = []
    for action in actions:
        value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
        name = " ".join(part for part in (", ".join(action.option_strings), value) if part)
        lines += entry(name, action.help or "")
    return lines


def command(told: argparse.ArgumentParser) -> list[str]:
    """Return the part about a subcommand."""
    actions = [action for action in arguments_of(told) if action.dest != "help"]
    forms = [form(action) for action in actions if not action.option_strings]
    heading, summary = " ".join([told.prog, "[OPTION ...]", *forms]), told.description or ""
    about = f"{summary[:1].upper()}{summary[1:]}."
    return [f".SS {plain(heading)}", plain(about), *entries(actions), *examples(told)]


def form(action: argparse.Action) -> str:
    """Return how often an argument may be given, as usage shows it."""
    return {"?": f"[{action.metavar}]", "*": f"[{action.metavar} ...]"}.get(str(action.nargs), str(action.metavar))


def examples(told: argparse.ArgumentParser) -> list[str]:
    """Return what stands below a parser's help, line by line as it is there."""
    return [".PP", ".EX", plain(told.epilog or ""), ".EE"]


def exit_codes() -> dict[str, str]:
    """Return what each exit code means, and what to do."""
    rows = re.findall(
        r"^\| (\d+) \| \w+ \| (.*?) \| (.*?) ?\|$", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE
    )
    # The table is Markdown: quotes of code, and bars that separate nothing.
    return {
        code: f"{means}: {do}".removesuffix(": ").replace("`", "").replace("\\|", "|") for code, means, do in rows
    }


def main() -> None:
    """Write the page to the file that the command line names."""
    file = Path(sys.argv[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(), encoding="utf-8")
    print(f"{file}: read it with man -l {file}")


if __name__ == "__main__":
    main()
