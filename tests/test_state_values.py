"""What a state holds: tensors of any dtype and shape, and the nested values of a batch."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nanscope.recording.bits import piece_of, tensor_of, write_bits
from nanscope.recording.state import restore
from nanscope.store.snapshots.slots import ITEM_BYTES, numpy_dtype
from tests.models import mlp
from tests.trainings import bits, everything, stored


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
