"""Which rows of the data set a batch is made of: exact, or nothing is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
    dataloader,
    default_collate,
)

import nanscope
from nanscope.experiment.cases import Case
from nanscope.experiment.data import load_dataset
from nanscope.experiment.loop import train
from nanscope.experiment.model import build_model, build_optimizer
from nanscope.recording import drawn
from nanscope.recording.state import restore
from nanscope.store.snapshots.states import snapshots_of

ROWS = 50


class Numbered(Dataset[dict[str, Tensor]]):
    """Sample i holds its own number, in a dict."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": torch.full((3, 2), float(index)), "y": torch.tensor(index)}


class Streamed(IterableDataset[Tensor]):
    """The same without indices."""

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.full((3, 2), float(index)) for index in range(ROWS))


def sorted_down(samples: Sequence[dict[str, Tensor]]) -> Any:
    """Puts samples together in another order, as is done with sequences of different lengths."""
    return default_collate(sorted(samples, key=lambda each: -int(each["y"])))


@pytest.fixture
def watched() -> Iterator[None]:
    """While somebody wants to know."""
    owner = object()
    drawn.watch(owner)
    yield
    drawn.unwatch(owner)


def told(tensor: Tensor, rows: int, axis: int = 0) -> list[int] | None:
    """What is said of a batch."""
    found = drawn.rows_of([tensor], rows, axis)
    return None if found is None else found[1]


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "in order": lambda: DataLoader(Numbered(), 7),
    "shuffled": lambda: DataLoader(Numbered(), 7, shuffle=True),
    "weighted": lambda: DataLoader(Numbered(), 7, sampler=WeightedRandomSampler([1.0] * ROWS, ROWS)),
    "batches": lambda: DataLoader(Numbered(), batch_sampler=BatchSampler(range(ROWS - 1, -1, -1), 7, True)),
    "workers": lambda: DataLoader(Numbered(), 7, shuffle=True, num_workers=2),
    "persistent": lambda: DataLoader(
        Numbered(), 7, shuffle=True, num_workers=2, persistent_workers=True, prefetch_factor=3
    ),
}


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("name", LOADERS)
def test_every_batch_is_told(name: str) -> None:
    """Over three epochs, of which the second is left early; the last batch is smaller."""
    loader = LOADERS[name]()
    for epoch in range(3):
        for number, batch in enumerate(loader):
            x, y = batch["x"], batch["y"]
            assert told(x, len(x)) == told(y, len(y)) == y.tolist()
            if epoch == 1 and number == 2:
                break


@pytest.mark.usefixtures("watched")
def test_two_loaders_in_turn() -> None:
    """Batches that are drawn ahead, as by who loads the next one meanwhile, are not mixed up."""
    first, second = (iter(LOADERS["shuffled"]()) for _ in range(2))
    ahead = [next(each) for each in (first, second, second, first, first)]
    assert [told(batch["x"], 7) for batch in ahead] == [batch["y"].tolist() for batch in ahead]


@pytest.mark.usefixtures("watched")
def test_views_of_a_batch() -> None:
    """Flattened, in parts, with time first: a row of the view lies in a row of the batch."""
    batch = next(iter(DataLoader(Numbered(), 8, shuffle=True)))
    x, y = batch["x"], batch["y"].tolist()
    assert told(x.view(8, -1), 8) == told(x.flatten(1), 8) == told(x[:, 1:], 8) == y
    assert told(x[2:5], 3) == y[2:5]
    assert told(x[3:4], 1) == y[3:4]
    assert told(x.transpose(0, 1), 8, axis=1) == y


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x * 2,
        lambda x: x.clone(),
        lambda x: x[torch.randperm(8)],
        lambda x: x.flip(0),
        lambda x: x[::2],
        lambda x: x.reshape(-1, 2),
        lambda x: x.mul_(0.5).add_(x[torch.randperm(8)] * 0.5),
        lambda x: x.as_strided((8, 3, 2), (0, 2, 1)),
        lambda x: x.view(-1).as_strided((7, 6), (6, 1), 3),
    ],
    ids=["scaled", "copied", "mixed", "turned", "halved", "more rows", "written", "one row", "across"],
)
def test_what_is_no_batch_any_more(change: Callable[[Tensor], Tensor]) -> None:
    """Nothing is said of what was made of a batch otherwise."""
    x = change(next(iter(DataLoader(Numbered(), 8)))["x"])
    assert told(x, len(x)) is None


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Numbered(), 7, collate_fn=sorted_down),
        DataLoader(Streamed(), 7),
        DataLoader(Numbered(), 7, num_workers=2, in_order=False),
        DataLoader(Numbered(), None),
    ],
    ids=["collated", "streamed", "any order", "single"],
)
def test_loaders_of_which_nothing_is_said(loader: DataLoader[Any]) -> None:
    """Others may put samples in another order, or have no indices."""
    for batch in loader:
        x = batch if isinstance(batch, Tensor) else batch["x"]
        assert told(x, len(x)) is None


