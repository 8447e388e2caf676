"""Whatever an execution's records say, people are shown it, on lines that do nothing to their terminal."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from ffsuper.clients import Execution
from ffsuper.commands import texts
from tests.fuzz.calls import EXECUTION
from tests.fuzz.examples import fuzz
from tests.fuzz.values import JSON, TEXTS

TIMES = st.sampled_from(("1700000000000", "inf", "-inf", "nan", "1e308", "-1e16", "9" * 30, "")) | TEXTS
LINES = st.lists(
    st.fixed_dictionaries({"at_ms": TIMES | JSON, "stream": TEXTS | JSON, "text": TEXTS | JSON}), max_size=2
)
REPORTS = st.fixed_dictionaries(
    {
        "signal": st.none() | TEXTS | JSON,
        "exit_code": JSON,
        "why_killed": TEXTS | JSON,
        "peak_memory_bytes": st.sampled_from((0, 10**9, 10**400, -1, 1e308)) | JSON,
        "output": LINES | JSON,
        "stack_dump": st.lists(TEXTS, max_size=2) | JSON,
    }
)
WRITTEN = REPORTS.map(json.dumps) | JSON.map(json.dumps) | TEXTS | st.just("[" * 5_000)
RECORDS = st.dictionaries(
    st.sampled_from(("started_at", "created_at", "completed_at", "delay_until", "ended_at", "ts")), TIMES
)
OTHERS = st.dictionaries(
    st.sampled_from(("priority", "progress_pct", "failure_reason", "blocking_reason", "attempt_index", "event")),
    TEXTS,
)
ATTEMPTS = st.builds(
    lambda times, others, report: times | others | {"crash_report": report}, RECORDS, OTHERS, WRITTEN
)


@fuzz(200)
@given(
    times=RECORDS,
    others=OTHERS,
    state=TEXTS,
    tags=st.dictionaries(TEXTS, TEXTS, max_size=2),
    attempts=st.lists(ATTEMPTS, max_size=2),
)
@example(times={"delay_until": "inf"}, others={}, state="delayed", tags={}, attempts=[{"crash_report": "[" * 5_000}])
@example(times={"created_at": "-1e16"}, others={}, state="delayed", tags={}, attempts=[])
def test_any_record_is_shown_to_people_and_programs(
    times: dict[str, str], others: dict[str, str], state: str, tags: dict[str, str], attempts: list[dict[str, Any]]
) -> None:
    record = times | others
    execution = Execution(EXECUTION, state, "kind", "lane", record, tags, attempts)
    for line in [*texts.described(execution, "text").split("\n"), texts.event(record)]:
        assert line.isprintable()
    for attempt in attempts:
        assert json.dumps(texts.with_crash_report(attempt))
