"""One file a system: its handlers, and how its programs submit. They run in the system's own virtual environment.

Each file is imported by the worker and by ``submitter``. It has ``no_op`` and ``work`` for the worker, and for the
submitter ``fill(count)`` and ``submit(number, linger_s)``, and where a connection has to be opened, ``connected()``.
Where to: ``BENCH_URL``. The variants of a system are told by other variables of the environment.
"""
