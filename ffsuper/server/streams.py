"""Routes of what executions put out. Who waits for more looks again and again, and holds up nobody."""

from __future__ import annotations

import re
from typing import Annotated, Any

import trio
from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse

from ffsuper.server import answers
from ffsuper.server.service import HttpError, Service, path_id, service_of
from ffsuper.store import streams
from ffsuper.store.streams import Entries

router = APIRouter(prefix="/v1/executions/{execution_id}/attempts/{index}/stream", tags=["streams"])
Served = Annotated[Service, Depends(service_of)]
Index = Annotated[int, Path(ge=0, lt=2**32)]
Limit = Annotated[int, Query(ge=1, le=1_000)]

LOOK_AGAIN_S = 0.1


@router.get("", responses={200: {"model": answers.Stream}, **answers.BUSY})
async def read(
    execution_id: str,
    index: Index,
    service: Served,
    first: Annotated[str, Query(alias="from")] = "-",
    last: Annotated[str, Query(alias="to")] = "+",
    limit: Limit = 100,
) -> JSONResponse:
    """Return what one attempt has put out."""
    known = path_id(execution_id)
    for name, text in (("from", first), ("to", last)):
        if text not in ("-", "+"):
            entry_id(name, text)
    with service.stream_operations.place():
        found = await service.streams.run(streams.read_entries(known, index, first, last, limit))
    return answer(found)


@router.get("/tail", responses={200: {"model": answers.Stream}, **answers.BUSY})
async def tail(
    execution_id: str,
    index: Index,
    request: Request,
    service: Served,
    after: str = "0-0",
    block_ms: Annotated[int, Query(ge=0, le=30_000)] = 0,
    limit: Limit = 50,
) -> JSONResponse:
    """Return what one attempt has put out after an entry; wait for it to come if asked, or for the stream's end."""
    calls = streams.read_entries_after(path_id(execution_id), index, entry_id("after", after), limit)
    give_up_s = trio.current_time() + block_ms / 1000
    with service.stream_operations.place():
        async with service.watched(request) as gone:
            while True:
                closing, frames = await service.streams.run_all(calls)
                found = streams.entries_of(frames, *closing)
                is_over = bool(found.entries) or found.closed_at_ms is not None
                if is_over or gone.is_set() or service.stopping.is_set():
                    break
                if trio.current_time() + LOOK_AGAIN_S > give_up_s:
                    break
                with trio.move_on_after(LOOK_AGAIN_S):
                    await service.stopping.wait()
    return answer(found)


def entry_id(name: str, text: str) -> str:
    """Return the id of an entry.

    Raises:
        HttpError: it is none.
    """
    parts = re.fullmatch("([0-9]{1,20})(?:-([0-9]{1,20}))?", text)
    if parts is None or any(int(part) >= 2**64 for part in parts.groups("0")):
        raise HttpError(400, f"{name}: {text!r} is no entry's id: it must look like 1700000000000-0")
    return text


def answer(found: Entries) -> JSONResponse:
    """Return entries as the protocol has them."""
    told: dict[str, Any] = {
        "frames": [{"id": one, "fields": fields} for one, fields in found.entries],
        "count": len(found.entries),
    }
    if found.closed_at_ms is not None:
        told |= {"closed_at": found.closed_at_ms, "closed_reason": found.closed_reason}
    return JSONResponse(told)
