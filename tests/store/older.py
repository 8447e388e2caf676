"""Libraries of earlier and later releases, made of ours."""

from __future__ import annotations

import redis

from ffsuper.config import StoreConfig
from ffsuper.store import libraries
from ffsuper.store.libraries import FFSUPER, Mark
from ffsuper.store.store import prepare

# What an earlier release did not have, and a later one may have under other names.
LATER_FUNCTIONS = ("ffsuper_claim_first", "ffsuper_hand_back", "ffsuper_renew", "ffsuper_waiting")


def library_of(name: str, release: tuple[int, ...], *, without: tuple[str, ...] = ()) -> str:
    """Return the text of a library of another release.

    Args:
        without: functions that it has under other names only.
    """
    text = libraries.assemble(name).replace(libraries.own_mark(name).line, Mark(release, "0000").line)
    for function in without:
        assert f"register('{function}'" in text
        text = text.replace(f"register('{function}'", f"register('{function}_otherwise'")
    return text


def prepare_older(url: str) -> StoreConfig:
    """Prepare a store and put an older library there; return the settings of a worker that may not replace it."""
    prepare(StoreConfig(url=url))
    text = library_of(FFSUPER, libraries.own_mark(FFSUPER).release, without=LATER_FUNCTIONS)
    with redis.Redis.from_url(url) as client:
        client.function_load(text, replace=True)
    return StoreConfig(url=url, library="never")
