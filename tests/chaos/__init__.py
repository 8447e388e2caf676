"""Chaos: a real store, several supervisors with real children, and faults by a plan that a seed repeats.

``python -m tests.chaos --seed 7 --seconds 60`` runs it, ``--help`` tells the rest. The handlers keep a history of
what really ran, outside the store; ``checks.py`` judges by it afterwards.

    plan.py         which fault, when, on whom, for how long: from the seed
    run.py          one run: a world, faults by plan, and what is left of it in the end
    world.py        what there is: store, network, supervisors, submitters; begun, mended and ended
    faults.py       how each kind of fault is done, and undone
    store.py        the store, and what is done to it; its replica
    clocks.py       wall clocks that can be stepped (loose_clock.c)
    network.py      the way between a process and the store
    supervisors.py  the supervisors, which come again when they die as under systemd
    submitter.py    what is submitted, signalled and cancelled, and what was acknowledged
    ghost.py        who writes though its lease was taken away
    handlers_for_chaos.py, history.py   what runs, and what it leaves behind
    checks.py       what must hold afterwards
    report.py       the figures
"""
