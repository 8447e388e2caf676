"""ffsuper: Python work that must not get lost.

What users import. Children load this too, so the clients, which need the store, come only when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ffsuper.child.context import Context, Usage, Waitpoint
from ffsuper.child.outcomes import (
    Cancel,
    Cancelled,
    Defer,
    Fatal,
    RequestRefused,
    SoftTimeout,
    Suspend,
    WaitChildren,
)
from ffsuper.child.registry import handler

if TYPE_CHECKING:
    from ffsuper.admin.client import AdminClient
    from ffsuper.child.async_runtime import AsyncContext
    from ffsuper.client import Client

__all__ = [
    "AdminClient",
    "AsyncContext",
    "Cancel",
    "Cancelled",
    "Client",
    "Context",
    "Defer",
    "Fatal",
    "RequestRefused",
    "SoftTimeout",
    "Suspend",
    "Usage",
    "WaitChildren",
    "Waitpoint",
    "handler",
]
LATER = {
    "AdminClient": "ffsuper.admin.client",
    "AsyncContext": "ffsuper.child.async_runtime",
    "Client": "ffsuper.client",
}


def __getattr__(name: str) -> Any:
    if name in LATER:
        import importlib

        return getattr(importlib.import_module(LATER[name]), name)
    raise AttributeError(f"module 'ffsuper' has no attribute {name!r}")
