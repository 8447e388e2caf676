"""What ``workers``, ``lanes``, ``quiet``, ``resume`` and ``drain`` print, and their exit codes."""

from __future__ import annotations

import json
import re
import time

import pytest
import redis

from ffsuper.cli import Exit, main
from ffsuper.commands.colour import Meaning
from ffsuper.commands.tables import Cell, size, span, table
from ffsuper.store import keys
from tests.commands.calling import LIMIT_S, RUNNING, columns, run
from tests.fake_workers import FakeWorker, listening

# --- tables -----------------------------------------------------------------------------------------------------


def test_columns_line_up_and_numbers_stand_at_the_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert table(["NAME", ">COUNT", "WHY"], [["a", "1", ""], ["long-one", "12345", "because"]]) == [
        "NAME      COUNT  WHY",
        "a             1  -",
        "long-one  12345  because",
    ]


@pytest.mark.parametrize("width", range(12))
def test_lines_are_cut_where_the_terminal_ends_and_colour_has_no_width(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = ["NAME", "STATE", "WHY"]
    rows: list[list[str | Cell]] = [["w", Cell("dead", Meaning.BAD), "no sign of life"]]
    monkeypatch.setenv("NO_COLOR", "1")
    plain = table(heads, rows, width)
    assert max(map(len, plain)) <= width
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for line, painted in zip(plain, table(heads, rows, width), strict=True):
        assert without_colour(painted).rstrip() == line


def without_colour(text: str) -> str:
    for meaning in Meaning:
        text = text.replace(f"\x1b[{meaning.value}m", "")
    return text.replace("\x1b[0m", "")


def test_other_peoples_words_do_nothing_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert table(["KIND"], [["\x1b[2J\n\x07"]])[1:] == [r"\x1b[2J\n\x07"]


@pytest.mark.parametrize(
    ("ms", "told"),
    [
        *((0, "0.0s"), (1_234, "1.2s"), (9_999, "10.0s"), (10_000, "10s"), (59_999, "59s")),
        *((60_000, "1m00s"), (3_599_999, "59m59s"), (3_600_000, "1h00m"), (90_000_000, "1d01h"), (8.64e9, "100d00h")),
    ],
)
def test_spans_are_told_in_their_two_largest_units(ms: float, told: str) -> None:
    assert span(ms) == told


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (52_428_800, "50 MiB"), (2**31, "2 GiB"), (2**41, "2.0 TiB")],
)
def test_sizes_are_told_in_their_unit(count: int, told: str) -> None:
    assert size(count) == told


# --- workers, lanes, orders -------------------------------------------------------------------------------------


