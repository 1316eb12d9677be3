"""States that cannot be stored, or do not fit: one sentence, and nothing is changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from nanscope.errors import RunFileError, UsageError
from nanscope.recording.state import capture, restore
from nanscope.store.snapshots.reader import Snapshot
from tests.models import mlp
from tests.trainings import everything, stored, train


class Thing:
    """What no snapshot holds."""


def cyclic() -> list[Any]:
    """A list that holds itself."""
    items: list[Any] = []
    items.append(items)
    return items


REFUSED = {
    "batch.0 is sparse": lambda: [torch.eye(3).to_sparse()],
    "batch is sparse or nested": lambda: torch.nested.nested_tensor([torch.ones(2)]),
    "batch is of a class whose memory": lambda: torch.nested.nested_tensor(
        [torch.ones(2)], layout=torch.jagged
    ),
    "batch.a is on the meta device": lambda: {"a": torch.empty(3, device="meta")},
    "batch is a conjugated": lambda: torch.randn(3, dtype=torch.complex64).conj(),
    "batch.0 is a Thing": lambda: [Thing()],
    "batch.1: an array of object": lambda: (1, np.array([{}])),
    "nested more than 50 deep": cyclic,
    "batch has no shape": lambda: nn.LazyLinear(3).weight,
}


@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_stored(reason: str) -> None:
    """Refused in one sentence that says where and why, not stored wrong."""
    with pytest.raises(UsageError, match=reason):
        capture(mlp(), (), REFUSED[reason]())


def test_a_sparse_parameter_and_state_of_strangers() -> None:
    """In the model and in an optimizer, too."""
    model = mlp()
    model.register_buffer("mask", torch.eye(3).to_sparse())
    with pytest.raises(UsageError, match=r"model\.mask is sparse"):
        capture(model)
    model = mlp()
    optimizer = SGD(model.parameters(), 0.1)
    optimizer.state[torch.ones(1)]["x"] = 1
    with pytest.raises(UsageError, match="SGD keeps state of what is not in its groups"):
        capture(model, optimizer)


def tied() -> nn.Sequential:
    """Two layers that are one."""
    model = mlp(8, 8, 8)
    model[2].weight = model[0].weight
    return model


OTHERS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Any]]] = {
    r"0\.weight is float32 \[17, 8\], stored is float32 \[16, 8\]": (
        lambda: mlp(17),
        lambda m: SGD(m.parameters(), 0.1),
    ),
    "0.weight is bfloat16": (lambda: mlp().bfloat16(), lambda m: SGD(m.parameters(), 0.1)),
    "another model: '3.bias' is in only one": (
        lambda: nn.Sequential(*mlp(), nn.Linear(4, 4)),
        lambda m: SGD(m.parameters(), 0.1),
    ),
    "another optimizer than this AdamW": (mlp, lambda m: AdamW(m.parameters())),
    "or of other groups": (mlp, lambda m: SGD([{"params": [p]} for p in m.parameters()], 0.1)),
    "of 1 optimizers, here are 2": (mlp, lambda m: [SGD(m.parameters(), 0.1), SGD(m.parameters(), 0.1)]),
    "of 1 optimizers, here are 0": (mlp, lambda _: []),
}


@pytest.mark.parametrize("reason", OTHERS)
def test_a_state_that_does_not_fit(tmp_path: Path, reason: str) -> None:
    """Other shapes, dtypes, names, optimizers: refused before anything is changed."""
    model = mlp()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    train(model, [optimizer], 1)
    snapshot = stored(tmp_path, model, optimizer)
    make_model, make_optimizers = OTHERS[reason]
    other = make_model()
    others = make_optimizers(other)
    several = [others] if isinstance(others, Optimizer) else others
    before = everything(other, several)
    with pytest.raises(UsageError, match=reason):
        restore(snapshot, other, others)
    assert everything(other, several) == before


def test_other_ties(tmp_path: Path) -> None:
    """A model that ties what was apart would take the values of only one of them; and the other way round."""
    apart = mlp(8, 8, 8)
    for one, other in ((tied(), apart), (apart, tied())):
        before = everything(other, ())
        with pytest.raises(UsageError, match="tied to other parameters than it was"):
            restore(stored(tmp_path, one), other)
        assert everything(other, ()) == before


def test_a_file_that_is_damaged_changes_nothing(tmp_path: Path) -> None:
    """One wrong byte in the last tensor: refused, and the first one is as it was."""
    model = mlp()
    snapshot = stored(tmp_path, model)
    entry = snapshot.entries["model.2.bias"]
    path = tmp_path / "slots"
    data = bytearray(path.read_bytes())
    data[snapshot._offset + entry.offset] ^= 1
    path.write_bytes(data)
    nn.init.zeros_(model[0].weight)
    before = everything(model, ())
    with pytest.raises(RunFileError, match="no longer holds the snapshot"):
        restore(snapshot, model)
    assert everything(model, ()) == before


DAMAGE: dict[str, Any] = {
    "version": 2,
    "model": [],
    "optimizers": {"a": 1},
    "rng": {"torch": {"list": []}},
    "batch": {"pickle": "gASV"},
}


@pytest.mark.parametrize("key", DAMAGE)
@pytest.mark.parametrize("how", ["other", "missing", "none"])
def test_meta_that_somebody_made_up(tmp_path: Path, key: str, how: str) -> None:
    """One sentence, nothing changed, nothing executed."""
    model = mlp()
    snapshot = stored(tmp_path, model)
    meta = dict(snapshot.meta)
    if how == "missing":
        del meta[key]
    else:
        meta[key] = DAMAGE[key] if how == "other" else None
    made_up = Snapshot(**{**{f: getattr(snapshot, f) for f in snapshot.__dataclass_fields__}, "meta": meta})
    nn.init.zeros_(model[0].weight)
    before = everything(model, ())
    if (key, how) == ("batch", "none"):
        assert restore(made_up, model) is None
        return
    with pytest.raises((UsageError, RunFileError)) as refused:
        restore(made_up, model)
    assert "\n" not in str(refused.value)
    assert everything(model, ()) == before
