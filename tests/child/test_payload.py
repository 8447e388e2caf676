"""Payloads and results as handlers' types say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypedDict

import attrs
import pytest

from ffsuper.child.payload import PayloadError, ResultError, read_payload, write_result


@dataclass
class Size:
    width: int
    height: float = 1.0


@attrs.frozen
class Image:
    name: str
    sizes: list[Size] = attrs.Factory(list)


class Options(TypedDict):
    quality: int


class Color(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("payload", "wanted", "value"),
    [
        (b"\x00\xff", bytes, b"\x00\xff"),
        (b"", Any, None),
        (b'{"a": [1, null]}', Any, {"a": [1, None]}),
        (b'{"width": 5}', Size, Size(5)),
        (b'{"width": 5, "height": 2}', Size, Size(5, 2.0)),
        (b'{"name": "a", "sizes": [{"width": 1}]}', Image, Image("a", [Size(1)])),
        (b'{"quality": 3}', Options, {"quality": 3}),
        (b"[1, 2]", list[int], [1, 2]),
        (b'{"a": 1.5}', dict[str, float], {"a": 1.5}),
        (b"null", int | None, None),
        (b"7", int | None, 7),
        (b'"red"', Color, Color.RED),
        (b"true", bool, True),
    ],
)
def test_a_payload_becomes_the_handlers_type(payload: bytes, wanted: Any, value: object) -> None:
    assert read_payload(payload, wanted) == value


@pytest.mark.parametrize(
    ("payload", "wanted", "told"),
    [
        (b"{", Any, "not JSON"),
        (b"[" * 100_000, Any, "not JSON"),
        (b'{"width": "5"}', Size, "payload.width"),
        (b"{}", Size, "width"),
        (b'{"name": "a", "sizes": [{"width": true}]}', Image, "sizes"),
        (b'{"quality": 1.5}', Options, "quality"),
        (b"1.5", int, "expected int"),
        (b'"blue"', Color, "blue"),
    ],
)
def test_what_does_not_fit_is_named(payload: bytes, wanted: Any, told: str) -> None:
    with pytest.raises(PayloadError, match=told):
        read_payload(payload, wanted)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, b""),
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"a"), b"a"),
        ([1, "a", None], b'[1, "a", null]'),
        (Size(5), b'{"width": 5, "height": 1.0}'),
        (Image("a", [Size(1)]), b'{"name": "a", "sizes": [{"width": 1, "height": 1.0}]}'),
        ({"image": Image("a")}, b'{"image": {"name": "a", "sizes": []}}'),
    ],
)
def test_a_result_is_stored_as_bytes_or_json(value: object, stored: bytes) -> None:
    assert write_result(value) == stored


@pytest.mark.parametrize("value", [object(), float("inf"), {1, 2}.__iter__(), {("a",): 1}])
def test_a_result_that_is_no_json_is_refused(value: object) -> None:
    with pytest.raises(ResultError):
        write_result(value)
