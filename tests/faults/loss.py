"""Faults in the loss."""

from __future__ import annotations

import torch

from tests.faults.fault import Watch, fault
from tests.faults.parts import classification, mlp


@fault(
    "loss",
    step=5,
    phase="loss",
    module="",
    op="log",
    sample=3,
    cause="log-of-zero",
    source="GRIST (arXiv 2106.10469): log of softmax in hand-written cross-entropies",
)
def log_of_softmax(watch: Watch) -> None:
    """A hand-written cross-entropy takes the log of a softmax that underflowed to 0 for one outlier."""
    torch.manual_seed(0)
    model = mlp(6, 16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = classification(12)
    x, y = data[5]
    x[3] = 4000.0 * x[3].sign()
    with torch.no_grad():
        y[3] = model(x[3:4]).argmin()
    with watch(model, optimizer):
        for x, y in data:
            optimizer.zero_grad()
            probabilities = model(x).softmax(dim=1)
            loss = -probabilities[torch.arange(len(y)), y].log().mean()
            loss.backward()
            optimizer.step()
