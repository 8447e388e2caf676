from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ffsuper.config_loader import load
from ffsuper.errors import ConfigError
from tests.config_files import LEAST, config, problems

# --- the file as such ---------------------------------------------------------------------------------------------


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file or directory"):
        load(tmp_path / "none.toml", {})


def test_a_path_that_cannot_be_one_is_told() -> None:
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        load(Path("\0"), {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[worker]\nid = x", "worker.toml: Invalid value (at line 2, column 6)"),
        ("[worker]\nid =", "worker.toml: Invalid value (at line 2, column 5, the end of the file)"),
        ("a = " + "1" * 5000, "worker.toml: a number in it has too many digits"),
        ("a = " + "[" * 5000, "worker.toml: arrays or tables in it are nested too deeply"),
    ],
)
def test_what_is_not_toml_is_told_with_line_and_column(tmp_path: Path, text: str, told: str) -> None:
    assert problems(tmp_path, text) == [told]


def test_what_is_not_utf_8_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "worker.toml"
    file.write_bytes(b'[worker]\nid = "\xff"')
    with pytest.raises(ConfigError, match=r"worker\.toml: is not UTF-8 text at line 2$"):
        load(file, {})


# --- sections and keys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[leases]", 'worker.toml: [leases]: unknown section; did you mean "lease"?'),
        ('["a b"]', 'worker.toml: ["a b"]: unknown section'),
        ("[[lease]]", "worker.toml: [lease]: must be a table, got an array"),
        ("[worker]\nlane = 1", 'worker.toml: [worker] lane: unknown key; did you mean "lanes"?'),
        ("[lease]\ngrace_s = 1", "worker.toml: [lease] grace_s: unknown key; did you mean [children] grace_s?"),
        ("[lease]\nxyz = 1", "worker.toml: [lease] xyz: unknown key"),
        ('[lease]\n"" = 1', 'worker.toml: [lease] "": unknown key'),
    ],
)
def test_unknown_names_are_told_with_a_suggestion(tmp_path: Path, text: str, told: str) -> None:
    assert problems(tmp_path, text, {"FFSUPER_WORKER_HANDLERS": "app"}) == [told]


def test_a_key_outside_of_any_section_is_told_where_it_belongs(tmp_path: Path) -> None:
    told = "worker.toml: lanes: unknown key outside of any section; did you mean [worker] lanes?"
    assert problems(tmp_path, "lanes = []\n" + LEAST) == [told]


@pytest.mark.parametrize(
    ("section", "line", "told"),
    [
        ("lease", 'ttl_ms = "30s"', '[lease] ttl_ms: must be an integer, got "30s"'),
        ("lease", 'ttl_ms = "4"', '[lease] ttl_ms: must be an integer, got "4"'),
        ("lease", "ttl_ms = true", "[lease] ttl_ms: must be an integer, got true"),
        ("lease", "ttl_ms = 5000.0", "[lease] ttl_ms: must be an integer, got 5000.0"),
        ("lease", "ttl_ms = 3", "[lease] ttl_ms: must be at least 1000, got 3"),
        ("drain", 'timeout_s = "5"', '[drain] timeout_s: must be a number, got "5"'),
        ("drain", "timeout_s = false", "[drain] timeout_s: must be a number, got false"),
        ("drain", f"timeout_s = 0x{'f' * 5000}", "[drain] timeout_s: must be at most 31622400.0, got inf"),
        ("drain", f"timeout_s = 1{'0' * 400}", "[drain] timeout_s: must be at most 31622400.0, got inf"),
        ("drain", f"timeout_s = -1{'0' * 400}", "[drain] timeout_s: must be at least 0.0, got -inf"),
        ("children", "preload = 1", "[children] preload: must be true or false, got 1"),
        ("children", "count = 2024-01-01", "[children] count: must be an integer, got a date or time"),
        ("children", 'environment = "A"', "[children] environment: must be a table of strings in the file"),
        ("children", "environment = {A = 1}", "[children] environment.A: must be a string"),
        ("children", 'environment = {"A B" = []}', '[children] environment."A B": must be a string'),
        ("engine", 'enabled = "yes"', '[engine] enabled: must be true or false, got "yes"'),
        ("store", "url = 5", "[store] url: must be a string, got 5"),
        ("store", 'data_dir = ""', '[store] data_dir: must be a path, got ""'),
        ("store", 'data_dir = "\\u0000"', '[store] data_dir: must be a path, got "\\u0000"'),
        ("store", "data_dir = 5", "[store] data_dir: must be a path as a string, got 5"),
        (
            "log",
            'level = "warn"',
            '[log] level: must be "debug", "info", "warning" or "error", got "warn"; did you mean "warning"?',
        ),
        ("log", "level = 1", '[log] level: must be "debug", "info", "warning" or "error", got 1'),
        ("claim", "unknown_kind = []", '[claim] unknown_kind: must be "leave" or "fail", got an array'),
    ],
)
def test_values_of_the_wrong_kind_are_told(tmp_path: Path, section: str, line: str, told: str) -> None:
    assert problems(tmp_path, f"{LEAST}[{section}]\n{line}") == [f"worker.toml: {told}"]


