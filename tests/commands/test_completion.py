"""Tab completion, as the shells ask for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ffsuper.cli import Exit, main
from ffsuper.commands import completion

BIN = Path(sys.executable).parent
LIMIT_S = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with files to complete."""
    for name in ("worker.toml", "jobs.py", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.toml").touch()
    return tmp_path


def in_shell(shell: str, script: str, folder: Path) -> list[str]:
    """Run a script in a real shell, with our program on its path; return the lines that it prints."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    environment = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
    }
    ended = subprocess.run(
        [program, "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


def bash_completes(line: str, folder: Path) -> list[str]:
    """Return what a bash offers for a started line."""
    script = f"""
        eval "$(ffsuper completion bash)"
        complete -p ffsuper >/dev/null
        COMP_LINE='{line}' COMP_POINT={len(line)} COMP_TYPE=9
        _python_argcomplete ffsuper
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return [word.strip() for word in in_shell("bash", script, folder) if word]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("ffsuper sho", ["show"]),
        ("ffsuper li", ["list", "library"]),
        ("ffsuper list --st", ["--store", "--state"]),
        ("ffsuper list --state s", ["suspended"]),
        ("ffsuper list --state blocked:r", ["route"]),  # bash takes the colon for the end of a word
        ("ffsuper --config wor", ["worker.toml"]),
        ("ffsuper check --config sub/", ["sub/more.toml"]),
        ("ffsuper check --config ", ["jobs.py", "sub/", "worker.toml"]),
        ("ffsuper check --config .h", [".hidden"]),
        ("ffsuper check --config no/such/", []),
        ("ffsuper dev j", ["jobs.py"]),
        ("ffsuper dev w", []),
        ("ffsuper dev --data-dir ", ["sub/"]),
        ("ffsuper completion ", ["--help", "bash", "zsh", "fish"]),
        ("ffsuper list --lane ", []),
    ],
)
def test_bash_is_offered_what_may_follow(line: str, offered: list[str], folder: Path) -> None:
    assert bash_completes(line, folder) == offered


def test_hidden_options_are_not_offered(folder: Path) -> None:
    offered = bash_completes("ffsuper library --", folder)
    assert ("--load" in offered, "--server" in offered) == (True, False)


def test_fish_is_offered_what_may_follow(folder: Path) -> None:
    script = "ffsuper completion fish | source; complete -C'ffsuper sho'; complete -C'ffsuper check --config wor'"
    assert in_shell("fish", script, folder) == ["show\tprint one execution with its attempts", "worker.toml"]


def test_zsh_takes_the_script(folder: Path) -> None:
    script = """
        autoload -U compinit && compinit -u -D
        eval "$(ffsuper completion zsh)"
        print -r -- ${_comps[ffsuper]}
    """
    assert in_shell("zsh", script, folder) == ["_python_argcomplete"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_names_our_program(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == Exit.OK
    assert "ffsuper" in capsys.readouterr().out


def test_file_names_are_completed_as_they_were_typed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    assert completion.files("~/wor") == ["~/worker.toml"]
    assert completion.files(f"{folder}/su") == [f"{folder}/sub/"]
    assert completion.files("./jo") == ["./jobs.py"]


def test_completing_loads_neither_trio_nor_the_store(folder: Path) -> None:
    program = (
        "import sys, ffsuper.commands.completion, ffsuper.commands.arguments as a; a.parser();"
        " print(sorted(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    for heavy in ("trio", "redis", "cattrs", "psutil"):
        assert f"'{heavy}'" not in ended.stdout
