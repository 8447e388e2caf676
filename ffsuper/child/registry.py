"""Which function handles which execution kind. Imported inside children, by users' modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ffsuper.errors import HandlerDefinitionError

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Handler:
    """A registered function.

    Attributes:
        takes_payload: it has a second parameter.
        payload_type: that one's annotation; ``Any`` without one.
        timeout_s: None for the configured default; likewise ``progress_timeout_s``.
        library: what an async function runs on, ``trio`` or ``asyncio``; None for a plain one.
    """

    execution_kind: str
    function: Callable[..., Any]
    takes_payload: bool
    payload_type: Any
    timeout_s: float | None
    progress_timeout_s: float | None
    library: str | None


HANDLERS: dict[str, Handler] = {}


def handler(
    kind: str,
    *,
    timeout_s: float | None = None,
    progress_timeout_s: float | None = None,
    library: Literal["trio", "asyncio"] = "trio",
) -> Callable[[Function], Function]:
    """Register a function for an execution kind.

    The function takes the context and, if it likes, the payload: ``def thumbnail(ctx, job: Thumbnail)``. An ``async
    def`` gets an AsyncContext, and may run beside others of its kind in one process.

    Args:
        timeout_s: the handler is interrupted after this time; the worker's default when None.
        progress_timeout_s: likewise after this time without progress, a frame or another sign of it.
        library: what an ``async def`` runs on.

    Raises:
        HandlerDefinitionError: the kind is empty or taken, a timeout is not positive, or the function is none that
            can be called so.
    """

    def register(function: Function) -> Function:
        check_registration(kind, function, timeout_s=timeout_s, progress_timeout_s=progress_timeout_s)
        if library not in ("trio", "asyncio"):
            raise HandlerDefinitionError(f"{place(function)}: library is {library!r}, neither 'trio' nor 'asyncio'")
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())
        takes_payload = len(parameters) > 1
        annotation = parameters[1].annotation if takes_payload else Any
        payload_type = Any if annotation is inspect.Parameter.empty else annotation
        HANDLERS[kind] = Handler(
            kind,
            function,
            takes_payload,
            payload_type,
            timeout_s,
            progress_timeout_s,
            library if inspect.iscoroutinefunction(function) else None,
        )
        return function

    return register


def check_registration(kind: str, function: Callable[..., Any], **timeouts: float | None) -> None:
    """Refuse what cannot work."""
    if not kind or not isinstance(kind, str):
        raise HandlerDefinitionError(f"{place(function)}: a handler's kind must be a non-empty text, not {kind!r}")
    if kind in HANDLERS:
        raise HandlerDefinitionError(
            f"kind {kind!r} is registered twice: {place(HANDLERS[kind].function)} and {place(function)}"
        )
    for name, timeout_s in timeouts.items():
        if timeout_s is not None and not timeout_s > 0:
            raise HandlerDefinitionError(f"{place(function)}: {name} must be positive, not {timeout_s!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise HandlerDefinitionError(f"{place(function)}: handler {kind!r} is a generator: return a value")
    parameters = inspect.signature(function).parameters.values()
    positional = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    needed = [one for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    if len(positional) not in (1, 2) or any(one not in positional for one in needed):
        raise HandlerDefinitionError(
            f"{place(function)}: handler {kind!r} takes {inspect.signature(function)}, not (ctx) or (ctx, payload)"
        )


def place(function: Callable[..., Any]) -> str:
    """Return where a function was defined, as ``file:line (name)``."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    return f"{code.co_filename}:{code.co_firstlineno} ({name})" if code else name
