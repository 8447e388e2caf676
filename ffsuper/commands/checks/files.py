"""Files that the configuration names."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from ffsuper.commands.checks.finding import Finding, warning
from ffsuper.config import SECRET_KEYS, Config


def look(config: Config) -> Iterator[Finding]:
    """Yield the secrets that everybody on this machine can read."""
    places = [(section, f"{key}_file") for section, key in SECRET_KEYS.items()]
    for section, key in [*places, ("store", "tls_key_file")]:
        file: Path | None = getattr(getattr(config, section), key)
        if file is not None and file.stat().st_mode & stat.S_IROTH:
            yield warning(f"[{section}] {key}: everybody on this machine can read {file}: chmod o= {file}")
