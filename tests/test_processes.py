"""Two processes that train one model: right norms, an origin, and no word to the other one on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanscope.diagnosis import diagnose
from nanscope.run import Run
from nanscope.store.reader import open_run
from nanscope.values import Kind

SCRIPT = """
import json, os, sys
import torch, torch.distributed as dist, torch.nn.functional as F
from torch import nn
import nanscope

folder, rank, recorded = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "recorded"
dist.init_process_group("gloo", init_method=f"file://{folder}/{sys.argv[3]}", rank=rank, world_size=2)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(80, 64), nn.BatchNorm1d(64), nn.Linear(64, 3))
model = nn.parallel.DistributedDataParallel(net)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
generator = torch.Generator().manual_seed(rank)

def train():
    norms = []
    for step in range(9):
        inputs = torch.randn(4, 80, generator=generator)
        targets = torch.randint(0, 3, (4,), generator=generator)
        if step == 6 and rank == 1:
            inputs[2, 3] = float("nan")
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        norms.append([p.grad.norm().item() for p in model.parameters()])
        optimizer.step()
    return norms

if recorded:
    with nanscope.record(model, optimizer, f"{folder}/run.h5"):
        norms = train()
else:
    norms = train()
print(json.dumps([norms, [p.sum().item() for p in model.state_dict().values()]]), flush=True)
sys.stdin.readline()  # the other one may still be at it
os._exit(0)  # gloo's threads now and then abort a process that ends in the usual way, recorded or not
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """The folder with the run files, and what each process printed, recorded and not."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    printed = {}
    for how in ("recorded", "bare"):
        words = [[sys.executable, script, folder, str(rank), how] for rank in (0, 1)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        both: list[Any] = [subprocess.Popen(each, **pipes) for each in words]
        printed[how] = [process.stdout.readline() for process in both]
        for process in both:
            process.communicate("\n", timeout=60)
        assert [process.returncode for process in both] == [0, 0]
    return folder, printed


def run_of(folder: Path, rank: int) -> Run:
    """What a process has recorded."""
    return open_run(folder / ("run.h5" if not rank else f"run.rank{rank}.h5"))


def test_nobody_notices(trained: tuple[Path, dict[str, list[str]]]) -> None:
    """Gradients, parameters and buffers are those of a training that nobody recorded, in both processes."""
    _, printed = trained
    assert printed["recorded"] == printed["bare"]


def test_gradients_are_those_of_all_processes(trained: tuple[Path, dict[str, list[str]]]) -> None:
    """The recorded norm is that of the mean over the processes, which is what the optimizer uses."""
    folder, printed = trained
    run, (norms, _) = run_of(folder, 0), json.loads(printed["bare"][0])
    sites = [site for site in run.sites if site.kind is Kind.GRAD]
    assert len(sites) == len(norms[0])
    for number, site in enumerate(sites):
        assert run.series(site)[:6] == pytest.approx([row[number] for row in norms[:6]], rel=1e-5)


def test_the_process_with_the_bad_batch_names_the_row(trained: tuple[Path, dict[str, list[str]]]) -> None:
    """The other one says that it is not to blame, and where to look."""
    folder, _ = trained
    one = diagnose(run_of(folder, 1))
    assert one.origin is not None
    assert (one.origin.step, str(one.origin.phase), list(one.origin.samples)) == (6, "data", [2])
    other = diagnose(run_of(folder, 0))
    assert other.origin is not None
    assert other.origin.step == 6
    assert any("several processes" in line for line in other.unknowns)
