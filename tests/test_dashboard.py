"""The dashboard asks for what workers and the server expose, and Grafana can lay it out."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from prometheus_client.parser import text_string_to_metric_families

from ffsuper.server.metrics import Metrics
from tests.test_metrics import Scrape, finish, standing

DASHBOARD = json.loads(
    (Path(__file__).parent.parent / "config" / "grafana-dashboard.json").read_text(encoding="utf-8")
)
VARIABLES = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [
    pytest.param(target, id=f"{panel['title']} {target['refId']}") for panel in PANELS for target in panel["targets"]
]
WIDTH = 24
# What Prometheus adds to every series.
ADDED = {"instance", "job"}

SELECTOR = re.compile(r"\b((?:ffsuper|process)_\w+)(?:\{(.*?)\})?")
MATCHER = re.compile(r'(\w+) ?(?:=~|!~|!=|=) ?"')
GROUPING = re.compile(r"\bby \(([\w, ]*)\)")


@pytest.fixture
async def exposed(autojump_clock: trio.testing.MockClock) -> dict[str, set[str]]:
    """Provide the labels of all series that a worker and the server expose, by their names."""
    worker = standing()
    worker.pulses.open("claimer")
    finish(worker, 1, "job", "completed")
    server = Metrics()
    server.requests.labels("GET", "/healthz", "200").inc()
    server.seconds.labels("/healthz").observe(0.1)
    labels: dict[str, set[str]] = defaultdict(set)
    for families in (Scrape(worker).families, text_string_to_metric_families(server.text().decode())):
        for family in families:
            for sample in family.samples:
                labels[sample.name] |= sample.labels.keys()
    return labels


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Return the names of the series that an expression asks for, and the labels by which it selects them."""
    return [(name, set(MATCHER.findall(matchers))) for name, matchers in SELECTOR.findall(expression)]


@pytest.mark.parametrize("target", TARGETS)
async def test_a_panel_asks_for_series_and_labels_that_are_there(
    target: dict[str, Any], exposed: dict[str, set[str]]
) -> None:
    asked = selectors(target["expr"])
    assert asked
    groups = {label for group in GROUPING.findall(target["expr"]) for label in re.findall(r"\w+", group)}
    for name, matched in asked:
        assert name in exposed
        assert matched | groups <= exposed[name] | ADDED
    shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    assert shown <= (groups or ADDED)
    assert target["expr"].count("(") == target["expr"].count(")")


@pytest.mark.parametrize("target", TARGETS)
async def test_counters_are_asked_for_their_rate_and_nothing_else_is(
    target: dict[str, Any], exposed: dict[str, set[str]]
) -> None:
    rates = re.findall(r"\b(?:rate|increase)\((\w+)", target["expr"])
    assert rates == [name for name, _ in selectors(target["expr"]) if name.endswith(("_total", "_bucket"))]
    assert target["expr"].count("[$__rate_interval]") == len(rates)


async def test_every_metric_of_ours_is_on_it(exposed: dict[str, set[str]]) -> None:
    asked = {name for panel in PANELS for target in panel["targets"] for name, _ in selectors(target["expr"])}
    for variable in VARIABLES.values():
        asked |= {name for name, _ in selectors(variable.get("definition", ""))}
    counts = ("_sum", "_count", "_created")  # of histograms, and when a counter of the server began
    ours = {name for name in exposed if name.startswith("ffsuper_") and not name.endswith(counts)}
    assert ours == {name for name in asked if name.startswith("ffsuper_")}


def test_variables_are_what_the_panels_use() -> None:
    assert list(VARIABLES) == ["datasource", "instance", "lane"]
    assert VARIABLES["datasource"]["type"] == "datasource"
    used = set(re.findall(r"\$(\w+)", json.dumps(DASHBOARD["panels"]))) - {"__rate_interval"}
    assert used == {"instance", "lane"}


def test_every_query_goes_to_the_source_that_was_chosen() -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    asking = [*PANELS, *(target for panel in PANELS for target in panel["targets"])]
    asking += [variable for variable in VARIABLES.values() if variable["type"] == "query"]
    assert all(one["datasource"] == chosen for one in asking)


def test_panels_have_numbers_of_their_own_and_names() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert DASHBOARD["id"] is None  # Grafana gives it one when it is imported


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    """Return the places of the grid that a panel covers."""
    place = panel["gridPos"]
    return {
        (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
    }


def test_the_grid_is_filled_without_holes_and_overlaps() -> None:
    places = [cells(panel) for panel in DASHBOARD["panels"]]
    assert not any(one & other for one, other in combinations(places, 2))
    covered = set().union(*places)
    height = max(y for _, y in covered) + 1
    assert covered == {(x, y) for x in range(WIDTH) for y in range(height)}
