"""Handlers whose import speaks to the supervisor in the fork server's name."""

from __future__ import annotations

import os
import select
import socket
import sys

from ffsuper import Context, handler

if sys.argv[-1].endswith(f"/{os.getppid()}"):  # the fork server, whose command line ends with its owner's mark
    CONTROL = int(sys.orig_argv[3])
    select.select([CONTROL], [], [])  # a child is asked for
    with socket.socket(fileno=os.dup(CONTROL)) as speaking:
        speaking.send(os.environ["LIE"].encode())


@handler("nothing")
def nothing(ctx: Context) -> None:
    """Do nothing."""
