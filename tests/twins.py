"""The same training twice: once under the slow oracle, once recorded.

Apart, because the oracle's hooks on the modules would keep the recorder from its short ways.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torch.optim import Optimizer

import nanscope
from nanscope.recording.alert import LEARN
from nanscope.run import Run, is_missing
from nanscope.values import Kind
from tests.oracle import Norms, norm, slowly

WIDTH = 80  # a Linear layer of this width is large enough for the factors
STEPS = 60
CHANGE = 25  # a step by which the routine is established


@dataclass
class Training:
    """One training under way.

    Attributes:
        recorded: whether this is the recorded one of the two.
        look: to be called when the gradients are as backward() has left them, if they are changed afterwards.
        forget: to be called when what was reached so far in this step is not to count; `forget_gradients`
            when only the gradients of outputs are not to.
    """

    model: nn.Module
    optimizer: Optimizer
    generator: torch.Generator
    recorded: bool = True
    look: Callable[[], None] = lambda: None
    forget: Callable[[], None] = lambda: None
    forget_gradients: Callable[[], None] = lambda: None

    def batch(self, rows: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
        """Random inputs."""
        return torch.randn(rows, WIDTH, generator=self.generator, dtype=dtype)

    def learn(self, loss: Tensor) -> None:
        """Backward, update, gradients dropped."""
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


Step = Callable[[Training, int], None]


@dataclass
class Twins:
    """What came of both."""

    run: Run
    expected: list[Norms]
    same: bool
    factored: list[int] = field(default_factory=list)

    def compared(self) -> Iterator[tuple[int, str, float, float | None]]:
        """Step, site, recorded and true norm; without those that are not to be recorded at that step."""
        for site in self.run.sites:
            if site.kind is Kind.INPUT:
                continue
            for step, got in enumerate(self.run.series(site)):
                want = self.expected[step].get(str(site))
                if site.kind in (Kind.WEIGHT, Kind.UPDATE) and (step >= LEARN and is_missing(got)):
                    continue
                yield step, str(site), float(got) if not is_missing(got) else None, want

    def wrong(self, tolerance: float) -> list[tuple[int, str, float, float | None]]:
        """Recorded, and not the true norm."""
        return [
            entry
            for entry in self.compared()
            if entry[2] is not None
            and (
                entry[3] is None
                or not np.isclose(entry[2], entry[3], rtol=tolerance, atol=1e-12, equal_nan=True)
            )
        ]

    def holes(self) -> list[tuple[int, str]]:
        """Not recorded, although it was there."""
        return [(step, site) for step, site, got, want in self.compared() if got is None and want is not None]


def both(
    build: Callable[[], nn.Module], step: Step, path: Path, optimizer: Callable[..., Optimizer] | None = None
) -> Twins:
    """Train twice from the same start."""
    made = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.01))
    torch.manual_seed(1)
    model = build()
    one = made(model.parameters())
    looked: dict[int, Norms] = {}
    seen: defaultdict[str, list[Tensor]] = defaultdict(list)
    with slowly(model, one, seen) as expected:

        def look() -> None:
            named = model.named_parameters()
            looked[len(expected)] = {f"{n}.grad": norm([p.grad]) for n, p in named if p.grad is not None}

        def forget_gradients() -> None:
            for site in [site for site in seen if site.endswith(".grad_output")]:
                del seen[site]

        generator = torch.Generator().manual_seed(5)
        oracle = Training(model, one, generator, False, look, seen.clear, forget_gradients)
        for i in range(STEPS):
            step(oracle, i)
    for number, norms in looked.items():
        expected[number].update(norms)
    torch.manual_seed(1)
    twin = build()
    other = made(twin.parameters())
    factored: list[int] = []
    with nanscope.record(twin, other, path) as recorder:
        training = Training(twin, other, torch.Generator().manual_seed(5))
        for i in range(STEPS):
            routine = recorder._probes.routine
            factored.append(0 if routine is None else len(routine.plan.derived) + len(routine.plan.products))
            step(training, i)
    pairs = zip(model.state_dict().values(), twin.state_dict().values(), strict=True)
    same = all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)
    return Twins(nanscope.open_run(path), expected, same, factored)


class Net(nn.Module):
    """Three layers, two of them large; with functional activations most gradients come from biases."""

    def __init__(self, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH, bias=bias, dtype=dtype)
        self.second = nn.Linear(WIDTH, WIDTH, bias=bias, dtype=dtype)
        self.last = nn.Linear(WIDTH, 4, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (rows, WIDTH) to (rows, 4)."""
        return self.last(F.relu(self.second(torch.tanh(self.first(x)))))


def classes(output: Tensor) -> Tensor:
    """Cross-entropy with class 1 as the target."""
    return F.cross_entropy(output, torch.ones(len(output), dtype=torch.long))