def test_nobody_is_in_the_way() -> None:
    """Order and random numbers are the same; afterwards the loaders are as they were."""
    before = dataloader._BaseDataLoaderIter._next_index, dataloader._BaseDataLoaderIter.__next__
    runs = []
    for watching in (False, True):
        owner = object()
        if watching:
            drawn.watch(owner)
        torch.manual_seed(3)
        seen = [batch["y"].tolist() for batch in LOADERS["workers"]()]
        runs.append((seen, torch.rand(1).item()))
        drawn.unwatch(owner)
    assert runs[0] == runs[1]
    assert before == (dataloader._BaseDataLoaderIter._next_index, dataloader._BaseDataLoaderIter.__next__)


def test_what_was_drawn_while_nobody_watched() -> None:
    """Workers that stay count from zero again in a new epoch: what was noted of the last one is forgotten."""
    loader, owner = LOADERS["persistent"](), object()
    drawn.watch(owner)
    next(iter(loader))
    drawn.unwatch(owner)
    batches = iter(loader)
    next(batches)
    drawn.watch(owner)
    for batch in batches:
        x = batch["x"]
        assert told(x, len(x)) in (None, batch["y"].tolist())
    drawn.unwatch(owner)


@pytest.mark.usefixtures("watched")
def test_copies_are_told_by_their_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator: a copy of one batch; of two that are alike neither, one that was changed not."""
    monkeypatch.setattr(drawn, "_copies", [True])
    data = TensorDataset(torch.tensor([[1.0], [float("nan")], [1.0], [3.0]]))
    (one,), (two,), (three,), (four,) = DataLoader(data)
    assert drawn._of_copy(two.clone()) == ("TensorDataset", [1])
    assert drawn._of_copy(one.clone()) is drawn._of_copy(three.clone()) is None
    assert drawn._of_copy(four + 1) is None
    four.add_(1)
    assert drawn._of_copy(four.clone()) is None


@pytest.mark.parametrize("workers", [0, 2])
def test_the_sample_to_blame_is_named(tmp_path: Path, workers: int) -> None:
    """From a shuffled loader: in the run file, in the diagnosis and in its evidence."""
    torch.manual_seed(0)
    x = torch.randn(96, 6)
    x[37] = 1e30
    loader = DataLoader(TensorDataset(x, torch.randint(0, 3, (96,))), 16, shuffle=True, num_workers=workers)
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with nanscope.record(model, optimizer, tmp_path / "run.h5"):
        for inputs, targets in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs) ** 2, targets).backward()
            optimizer.step()
    diagnosis = nanscope.diagnose(tmp_path / "run.h5")
    origin = diagnosis.origin
    assert origin is not None
    assert origin.dataset == "TensorDataset"
    assert [origin.dataset_rows[row] for row in origin.samples] == [37]
    assert len(origin.dataset_rows) == 16
    assert any("TensorDataset[37]) is to blame" in line for line in diagnosis.causes[0].evidence)


@pytest.mark.parametrize("batch", [1, 32])
def test_the_experiment_names_its_samples(tmp_path: Path, batch: int) -> None:
    """The batch that is kept in the run file is made of the rows of the training part that are named."""
    case = Case(batch_size=batch, lr=50.0, epochs=1, hidden=(16,), aftermath=1)
    dataset = load_dataset(case)
    outcome = train(case, dataset, tmp_path / "run.h5")
    assert outcome.path is not None
    origin = nanscope.diagnose(outcome.path).origin
    assert origin is not None
    assert origin.dataset == "digits train"
    (snapshot,) = (each for each in snapshots_of(outcome.path) if each.step == origin.step)
    model = build_model(case, dataset.train_x.shape[1], dataset.classes)
    (kept,) = restore(snapshot, model, build_optimizer(case, model))["inputs"]
    assert len(kept) == batch
    assert torch.equal(kept, dataset.train_x[list(origin.dataset_rows)])
