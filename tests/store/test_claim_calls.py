"""What a submitter may have put beside an execution is read without harm to the claim."""

from __future__ import annotations

import pytest

from ffsuper.store.claim_calls import read_deadline, read_retry_policy

DEEP = b'{"retry_policy": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize("policy", [DEEP, b"no JSON", b"[]", b"{}", b'{"retry_policy": null}'])
def test_a_retry_policy_that_cannot_be_read_is_none(policy: bytes) -> None:
    assert read_retry_policy(policy) == b""


def test_a_retry_policy_is_passed_on() -> None:
    assert read_retry_policy(b'{"retry_policy": {"max_retries": 3}}') == b'{"max_retries": 3}'


@pytest.mark.parametrize(("score", "expected"), [(b"-inf", 0), (b"inf", None), (b"1700000000000", 1_700_000_000_000)])
def test_a_deadline_may_be_any_number(score: bytes, expected: int | None) -> None:
    assert read_deadline(score) == expected
