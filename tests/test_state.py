"""The state of a training, through a file and back: it goes on exactly as it did the first time."""

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from nanscope.errors import RunFileError, UsageError
from nanscope.recording.bits import piece_of, tensor_of, write_bits
from nanscope.recording.state import capture, restore, room_for
from nanscope.store import regions
from nanscope.store.slots import ITEM_BYTES, numpy_dtype, slot_bytes_for
from nanscope.store.snapshot_writer import SnapshotRoom
from nanscope.store.snapshots import Snapshot
from nanscope.store.states import snapshots_of
from nanscope.store.writer import RunWriter
from tests.models import convolutional, mlp
from tests.store.files import header, layout
from tests.store.snapshot_files import SlotFile

Maker = Callable[[nn.Module], Sequence[Optimizer]]


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a disk takes is not tested here."""
    monkeypatch.setattr(regions, "_sync_data", lambda _: None)


def stored(folder: Path, model: nn.Module, optimizers: Any = (), batch: Any = None) -> Snapshot:
    """The state, put into a file and read again."""
    pieces, meta = capture(model, optimizers, batch)
    file = SlotFile(folder / "slots", 1, slot_bytes_for(pieces, meta, spare=0))
    with file.writing() as writer:
        assert writer.put(0, 0.0, pieces, meta)
    return file.read()[0]


def bits(tensor: Tensor) -> bytes:
    """Every bit of a tensor."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def everything(model: nn.Module, optimizers: Sequence[Optimizer]) -> list[Any]:
    """All bits of a training: model, optimizer state and settings, generators."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return str(value.dtype), tuple(value.shape), bits(value)
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    parts = [*model.named_parameters(), *model.named_buffers()]
    return [
        plain(parts),
        [plain(optimizer.state_dict()) for optimizer in optimizers],
        bits(torch.get_rng_state()),
        random.getstate(),
        [str(part) for part in np.random.get_state()],  # noqa: NPY002 - the one under test
    ]


class Awkward(nn.Module):
    """Dropout, running statistics, buffers of odd dtypes, and draws from every generator in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolutional()[0], nn.Conv2d(2, 6, 1), nn.BatchNorm2d(6), nn.Flatten(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(24, 4)
        self.register_buffer("seen", torch.zeros((), dtype=torch.bfloat16))
        self.register_buffer("scales", torch.ones(3).to(torch.float8_e4m3fn), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits with noise."""
        self.seen.add_(1.5)
        self.scales.copy_((self.scales.float() * 1.3).clamp(max=400).to(torch.float8_e4m3fn))
        noise = random.random() + np.random.rand()  # noqa: NPY002 - the one under test
        return self.head(self.body(x)) + noise + self.scales.float().sum() * 1e-3


def train(model: nn.Module, optimizers: Sequence[Optimizer], steps: int, *, amp: bool = False) -> None:
    """Steps on random batches."""
    for _ in range(steps):
        x, y = torch.randn(16, 8), torch.randint(0, 4, (16,))

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            for optimizer in optimizers:
                optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        for optimizer in optimizers:
            if isinstance(optimizer, LBFGS):
                optimizer.step(closure)
            else:
                closure()
                optimizer.step()


MAKERS: dict[str, Maker] = {
    "momentum": lambda m: [SGD(m.parameters(), 0.1, momentum=0.9, nesterov=True)],
    "adamw": lambda m: [AdamW(m.parameters(), 1e-2, amsgrad=True)],
    "adamw foreach": lambda m: [AdamW(m.parameters(), 1e-2, foreach=True)],
    "adam fused": lambda m: [Adam(m.parameters(), 1e-2, fused=True)],
    "tensor lr": lambda m: [Adam(m.parameters(), torch.tensor(1e-2), foreach=False)],
    "rmsprop": lambda m: [RMSprop(m.parameters(), 1e-2, momentum=0.5, centered=True)],
    "adagrad": lambda m: [Adagrad(m.parameters(), 1e-2)],
    "lbfgs": lambda m: [LBFGS(m.parameters(), 0.1, max_iter=3, history_size=3)],
    "two": lambda m: [SGD(m.body.parameters(), 0.1, momentum=0.9), AdamW(m.head.parameters(), 1e-2)],
    "groups": lambda m: [
        SGD([{"params": m.body.parameters()}, {"params": m.head.parameters(), "lr": 0.5}], 0.1, momentum=0.9)
    ],
}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())
@pytest.mark.parametrize("before", [0, 3])
def test_a_training_goes_on_as_it_did(tmp_path: Path, maker: Maker, before: int) -> None:
    """Captured before the first step, or later; trained on, put back, trained again: every bit the same."""
    torch.manual_seed(0)
    model = Awkward()
    optimizers = maker(model)
    train(model, optimizers, before)
    snapshot = stored(tmp_path, model, optimizers)
    start = everything(model, optimizers)
    train(model, optimizers, 3)
    first = everything(model, optimizers)
    assert first != start
    for group in optimizers[0].param_groups:
        group["lr"] = 0.123
    restore(snapshot, model, optimizers)
    assert everything(model, optimizers) == start
    train(model, optimizers, 3)
    assert everything(model, optimizers) == first


def test_through_a_run_file(tmp_path: Path) -> None:
    """As a rewind does: snapshots while the training goes on, the run file read beside it, one step back."""
    model = Awkward()
    optimizers = MAKERS["adamw"](model)
    room = SnapshotRoom(2, room_for(model, optimizers))
    writer = RunWriter.create(tmp_path / "run.h5", header(2), layout=layout(2), snapshots=room)
    states = []
    for step in range(4):
        states.append(everything(model, optimizers))
        assert writer.snapshot(step, step / 8, *capture(model, optimizers))
        assert writer._snapshots is not None
        assert writer._snapshots.wait()
        train(model, optimizers, 1)
    assert writer.pin_snapshot(2)
    newest, before = snapshots_of(tmp_path / "run.h5")
    assert (newest.step, before.step) == (3, 2)
    last = everything(model, optimizers)
    restore(before, model, optimizers)
    assert everything(model, optimizers) == states[2]
    train(model, optimizers, 2)
    assert everything(model, optimizers) == last
    writer.close()


def test_autocast(tmp_path: Path) -> None:
    """A loop in mixed precision."""
    model = mlp()
    optimizers = [SGD(model.parameters(), 0.1, momentum=0.9)]
    train(model, optimizers, 2, amp=True)
    snapshot = stored(tmp_path, model, optimizers)
    train(model, optimizers, 4, amp=True)
    first = everything(model, optimizers)
    restore(snapshot, model, optimizers)
    train(model, optimizers, 4, amp=True)
    assert everything(model, optimizers) == first


def test_a_fresh_process_can_go_on(tmp_path: Path) -> None:
    """Restored into another model and an optimizer that has no state yet."""
    model = mlp()
    optimizers = [AdamW(model.parameters(), 1e-2)]
    train(model, optimizers, 3)
    snapshot = stored(tmp_path, model, optimizers)
    train(model, optimizers, 3)
    other = mlp()
    others = [AdamW(other.parameters(), 0.5)]
    restore(snapshot, other, others)
    train(other, others, 3)
    assert everything(other, others) == everything(model, optimizers)


def test_who_holds_a_tensor_holds_it_still(tmp_path: Path) -> None:
    """Parameters, buffers and optimizer tensors are the same objects; gradients and flags are untouched."""
    model = convolutional()
    optimizer = AdamW(model.parameters(), torch.tensor(1e-2))
    train(model, [optimizer], 2)
    snapshot = stored(tmp_path, model, optimizer)
    train(model, [optimizer], 2)
    model[1].weight.requires_grad_(False)
    held = [*model.parameters(), *model.buffers(), optimizer.param_groups[0]["lr"]]
    held += [value for state in optimizer.state.values() for value in state.values()]
    places = [tensor.data_ptr() for tensor in held]
    grads = [p.grad for p in model.parameters()]
    grad_bits = [bits(grad) for grad in grads]
    restore(snapshot, model, optimizer)
    now = [*model.parameters(), *model.buffers(), optimizer.param_groups[0]["lr"]]
    now += [value for state in optimizer.state.values() for value in state.values()]
    assert all(a is b for a, b in zip(held, now, strict=True))
    assert [tensor.data_ptr() for tensor in now] == places
    assert all(p.grad is grad for p, grad in zip(model.parameters(), grads, strict=True))
    assert [bits(grad) for grad in grads] == grad_bits
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * (len(grads) - 1)


class Odd(nn.Module):
    """Ties, views, expanded, empty and zero-dimensional tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5)
        self.out.weight = self.embed.weight
        self.alias = nn.Parameter(self.embed.weight.data)
        self.turned = nn.Parameter(torch.randn(4, 3).t())
        self.register_buffer("wide", torch.randn(3, 1).expand(3, 1000))
        self.register_buffer("none", torch.zeros(0, 4))
        self.register_buffer("scalar", torch.tensor(3, dtype=torch.int64))
        self.register_buffer("complex", torch.randn(2, 3, dtype=torch.complex128).t())
        self.register_buffer("absent", None)


def test_odd_tensors(tmp_path: Path) -> None:
    """A tied one is stored once, an expanded one as what it has in memory; all come back."""
    model = Odd()
    snapshot = stored(tmp_path, model)
    sizes = {name: entry.nbytes for name, entry in snapshot.entries.items() if name.startswith("model.")}
    assert set(sizes) == {
        f"model.{name}" for name in ("alias", "out.bias", "turned", "wide", "none", "scalar", "complex")
    }
    assert (sizes["model.wide"], sizes["model.none"], sizes["model.complex"]) == (12, 0, 96)
    before = everything(model, ())
    with torch.no_grad():
        for tensor in (*model.parameters(), model.wide[:, :1], model.scalar, model.complex):
            tensor.zero_()
    assert everything(model, ()) != before
    restore(snapshot, model)
    assert everything(model, ()) == before
    assert model.out.weight is model.embed.weight


SHAPES = st.lists(st.integers(0, 4), max_size=3)


def empty(shape: list[int], dtype: torch.dtype) -> Tensor:
    """Zeros of any dtype."""
    count = math.prod(shape) * dtype.itemsize
    return (
        torch.zeros(count, dtype=torch.uint8).view(dtype).reshape(shape)
        if count
        else torch.empty(shape, dtype=dtype)
    )


@pytest.mark.filterwarnings("ignore:.*Complex.* support is experimental", "ignore:ComplexHalf")
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dtype=st.sampled_from(sorted(ITEM_BYTES)), shape=SHAPES, seed=st.integers(0, 2**32))
def test_bits_of_any_dtype(dtype: str, shape: list[int], seed: int) -> None:
    """Random bits, NaN with payloads among them, also transposed: out of a tensor and back into others."""
    kind = getattr(torch, dtype, None)
    if kind is None:  # an older torch
        return
    count = math.prod(shape) * ITEM_BYTES[dtype]
    source = np.frombuffer(np.random.default_rng(seed).bytes(count), np.uint8).copy()
    tensor = empty(shape, kind)
    if count:
        tensor.view(-1).view(torch.uint8).copy_(torch.from_numpy(source))
    piece = piece_of(tensor, "x")
    target = np.zeros(piece.nbytes, np.uint8)
    piece.copy_to(target)
    np.testing.assert_array_equal(target, source)
    elements = target.view(numpy_dtype(dtype)).reshape(shape)
    again = tensor_of(elements, kind, torch.device("cpu"))
    assert (again.dtype, list(again.shape), bits(again)) == (kind, shape, source.tobytes())
    turned = empty(shape[::-1], kind).permute(tuple(range(len(shape)))[::-1])
    write_bits(turned, elements)
    back = piece_of(turned, "x")
    out = np.ones(back.nbytes, np.uint8)
    back.copy_to(out)
    np.testing.assert_array_equal(out, source)


