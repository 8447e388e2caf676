"""ffsuper: Python work that must not get lost.

What users import. Children load this too, so the client, which needs the store, comes only when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ffsuper.child.context import Context
from ffsuper.child.outcomes import Cancelled, Defer, Fatal, SoftTimeout
from ffsuper.child.registry import handler

if TYPE_CHECKING:
    from ffsuper.client import Client

__all__ = ["Cancelled", "Client", "Context", "Defer", "Fatal", "SoftTimeout", "handler"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from ffsuper.client import Client

        return Client
    raise AttributeError(f"module 'ffsuper' has no attribute {name!r}")
