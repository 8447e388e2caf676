"""The peers' virtual environments: one each, for their dependencies are at odds with each other; made when needed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).parent.parent.parent / ".venv" / "peers"
OWN = "ffsuper"

# The peer, and all that it comes with.
PINS = {
    "bullmq": """bullmq==3.4.4 croniter==2.0.7 hiredis==3.5.0 msgpack==1.2.3 python-dateutil==4.0.0 pytz==2026.6
        redis==8.1.0 semver==3.1.0 tzdata==2026.6""",
    "celery": """celery==5.7.0 amqp==5.4.2 billiard==4.3.2 click==8.5.1 click-didyoumean==0.3.1 click-plugins==1.1.1.2
        click-repl==0.4.1 hiredis==3.5.0 kombu==5.7.0 packaging==26.3 prompt_toolkit==3.0.53
        python-dateutil==2.9.0.post0 redis==8.1.0 six==1.17.0 typing_extensions==4.16.0 tzlocal==5.4.5 vine==5.1.0
        wcwidth==0.9.4""",
    "dramatiq": "dramatiq==2.2.1 hiredis==3.5.0 redis==8.1.0",
    "huey": "huey==3.5.4 hiredis==3.5.0 redis==8.1.0",
    "rq": """rq==3.0.0 click==8.5.1 croniter==7.0.0 hiredis==3.5.0 python-dateutil==4.0.0 redis==8.1.0
        tzdata==2026.6""",
    "saq": """saq==0.26.4 croniter==7.0.0 hiredis==3.5.0 python-dateutil==4.0.0 redis==7.4.1
        typing_extensions==4.16.0 tzdata==2026.6""",
    "streaq": """streaq==7.2.0 annotated-doc==0.0.7 annotated-types==0.8.0 anyio==4.16.0 attrs==26.1.0
        beartype==0.23.1 coredis==6.9.0 crontab==1.0.5 Deprecated==1.3.1 exceptiongroup==1.3.1 hiredis==3.5.0
        idna==3.20 markdown-it-py==4.3.0 mdurl==0.1.2 outcome==1.3.0.post0 packaging==26.3 pydantic==2.14.3
        pydantic_core==2.50.4 Pygments==2.21.0 rich==15.0.0 shellingham==1.5.4 sniffio==1.3.1
        sortedcontainers==2.4.0 trio==0.35.0 typer==0.29.2 typing-inspection==0.4.5 typing_extensions==4.16.0
        watchfiles==1.3.0 wrapt==2.5.2""",
    "taskiq": """taskiq==0.13.0 taskiq-redis==1.2.4 aiohappyeyeballs==2.7.1 aiohttp==3.14.5 aiosignal==1.4.0
        annotated-types==0.8.0 anyio==4.16.0 attrs==26.1.0 frozenlist==1.8.0 hiredis==3.5.0 idna==3.20
        multidict==7.2.1 propcache==0.5.4 pycron==3.3.0 pydantic==2.14.3 pydantic_core==2.50.4 redis==8.1.0
        taskiq-dependencies==1.5.7 typing-inspection==0.4.5 typing_extensions==4.16.0 yarl==1.25.1""",
}


class BenchError(Exception):
    """A system cannot be measured; the others are measured all the same."""


def python_of(name: str) -> str:
    """Return the Python of a system; make its environment, unless it is there with these versions.

    Raises:
        BenchError: it cannot be installed.
    """
    if name == OWN:
        return sys.executable
    folder, pins = FOLDER / name, PINS[name].split()
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = hashlib.sha256(PINS[name].encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {pins[0]} into {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, symlinks=True)
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--compile"]
        if subprocess.run([*pip, "--disable-pip-version-check", *pins], check=False).returncode:
            raise BenchError(f"{pins[0]} cannot be installed: pip says why above")
        stamp.write_text(wanted)
    return str(python)
