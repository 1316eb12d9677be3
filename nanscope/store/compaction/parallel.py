"""Work on several cores at once whose results come in order and never pile up."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

CORES = min(4, os.cpu_count() or 1)  # zlib lets go of Python's lock; beyond four the rest does not keep up


def in_order(work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
    """What `work` gives for each job, in the order of the jobs; at most two jobs per core are under way."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(CORES, "nanscope-compact") as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(work, job))
                if len(waiting) > 2 * CORES:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # of an error or an interrupt: the rest is not wanted
                future.cancel()
