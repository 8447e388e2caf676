"""Payloads and results: bytes as they are, JSON for the rest, typed through cattrs where the handler says so.

Imported inside children; cattrs is imported only for types that need it.
"""

from __future__ import annotations

import json
from typing import Any

from ffsuper.messages import Failed

# What json.loads gives: nothing to structure, though cattrs would check it.
PLAIN = (Any, object)


class PayloadError(Exception):
    """The payload does not fit the handler's type. The submitter's mistake; another attempt would not help."""

    def failure(self) -> Failed:
        """Return what becomes of the attempt."""
        return Failed(f"the payload does not fit the handler: {self}", "payload", retryable=False)


class ResultError(Exception):
    """The handler's value cannot be stored as a result. The handler's mistake."""

    def failure(self) -> Failed:
        """Return what becomes of the attempt."""
        return Failed(f"the result cannot be stored: {self}", "result", retryable=False)


def read_payload(payload: bytes, wanted: Any) -> Any:
    """Return the payload as the handler's type.

    Raises:
        PayloadError: it does not fit.
    """
    if wanted is bytes:
        return payload
    try:
        value = json.loads(payload) if payload else None
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"it is not JSON: {error}") from None
    return value if wanted in PLAIN else structure(value, wanted)


def structure(value: Any, wanted: Any) -> Any:
    """Return a JSON value as ``wanted``: dataclasses, attrs classes, TypedDicts, unions, collections, plain types."""
    import cattrs
    from cattrs.preconf.json import make_converter

    converter = make_converter(detailed_validation=True)
    for plain in (str, int, float, bool):
        converter.register_structure_hook(plain, exactly)
    try:
        return converter.structure(value, wanted)
    except cattrs.BaseValidationError as error:
        raise PayloadError("; ".join(cattrs.transform_error(error, path="payload"))) from None
    except (TypeError, ValueError, KeyError, cattrs.StructureHandlerNotFoundError) as error:
        raise PayloadError(str(error)) from None


def exactly(value: Any, wanted: type) -> Any:
    """Take a plain value only if it is of the type already: ``"4"`` is no number."""
    fits = isinstance(value, wanted) or (wanted is float and isinstance(value, int))
    if not fits or (wanted is not bool and isinstance(value, bool)):
        raise ValueError(f"expected {wanted.__name__}, got {value!r:.100}")
    return float(value) if wanted is float else value


def write_result(value: Any) -> bytes:
    """Return a handler's value as bytes; nothing for None.

    Raises:
        ResultError: it cannot be written.
    """
    if value is None:
        return b""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    try:
        return json.dumps(value, default=unstructure, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultError(f"{type(value).__name__}: {error}") from None


def unstructure(value: Any) -> Any:
    """Return what json does not know as plain JSON types.

    Raises:
        TypeError: cattrs does not know it either.
    """
    from cattrs.preconf.json import make_converter

    plain = make_converter().unstructure(value)
    if plain is value:
        raise TypeError(f"{type(value).__name__} is neither bytes nor JSON, nor a dataclass or attrs class")
    return plain
