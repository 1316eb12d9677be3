"""Recording changes nothing: parameters and random state are bit-identical with and without it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torch.utils.checkpoint import checkpoint

import nanscope


def plain(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """The usual step."""
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def autocast(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """bfloat16 autocast on the CPU."""
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()


def clipped(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Gradient clipping between backward and update."""
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    optimizer.step()


def zeroed(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Gradients zeroed in place instead of dropped."""
    optimizer.zero_grad(set_to_none=False)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def closure(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """The optimizer runs forward and backward itself."""

    def again() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.step(again)  # type: ignore[arg-type]  # torch wants a float and means a tensor


def scaled(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """float16 autocast under a gradient scaler of its own, whose first updates are skipped."""
    scaler = SCALERS.setdefault(id(model), torch.amp.GradScaler("cpu", init_scale=2.0**24))
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.float16):
        loss = F.cross_entropy(model(x).float(), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()


def accumulated(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Three backward passes for one update."""
    optimizer.zero_grad()
    for sign in (1, -1, 2):
        (F.cross_entropy(model(sign * x), y) / 3).backward()
    optimizer.step()


def checkpointed(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """The forward pass is run again within the backward pass."""
    optimizer.zero_grad()
    output = checkpoint(model, x, use_reentrant=False)
    F.cross_entropy(output, y).backward()
    optimizer.step()


def evaluated(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """An evaluation in inference mode, and a copy of the model, after each step."""
    plain(model, optimizer, x, y)
    with torch.inference_mode():
        copy.deepcopy(model).eval()(x)
        model.eval()(x)
    model.train()


def functional(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """The model is called with parameters handed over."""
    optimizer.zero_grad()
    held = dict(model.named_parameters())
    F.cross_entropy(torch.func.functional_call(model, held, (x,)), y).backward()
    optimizer.step()


def compiled(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """The model compiles itself at the first step."""
    if model._compiled_call_impl is None:
        torch._dynamo.reset()
        model.compile(backend="aot_eager")
    plain(model, optimizer, x, y)


SCALERS: dict[int, torch.amp.GradScaler] = {}

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "foreach": lambda p: torch.optim.Adam(p, lr=1e-3, foreach=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, max_iter=2),
}

SETTINGS = [
    (plain, "sgd"),
    (plain, "momentum"),
    (plain, "adamw"),
    (plain, "foreach"),
    (plain, "nesterov"),
    (plain, "fused"),
    (scaled, "momentum"),
    (scaled, "fused"),
    (accumulated, "momentum"),
    (checkpointed, "momentum"),
    (evaluated, "adamw"),
    (functional, "momentum"),
    (compiled, "momentum"),
    (autocast, "momentum"),
    (clipped, "momentum"),
    (zeroed, "sgd"),
    (closure, "lbfgs"),
]


def trained(
    step: Callable[..., None], name: str, rows: int, path: Path | None
) -> tuple[list[Tensor], Tensor]:
    """Train a network with dropout and normalisation; the parameters, the buffers, the random state."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(8, 400),
        nn.LayerNorm(400),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(400, 400),
        nn.Linear(400, 4),
    )
    optimizer = OPTIMIZERS[name](model.parameters())
    SCALERS.clear()
    with nullcontext() if path is None else nanscope.record(model, optimizer, path):
        for _ in range(30):
            step(model, optimizer, torch.randn(rows, 8), torch.randint(4, (rows,)))
    held = [value for state in optimizer.state.values() for value in state.values()]
    tensors = [value for value in held if isinstance(value, Tensor)]
    return [*model.parameters(), *model.buffers(), *tensors], torch.get_rng_state()


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize(("step", "name"), SETTINGS)
def test_bit_identical(step: Callable[..., None], name: str, rows: int, tmp_path: Path) -> None:
    """Same bits, same random state, over dropout, autocast, clipping and every kind of optimizer."""
    bare, bare_random = trained(step, name, rows, None)
    recorded, random = trained(step, name, rows, tmp_path / "run.h5")
    assert (tmp_path / "run.h5").exists()
    assert all(torch.isfinite(tensor).all() for tensor in bare)  # NaN equals nothing, not even itself
    assert all(torch.equal(a, b) for a, b in zip(bare, recorded, strict=True))
    assert torch.equal(bare_random, random)


def test_bit_identical_with_threads(tmp_path: Path) -> None:
    """The same where operations are shared among two threads: all other tests have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        test_bit_identical(plain, "adamw", 6, tmp_path)
    finally:
        torch.set_num_threads(before)