def test_the_batch(tmp_path: Path) -> None:
    """Nested, with shared, expanded and numpy parts, numbers and text; as new tensors."""
    x = torch.randn(4, 3, requires_grad=True)
    batch = {
        "x": x,
        ("key", 1): [x, (torch.arange(6).view(2, 3).t(), None, True, 2**70, -0.0, float("nan"), 1 - 2j)],
        "text": ["\x1b[31m", "ü"],
        "numpy": (np.arange(6).reshape(2, 3), np.float32(0.1), np.bool_(True)),
        "expanded": torch.ones(1, 1).expand(5, 2),
        "half": torch.tensor([1.0, math.nan], dtype=torch.float16),
        7: {},
    }
    snapshot = stored(tmp_path, mlp(), (), batch)
    found = restore(snapshot, mlp())
    assert list(found) == list(batch)
    assert found["x"] is found["key", 1][0]
    assert found["x"] is not x
    assert found["x"].untyped_storage().resizable()  # its memory is torch's own
    assert found["x"].requires_grad
    assert found["x"].is_leaf
    assert bits(found["x"]) == bits(x)
    other, expected = found["key", 1][1], batch["key", 1][1]
    assert torch.equal(other[0], expected[0])
    assert repr(other[1:]) == repr(expected[1:])
    assert found["text"] == batch["text"]
    np.testing.assert_array_equal(found["numpy"][0], batch["numpy"][0], strict=True)
    assert repr(found["numpy"][1:]) == repr(batch["numpy"][1:])
    assert torch.equal(found["expanded"], batch["expanded"])
    assert bits(found["half"]) == bits(batch["half"])
    assert found[7] == {}


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


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())
def test_the_room_is_enough(maker: Maker) -> None:
    """Sized before the first step, when optimizers have no state: enough for what comes."""
    model = Awkward()
    optimizers = maker(model)
    room = room_for(model, optimizers, torch.ones(16, 8))
    train(model, optimizers, 5)
    assert slot_bytes_for(*capture(model, optimizers, torch.ones(16, 8)), spare=0) <= room


def test_capture_draws_nothing_and_changes_nothing() -> None:
    """Neither a random number nor a version counter."""
    model = Awkward()
    optimizers = MAKERS["momentum"](model)
    train(model, optimizers, 2)
    before = everything(model, optimizers)
    versions = [t._version for t in (*model.parameters(), *model.buffers())]
    for piece in capture(model, optimizers)[0].values():
        piece.copy_to(np.zeros(piece.nbytes, np.uint8))
    assert everything(model, optimizers) == before
    assert [t._version for t in (*model.parameters(), *model.buffers())] == versions
