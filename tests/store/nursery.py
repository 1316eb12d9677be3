"""Forks victims that record rows without a training: `python -m tests.store.nursery`.

The process reads plans, one line of JSON each, and forks a victim for each, one after the other: so a victim
has imported everything when it begins. It answers with the victim's pid, then with its exit code.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Mapping

from tests.store import misfortunes
from tests.store.child import Plan, append

Deed = Callable[[Plan], None]
DEEDS: Mapping[str, Deed] = {
    "append": append,
    "family": misfortunes.family,
    "hang": misfortunes.hang,
    "limit": misfortunes.limit,
    "clock": misfortunes.clock,
    "no-thread": misfortunes.no_thread,
    "dead-thread": misfortunes.dead_thread,
    "failing-thread": misfortunes.failing_thread,
}


def serve(deeds: Mapping[str, Deed]) -> None:
    """Fork a victim for each plan on the standard input."""
    gc.freeze()  # a victim's end need not walk through all that was imported here
    for line in sys.stdin:
        plan = Plan(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            output = os.open(f"{plan.tally}.out", os.O_WRONLY | os.O_CREAT, 0o666)
            os.dup2(output, 1)
            os.dup2(output, 2)
            deeds[plan.deed](plan)
            return  # and so through the end of the interpreter, like any program
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    os._exit(0)  # at a proper end torch's libraries would complain of what is frozen


if __name__ == "__main__":
    serve(DEEDS)
