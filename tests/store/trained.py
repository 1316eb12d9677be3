"""Forks victims that train a small network under `nanscope.record`: `python -m tests.store.trained`.

As in `nursery.py`. Those that need a disk of their own mount it: start this program by `unshare --mount`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torch.utils.data import DataLoader, Dataset

import nanscope
from nanscope.store import layout
from tests.store.child import CLOSED, HANDLES, Plan, Tally, losses_of
from tests.store.files import BLOCK
from tests.store.hooks import Call, install
from tests.store.nursery import Deed, serve
from tests.store.recorded import layers

Between = Callable[[int], None]


def network(sites: int) -> nn.Module:
    """The network of `recorded.py`."""
    count = layers(sites)
    modules: list[nn.Module] = []
    for i in range(count):
        modules += [nn.Linear(8, 8 if i < count - 1 else 10, bias=i < count - 1), nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def train(plan: Plan, between: Between = lambda _: None, batches: Iterator[Tensor] | None = None) -> None:
    """An ordinary recorded loop; `between` is called before each step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if not plan.real:
        layout._LARGEST_BLOCK = BLOCK
    model = network(plan.sites)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tally, losses = Tally(plan.tally), losses_of(plan, "w+")
    with nanscope.record(model, optimizer, plan.path):
        for step in range(plan.rows):
            between(step)
            x = torch.randn(4, 8) if batches is None else next(batches)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), torch.zeros(4, dtype=torch.long))
            loss.backward()
            losses[step] = loss.item()
            optimizer.step()
            tally.appended(step)
            time.sleep(plan.pace)
        tally[HANDLES] = h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    tally[CLOSED] = 1


def full_disk(plan: Plan) -> None:
    """The disk has no byte left from some step on."""
    with _disk(plan, "40m") as inside:
        train(inside, _once(plan.arm, lambda: _fill(Path(inside.path).parent)))


def no_room(plan: Plan) -> None:
    """The disk is too small from the beginning."""
    with _disk(plan, "1m") as inside:
        train(inside)


def read_only(plan: Plan) -> None:
    """The folder takes no file."""
    with _disk(plan, "1m,ro") as inside:
        train(inside)


def read_back(plan: Plan) -> None:
    """The run is recorded, then everything is made read-only: a reader finds the same."""
    with _disk(plan, "40m") as inside:
        train(inside)
        path = Path(inside.path)
        before = _contents(path)
        path.chmod(0o444)
        subprocess.run(["mount", "-o", "remount,ro", path.parent], check=True)
        assert _contents(path) == before
        assert list(path.parent.iterdir()) == [path]


def _contents(path: Path) -> tuple[Any, ...]:
    run = nanscope.open_run(path)
    with h5py.File(path, "r") as file:
        stored = {name: file[name][()].tobytes() for name in ("series/step", "series/time")}
    rows = run.source.block(0, len(run)).tobytes(), run.steps.tobytes(), run.events
    return (*rows, run.state, run.lost, stored)


@contextlib.contextmanager
def _disk(plan: Plan, options: str) -> Iterator[Plan]:
    """A tmpfs for the run file, which is copied to where the plan wants it in the end."""
    folder = Path(plan.path).with_name("disk")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={options}", "none", folder], check=True)
    inside = folder / "run.h5"
    try:
        yield replace(plan, path=str(inside))
        if inside.exists():
            shutil.copy(inside, plan.path)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as filler:
        for size in (1 << 20, 4096):
            try:
                while filler.write(bytes(size)):
                    pass
            except OSError:
                continue


def size_limit(plan: Plan) -> None:
    """`RLIMIT_FSIZE` from some step on, so low that not even the ring can be written."""
    train(plan, _once(plan.arm, lambda: _limit(Path(plan.path))))


def _limit(path: Path) -> None:
    size = 100_000
    if path.exists():  # it leaves the head and the events
        with h5py.File(path, "r") as file:
            size = file["live/ring"].id.get_offset()
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def raises(plan: Plan) -> None:
    """The training fails."""
    train(plan, _once(plan.arm, _fail))


def exits(plan: Plan) -> None:
    """sys.exit inside the block."""
    train(plan, _once(plan.arm, lambda: sys.exit(3)))


def vanishes(plan: Plan) -> None:
    """os._exit inside the block: no clean-up of any kind."""
    train(plan, _once(plan.arm, lambda: os._exit(3)))


def interrupted_twice(plan: Plan) -> None:
    """Ctrl-C, and once more while the recorder closes its file."""

    def again(name: str, call: Call, arguments: tuple[Any, ...]) -> Any:
        result = call(*arguments)
        if name == "pwrite":
            signal.raise_signal(signal.SIGINT)
        return result

    def interrupt() -> None:
        install(again)
        signal.raise_signal(signal.SIGINT)

    train(plan, _once(plan.arm, interrupt))


class _Samples(Dataset[Tensor]):
    """Samples whose loading forks a process, as some decoders do."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def __len__(self) -> int:
        return 4 * self._steps

    def __getitem__(self, index: int) -> Tensor:
        if index % 8 == 0:
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        return torch.full((8,), index / 100)


def workers(plan: Plan) -> None:
    """Two data loader workers, forked in the block while it is recorded."""
    began: list[Iterator[Tensor]] = []

    def batches() -> Iterator[Tensor]:
        yield from (torch.zeros(4, 8) for _ in range(plan.arm))
        began.append(iter(DataLoader(_Samples(plan.rows), batch_size=4, num_workers=2)))
        yield from began[0]

    train(plan, batches=batches())


def _once(step: int, deed: Callable[[], object]) -> Between:
    def between(now: int) -> None:
        if now == step:
            deed()

    return between


def _fail() -> None:
    raise ValueError("the training failed")


DEEDS: Mapping[str, Deed] = {
    "train": train,
    "full-disk": full_disk,
    "no-room": no_room,
    "read-only": read_only,
    "size-limit": size_limit,
    "read-back": read_back,
    "raises": raises,
    "exits": exits,
    "vanishes": vanishes,
    "interrupted-twice": interrupted_twice,
    "workers": workers,
}


def warm_up() -> None:
    """Import what torch imports when an optimizer is first used."""
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1).step()


if __name__ == "__main__":
    warm_up()
    serve(DEEDS)
