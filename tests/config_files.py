"""Loads texts as worker.toml, from its own folder, so that messages begin with ``worker.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path

import pytest

from ffsuper.config import Config
from ffsuper.config_loader import Loaded, load
from ffsuper.errors import ConfigError

LEAST = '[worker]\nhandlers = ["app"]\n'


def loaded(folder: Path, text: str = LEAST, environ: Mapping[str, str] | None = None) -> Loaded:
    """Load what must be right."""
    with chdir(folder):
        file = Path("worker.toml")
        file.write_text(text, encoding="utf-8")
        return load(file, environ or {})


def config(folder: Path, text: str = LEAST, environ: Mapping[str, str] | None = None) -> Config:
    """Load what must be right, whatever its origin."""
    return loaded(folder, text, environ).config


def problems(folder: Path, text: str = LEAST, environ: Mapping[str, str] | None = None) -> list[str]:
    """Load what must be wrong."""
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text, environ)
    return caught.value.problems
