"""A real store for the scheduler."""

from __future__ import annotations

from tests.engine.conftest import client, server_url, settings, store

__all__ = ["client", "server_url", "settings", "store"]
