"""The subcommands that run something until they are told to end."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import trio

from ffsuper import config_loader, engine_supervisor, logs, supervisor
from ffsuper.child import hardening
from ffsuper.commands import dev
from ffsuper.commands.exits import Exit
from ffsuper.config import Config
from ffsuper.errors import ConfigError
from ffsuper.store import embedded
from ffsuper.store.store import prepare
from ffsuper.systemd import Notifier


def worker(options: argparse.Namespace) -> Exit:
    """Run the worker."""
    hardening.conceal()
    settings = config_loader.load(options.config, os.environ).config
    logs.set_up(settings.log)
    with embedded.reachable(settings.store) as store:

        def read_again() -> Config:
            again = config_loader.load(options.config, os.environ).config
            return replace(again, store=store) if again.store == settings.store else again

        counts = prepare(store, embedded.new_counts(settings.store))
        running = replace(settings, store=store)
        ending = trio.run(supervisor.run, running, counts, read_again, Notifier(os.environ))
    return Exit.HANDED_BACK if ending is supervisor.Ending.HANDED_BACK else Exit.OK


def try_out(options: argparse.Namespace) -> Exit:
    """Run a worker that is restarted when its handlers change."""
    hardening.conceal()
    data_dir = None
    if options.config is None:
        data_dir = options.data_dir.absolute()
        dev.forget_other_stores(os.environ)
        handlers = dev.handlers_of(options.handlers, Path.cwd())
        worker_toml, watched = dev.write_worker_toml(handlers, data_dir), handlers.folders
    else:
        worker_toml = options.config
    settings = config_loader.load(worker_toml, os.environ).config
    if options.config is not None:
        watched = [*(settings.worker.python_path or [Path.cwd()]), worker_toml.absolute()]
    logs.set_up(settings.log)
    meanings = {code.value: code.name.lower().replace("_", " ") for code in Exit}
    with embedded.reachable(settings.store) as store:
        dev.welcome(store.url, watched, data_dir)
        trio.run(dev.run, worker_toml, watched, settings.drain.timeout_s, meanings)
    return Exit.OK


def engine(options: argparse.Namespace) -> Exit:
    """Run an engine."""
    hardening.conceal()
    settings = config_loader.load(options.config, os.environ, needs_handlers=False).config
    logs.set_up(settings.log)
    with embedded.reachable(settings.store) as store:
        counts = prepare(store, embedded.new_counts(settings.store))
        trio.run(engine_supervisor.run, replace(settings, store=store), counts, Notifier(os.environ))
    return Exit.OK


def server(options: argparse.Namespace) -> Exit:
    """Run the HTTP server."""
    hardening.conceal()
    try:
        from ffsuper import server_supervisor
    except ImportError as error:
        missing = f"ffsuper server needs {error.name}: pip install 'ffsuper[server]'"
        raise ConfigError([missing]) from None
    settings = config_loader.load(options.config, os.environ, needs_handlers=False).config
    logs.set_up(settings.log)
    with embedded.reachable(settings.store) as store:
        counts = prepare(store, embedded.new_counts(settings.store), thoroughly=True)
        trio.run(server_supervisor.run, replace(settings, store=store), counts, Notifier(os.environ))
    return Exit.OK
