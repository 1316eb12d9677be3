"""Victims that something befalls besides a kill; run by `nursery.py`."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Any

import h5py

from nanscope.store import live
from nanscope.store.writer import RunWriter
from tests.store.child import CLOSED, CREATED, Plan, Tally, append, put_row
from tests.store.files import RING
from tests.store.hooks import Call, Hang, install
from tests.store.recorded import recorded_header

GRANDCHILD_ROWS = 50


def family(plan: Plan) -> None:
    """Fork a child that only closes, and one that records, forks a recording child itself and is killed."""
    writer, tally, columns = _begin(plan)
    for row in range(plan.rows // 2):
        put_row(writer, tally, row, columns)
    for deed in (_idle, _busy):
        pid = os.fork()
        if pid == 0:
            deed(plan, writer, columns)
        os.waitpid(pid, 0)
    for row in range(plan.rows // 2, plan.rows):
        put_row(writer, tally, row, columns)
    _end(writer, tally)


def _idle(_plan: Plan, writer: RunWriter, _columns: int) -> None:
    writer.close("failed")
    os._exit(0)


def _busy(plan: Plan, writer: RunWriter, columns: int) -> None:
    tally = Tally.make(Path(f"{plan.tally}.child"))
    for row in range(RING + 5):
        put_row(writer, tally, row, columns)
    pid = os.fork()
    if pid == 0:
        other = Tally.make(Path(f"{plan.tally}.grandchild"))
        for row in range(GRANDCHILD_ROWS):
            put_row(writer, other, row, columns)
        writer.close("interrupted")
        os._exit(0)
    os.waitpid(pid, 0)
    os.kill(os.getpid(), signal.SIGKILL)


def hang(plan: Plan) -> None:
    """The disk does not answer the writer's thread until a file `release` appears beside the run file.

    Without events: they are the trainer's own writes, and would hang with the disk.
    """
    live.PATIENCE_SECONDS = 0.02
    live.RETRY_SECONDS = 0.5
    writer, tally, columns = _begin(plan)
    install(Hang(Path(plan.path).with_name("release")))
    for row in range(plan.rows):
        put_row(writer, tally, row, columns, events=False)
    tally[CREATED] = 2
    _end(writer, tally)


def limit(plan: Plan) -> None:
    """A limit of the file's size.

    It leaves room for the ring and for `arm` blocks and a half; 0: for the ring only; -1: not even for that.
    """
    writer, tally, columns = _begin(plan)
    with h5py.File(plan.path, "r") as file:
        ring, blocks = file["live/ring"], file["series/blocks"]
        room = blocks.id.get_offset() + (2 * plan.arm + 1) * 2 * blocks.shape[1] * blocks.shape[2]
        end = ring.id.get_offset() + ring.id.get_storage_size()
        size = ring.id.get_offset() if plan.arm < 0 else max(room, end) if plan.arm else end
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    for row in range(plan.rows):
        put_row(writer, tally, row, columns)
    _end(writer, tally)


def clock(plan: Plan) -> None:
    """The wall clock goes back by an hour after some rows; the monotonic one does not."""
    real = time.time
    writer, tally, columns = _begin(plan)
    for row in range(plan.rows):
        if row == plan.arm:
            time.time = lambda: real() - 3600
        put_row(writer, tally, row, columns)
    tally[CREATED] = 2
    time.sleep(60)  # until it is killed


def no_thread(plan: Plan) -> None:
    """The system refuses another thread."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    setattr(threading.Thread, "start", refuse)  # noqa: B010 - mypy knows no other way to patch a method
    append(plan)


def dead_thread(plan: Plan) -> None:
    """The writer's thread ends at its fifth call."""
    _fail_thread(plan, SystemExit())


def failing_thread(plan: Plan) -> None:
    """From its fifth call on the writer's thread fails with what nobody expected."""
    _fail_thread(plan, ValueError("nobody expected this"))


def _fail_thread(plan: Plan, error: BaseException) -> None:
    calls = iter(range(5))

    def fail(_name: str, call: Call, arguments: tuple[Any, ...]) -> Any:
        trainer = threading.current_thread() is threading.main_thread()
        if trainer or next(calls, None) is not None:
            return call(*arguments)
        raise error

    install(fail)
    append(plan)


def _begin(plan: Plan) -> tuple[RunWriter, Tally, int]:
    tally, header = Tally(plan.tally), recorded_header(plan.sites)
    live.SYNC_SECONDS = plan.sync_seconds
    writer = RunWriter.create(Path(plan.path), header, layout=plan.layout(), mode=plan.mode)
    tally[CREATED] = 1
    return writer, tally, len(header.columns)


def _end(writer: RunWriter, tally: Tally) -> None:
    writer.close()
    tally[CLOSED] = 1