def test_an_integer_will_do_for_a_float(tmp_path: Path) -> None:
    timeout_s = config(tmp_path, LEAST + "[drain]\ntimeout_s = 5").drain.timeout_s
    assert (timeout_s, type(timeout_s)) == (5.0, float)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('lanes = "a"', ['lanes: must be an array of strings, got "a"']),
        (
            'lanes = ["a", 5, "b", ["c"]]',
            ["lanes[1]: must be a string, got 5", "lanes[3]: must be a string, got an array"],
        ),
        ("python_path = [5]", ["python_path[0]: must be a path as a string, got 5"]),
        ("lanes = []", ["lanes: must name at least one lane"]),
        ('instance_id = ""', ["instance_id: must not be empty; leave it out for <id>@<host name>"]),
    ],
)
def test_mistakes_in_lists_are_told_with_their_index(tmp_path: Path, line: str, told: list[str]) -> None:
    assert problems(tmp_path, LEAST + line) == [f"worker.toml: [worker] {text}" for text in told]


@pytest.mark.parametrize("text", ["", "[worker]", "[worker]\nhandlers = []"])
def test_a_worker_without_handlers_is_refused(tmp_path: Path, text: str) -> None:
    told = 'worker.toml: [worker] handlers: must name at least one module with handlers, as in ["app.handlers"]'
    assert problems(tmp_path, text) == [told]


def test_all_mistakes_of_all_sections_are_told_at_once(tmp_path: Path) -> None:
    text = """
        [worker]
        handlers = ["app"]
        lane = ["a"]
        id = ""
        capabilities = ["a,b", ""]
        [lease]
        ttl_ms = "30s"
        margin_ms = 0
        [store]
        url = "redis://"
        timeout_s = 0
        tls_ca_file = "none.pem"
        [log]
        level = "loud"
        [extra]
    """
    assert problems(tmp_path, text, {"FFSUPER_DRAIN_TIMEOUT_S": "soon", "FFSUPER_LOG_LEVELS": "x"}) == [
        "worker.toml: [extra]: unknown section",
        "FFSUPER_LOG_LEVELS: unknown variable; did you mean FFSUPER_LOG_LEVEL?",
        'worker.toml: [worker] lane: unknown key; did you mean "lanes"?',
        "worker.toml: [worker] id: must not be empty",
        'worker.toml: [worker] capabilities[0]: must not contain a comma, got "a,b"',
        "worker.toml: [worker] capabilities[1]: must not be empty",
        f'worker.toml: [store] tls_ca_file: "{tmp_path / "none.pem"}" cannot be read: No such file or directory',
        "worker.toml: [store] url: names no host; write it as in redis://localhost:6379/0",
        "worker.toml: [store] timeout_s: must be at least 0.001, got 0.0",
        'worker.toml: [lease] ttl_ms: must be an integer, got "30s"',
        "worker.toml: [lease] margin_ms: must be at least 1, got 0",
        'FFSUPER_DRAIN_TIMEOUT_S: must be a number, got "soon"',
        'worker.toml: [log] level: must be "debug", "info", "warning" or "error", got "loud"',
    ]


def test_a_value_is_not_blamed_for_not_fitting_one_of_the_wrong_kind(tmp_path: Path) -> None:
    text = LEAST + '[lease]\nttl_ms = "90s"\nmargin_ms = 20000'
    assert problems(tmp_path, text) == ['worker.toml: [lease] ttl_ms: must be an integer, got "90s"']


# --- what is resolved ---------------------------------------------------------------------------------------------


def test_defaults_are_resolved_for_this_machine(tmp_path: Path) -> None:
    resolved = config(tmp_path)
    assert resolved.worker.instance_id == f"ffsuper@{socket.gethostname()}"
    assert resolved.children.count == len(os.sched_getaffinity(0))
    assert resolved.store.data_dir == tmp_path / "ffsuper-data"


@pytest.mark.parametrize(
    ("text", "enabled"),
    [
        ("", False),
        ('[store]\nurl = "embedded"', True),
        ("[engine]\nenabled = true", True),
        ('[store]\nurl = "embedded"\n[engine]\nenabled = false', False),
    ],
)
def test_the_engine_runs_by_default_only_on_the_embedded_store(tmp_path: Path, text: str, enabled: bool) -> None:
    assert config(tmp_path, LEAST + text).engine.enabled is enabled


def test_given_names_and_counts_are_kept(tmp_path: Path) -> None:
    resolved = config(tmp_path, LEAST + 'instance_id = "images@7"\n[children]\ncount = 300')
    assert (resolved.worker.instance_id, resolved.children.count) == ("images@7", 300)


def test_capabilities_end_up_in_byte_order_without_duplicates(tmp_path: Path) -> None:
    resolved = config(tmp_path, LEAST + 'capabilities = ["zz", "a", "东京", "B", "a", "ä"]')
    assert resolved.worker.capabilities == ("B", "a", "zz", "ä", "东京")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "ca.pem").touch()
    text = LEAST + 'python_path = ["app"]\n[store]\nurl = "rediss://x"\ntls_ca_file = "ca.pem"\ndata_dir = "/data"'
    resolved = config(tmp_path, text)
    assert resolved.worker.python_path == (tmp_path / "app",)
    assert (resolved.store.tls_ca_file, resolved.store.data_dir) == (tmp_path / "ca.pem", Path("/data"))


def test_folders_and_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    long = "x" * 300
    text = f'{LEAST}python_path = [".", "none", "file", "{long}"]\n[store]\npassword_file = "."'
    assert problems(tmp_path, text) == [
        f'worker.toml: [worker] python_path[1]: "{tmp_path / "none"}" cannot be read: No such file or directory',
        f'worker.toml: [worker] python_path[2]: "{tmp_path / "file"}" cannot be read: Not a directory',
        f'worker.toml: [worker] python_path[3]: "{tmp_path / long}" cannot be read: File name too long',
        f'worker.toml: [store] password_file: "{tmp_path}" cannot be read: Is a directory',
    ]
