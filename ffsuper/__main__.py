"""``python -m ffsuper``."""

import sys

from ffsuper.cli import main

if __name__ == "__main__":
    sys.exit(main())
