"""Every test that a page names as proof is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PAGES = ("docs/reliability.md", "SECURITY.md")
PROMISES = 7


def proofs(page: str) -> list[tuple[str, str]]:
    """Return the tests that a page names: file and function."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (CHECKOUT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_is_named_as_proof_exists(page: str) -> None:
    named = proofs(page)
    assert len(named) > PROMISES
    for file, function in named:
        assert re.search(
            rf"^(async )?def {function}\(", (CHECKOUT / file).read_text(encoding="utf-8"), re.MULTILINE
        ), f"{page} names {file}::{function}"


def test_every_promise_has_its_proof() -> None:
    page = (CHECKOUT / "docs/reliability.md").read_text(encoding="utf-8")
    table = page.partition("| promise | proved by |")[2].partition("\n\n")[0]
    rows = [row for row in table.splitlines() if row.startswith("| **")]
    assert len(rows) == PROMISES
    for row in rows:
        assert "::" in row, row