def test_workers_are_listed_with_what_they_say(store: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    told = {
        "lanes": ["bulk", "default"],
        "slots": 4,
        "running": [RUNNING],
        "memory_bytes": 52_428_800,
        "finished": {"bulk": {"completed": 20, "failed": 1}},
        "version": "0.1.0",
    }
    stuck = {"state": "stuck", "detail": "stuck: claimer"}
    with listening(FakeWorker("w-1", store, told), FakeWorker("w-2", store, stuck)):
        code, out, _ = run(capsys, "workers")
        listed = json.loads(run(capsys, "workers", "--json")[1])
    head, first, second = map(columns, out.splitlines())
    assert code == Exit.OK
    assert (head[:4], len(head)) == (["INSTANCE", "STATE", "RUNNING", "DETAIL"], len(first))
    assert first[:5] == ["w-1", "running", "1/4", "-", "21"]
    assert first[6:] == ["50 MiB", "bulk,default", "box", "7", "0.1.0"]
    assert (second[:2], second[3]) == (["w-2", "stuck"], "stuck: claimer")
    assert [(one["instance_id"], one["state"], one["slots"]) for one in listed] == [
        ("w-1", "running", 4),
        ("w-2", "stuck", 0),
    ]


def test_workers_that_say_nothing_are_listed_with_what_that_means(
    store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    store.sadd(keys.OWN_WORKERS, "killed")
    store.sadd(keys.WORKERS, "foreign")
    store.set(keys.worker_capabilities("foreign"), "cpu,gpu")
    FakeWorker("older", store).begin()
    deaf = FakeWorker("deaf", store, {"since_ms": 1_000}, written_ms=int(time.time() * 1000) - 48_500)
    deaf.begin()
    deaf.say()
    _, deaf_line, foreign, killed, older = run(capsys, "workers")[1].splitlines()
    assert re.search(r"  last heard 4[789]s ago  .*  \d{5}d\d\dh  ", deaf_line)
    assert "reference" in foreign
    assert "capabilities cpu,gpu" in foreign
    assert "dead" in killed
    assert "silent" in older


def test_nothing_to_list_is_said_and_no_error(store: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "workers")
    assert (code, out, "no worker is there" in err) == (Exit.OK, "", True)
    code, out, err = run(capsys, "lanes")
    assert (code, out, "no worker has served a lane yet" in err) == (Exit.OK, "", True)
    assert run(capsys, "workers", "--json")[1] == run(capsys, "lanes", "--json")[1] == "[]"


def test_lanes_are_listed_with_what_waits_and_why(store: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "submit", "job", "--lane", "bulk")
    store.zadd("ff:idx:{fp:9}:lane:bulk:blocked:route", {"one": 1, "two": 2})
    with listening(FakeWorker("w-1", store, {"lanes": ["bulk", "default"]})):
        code, out, _ = run(capsys, "lanes")
        (bulk,) = json.loads(run(capsys, "lanes", "--lane", "bulk", "--json")[1])
    head, first, second = map(columns, out.splitlines())
    assert (code, head[:3]) == (Exit.OK, ["LANE", "ELIGIBLE", "OLDEST"])
    assert (first[:2], first[2].endswith("s"), first[3]) == (["bulk", "1"], True, "route 2")
    assert (second[:4], first[-1], second[-1]) == (["default", "0", "-", "-"], "1", "1")
    assert (bulk["name"], bulk["eligible"], bulk["blocked"]["route"], bulk["workers"]) == ("bulk", 1, 2, ["w-1"])


def test_orders_say_who_was_told_what(store: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    worker = FakeWorker("w-1", store)
    limit = str(LIMIT_S)
    with listening(worker):
        code, out, _ = run(capsys, "quiet", "w-1", "--wait", limit)
        assert (code, out.splitlines()) == (
            Exit.OK,
            ["told w-1 (process 7 on box) to be quiet", "w-1 is quiet"],
        )
        code, out, _ = run(capsys, "resume", "w-1", "--wait", limit, "--json")
        assert (code, json.loads(out)) == (
            Exit.OK,
            {"instance_id": "w-1", "host": "box", "pid": 7, "order": "resume", "is_obeyed": True},
        )
        code, out, _ = run(capsys, "drain", "w-1", "--wait", limit)
        assert (code, out.splitlines()[1]) == (Exit.OK, "w-1 has ended")
    assert {"quiet", "resume", "drain"} == set(worker.obeyed)


def test_an_order_that_nobody_waits_for_is_given_all_the_same(
    store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeWorker("older", store).begin()
    code, out, err = run(capsys, "drain", "older", "--json")
    assert (code, json.loads(out)["is_obeyed"], "may not obey" in err) == (Exit.OK, None, True)
    assert json.loads(store.get(keys.worker_order("older")) or b"")["order"] == "drain"


def test_orders_that_reach_nobody_have_their_exit_codes(
    store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    store.sadd(keys.WORKERS, "foreign")
    deaf = FakeWorker("deaf", store)
    deaf.begin()
    deaf.say()
    code, _, err = run(capsys, "quiet", "typo")
    assert (code, err) == (Exit.NOT_FOUND, "ffsuper: no live worker is called typo: there is deaf")
    code, _, err = run(capsys, "drain", "foreign")
    assert (code, "foreign is no worker of ffsuper" in err) == (Exit.INPUT, True)
    code, _, err = run(capsys, "quiet", "deaf", "--wait", "0.01")
    assert (code, err) == (Exit.ENDED_OTHERWISE, "ffsuper: deaf is still running after 0.01 s")


def test_a_worker_that_drains_is_said_to_and_does_not_resume(
    store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    draining = FakeWorker("w-1", store, {"state": "draining"})
    draining.begin()
    draining.say()
    code, out, _ = run(capsys, "quiet", "w-1", "--wait", str(LIMIT_S))
    assert (code, out.splitlines()[-1]) == (Exit.OK, "w-1 is draining")
    code, out, err = run(capsys, "resume", "w-1")
    assert (code, out) == (Exit.INPUT, "")
    assert err == "ffsuper: w-1 is draining: it will end, and cannot be told to resume"
    assert json.loads(store.get(keys.worker_order("w-1")) or b"")["order"] == "quiet"


def test_an_execution_that_nobody_can_run_says_what_is_missing(
    store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    execution = run(capsys, "submit", "job", "--lane", "bulk")[1]
    with listening(FakeWorker("w-1", store, {"lanes": ["default"], "kinds": ["job"]})):
        assert "for a worker that serves lane bulk: none of ffsuper does now" in run(capsys, "show", execution)[1]
    with listening(FakeWorker("w-1", store, {"lanes": ["bulk"], "kinds": ["job"]})):
        assert "for a worker that" not in run(capsys, "show", execution)[1]


def test_what_workers_say_does_nothing_to_the_terminal(
    store: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = FakeWorker("w-1\x1b[2J", store)
    evil.begin()
    assert r"no live worker is called typo: there is w-1\x1b[2J" in run(capsys, "quiet", "typo")[2]
    assert r"told w-1\x1b[2J (process" in run(capsys, "quiet", evil.name)[1]


@pytest.mark.parametrize("command", ["workers", "lanes", "top", "quiet w", "resume w", "drain w"])
def test_a_server_knows_of_no_workers(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([*command.split(), "--server", "http://127.0.0.1:9090"])
    assert (left.value.code, "name it by --store or --config" in capsys.readouterr().err) == (Exit.USAGE, True)


@pytest.mark.parametrize(
    "arguments", [["top", "--interval", "0"], ["top", "--interval", "inf"], ["quiet", "w", "--wait", "-1"]]
)
def test_spans_of_time_that_are_none_are_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == Exit.USAGE
