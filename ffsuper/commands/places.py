"""Where a subcommand finds its executions: the store or the server that its options name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ffsuper import config_loader
from ffsuper.admin.client import AdminClient
from ffsuper.client import Client
from ffsuper.config import StoreConfig
from ffsuper.errors import ConfigError

PATIENCE_S = 10.0


def open_client(options: argparse.Namespace) -> Client | AdminClient:
    """Return a client of the store or the server that the options name."""
    if options.server is not None:
        return AdminClient(options.server, token=server_token(options), ca_file=options.server_ca_file)
    return open_store(options)


def open_store(options: argparse.Namespace, patience_s: float = PATIENCE_S) -> Client:
    """Return a client of the store that the options name.

    Args:
        patience_s: for how long the store may be away.
    """
    return Client(store_settings(options), patience_s=patience_s)


def store_settings(options: argparse.Namespace) -> StoreConfig:
    """Return where the store is that the options name."""
    return config_loader.load_store(options.config, os.environ, options.store)


def server_token(options: argparse.Namespace) -> str:
    """Return the token for the server that the options name; empty where there is none.

    Raises:
        ConfigError: it cannot be read, or is in the environment.
    """
    if config_loader.variable("server", "token") in os.environ:
        raise ConfigError([config_loader.in_environment("server", "token")])
    named = options.server_token_file or os.environ.get(config_loader.variable("server", "token_file"))
    return read_token(Path(named)) if named else ""


def read_token(file: Path) -> str:
    """Return the token that stands in a file.

    Raises:
        ConfigError: it cannot be read.
    """
    problems: list[str] = []
    token = config_loader.first_line(file, "token file", problems)
    if problems:
        raise ConfigError(problems)
    return token.strip()
