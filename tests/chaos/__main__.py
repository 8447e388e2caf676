"""Chaos by hand: ``python -m tests.chaos --seed 7 --seconds 600``. Exit code 1 when something does not hold."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

from tests.chaos.checks import judge
from tests.chaos.plan import KINDS
from tests.chaos.report import figures, table
from tests.chaos.run import kinds_here, run


def main() -> int:
    """Run it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="repeats the submissions and faults of a run (1)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults are done (60)")
    parser.add_argument("--supervisors", type=int, default=3, help="how many there are, with three children each (3)")
    parser.add_argument("--rate", type=float, default=12.0, help="submissions a second (12)")
    parser.add_argument(
        "--fault", action="append", choices=list(KINDS), default=[], help="only these kinds of faults"
    )
    parser.add_argument("--folder", type=Path, help="keep all logs and data here; it must not be there")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for kind in set(KINDS) - set(kinds_here()):
        logging.warning("not done here, for there is no C compiler: %s", kind)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="chaos-")) / "run"
    limits = {"supervisors": given.supervisors, "rate": given.rate, "kinds": given.fault}
    facts = trio.run(partial(run, folder, given.seed, given.seconds, **limits))
    told = figures(facts)
    print(table(told))  # noqa: T201
    if given.json:
        given.json.write_text(json.dumps(told, indent=1))
    wrong = judge(facts)
    for one in wrong:
        print(f"WRONG  {one}")  # noqa: T201
    if wrong:
        print(f"{len(wrong)} wrong; all logs are in {folder}")  # noqa: T201
    elif not given.folder:
        shutil.rmtree(folder.parent)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
