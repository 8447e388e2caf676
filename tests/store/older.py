"""A library ffsuper of an earlier release: one that cannot claim in one call."""

from __future__ import annotations

from dataclasses import replace

import redis

from ffsuper.config import StoreConfig
from ffsuper.store import libraries
from ffsuper.store.store import prepare

LATER_FUNCTIONS = ("ffsuper_claim", "ffsuper_hand_back", "ffsuper_renew", "ffsuper_waiting")


def prepare_older(url: str) -> StoreConfig:
    """Prepare a store and put the older library there; return the settings of a worker that may not replace it."""
    prepare(StoreConfig(url=url))
    own = libraries.own_mark(libraries.FFSUPER)
    text = libraries.assemble(libraries.FFSUPER).replace(own.line, replace(own, digest="0000").line)
    for name in LATER_FUNCTIONS:
        text = text.replace(f"register('{name}'", f"register('{name}_later'")
    with redis.Redis.from_url(url) as client:
        client.function_load(text, replace=True)
    return StoreConfig(url=url, library="never")
