"""Which rows of a data set a batch is made of, as its sampler drew them.

While somebody watches, two methods of the iterators of `torch.utils.data.DataLoader` are replaced: one is
told which indices are drawn, the other one which batch they have become. That costs a few microseconds per
batch and changes neither the order nor a random number. A name is given only where it is exact: a map-style
data set, batches made by the loader, torch's own way of putting samples together (another one may sort or
drop some), workers in order. A tensor is told from others by itself, or by the memory that it looks at; a
copy on an accelerator by every bit of its content. Of a batch that somebody writes into, or that is computed
from another one, nothing is said.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import dataloader
from torch.utils.data._utils.collate import default_collate

from nanscope.recording.quiet import quietly

COPIED = 4  # batches that are kept to be compared with copies of them
COPIED_BYTES = 8 << 20  # of one of them
MOST = 10_000  # tensors that are known
_NOTHING: dict[int, Any] = {}  # of a loader of which nothing is told
_Loading = dataloader._BaseDataLoaderIter
_Method = Callable[[Any], Any]


class Drawn(NamedTuple):
    """Of one batch: the indices of its rows, and the data set."""

    indices: Sequence[int] | Tensor
    dataset: str


class Known(NamedTuple):
    """A tensor, how often it had been written into when it came, and what it holds."""

    tensor: weakref.ref[Tensor]
    version: int
    drawn: Drawn


MARK = (
    "_nanscope_drawn"  # attribute of a loader's iterator: the indices under way, by the number of their task
)

_owners: set[int] = set()
_patches: dict[str, tuple[_Method, _Method]] = {}  # by name: the method that was there, and ours
_loading: weakref.WeakSet[Any] = weakref.WeakSet()  # iterators that have the mark
_known: dict[int, Known] = {}  # by id of the tensor
_copies: list[bool] = []  # not empty where there is a device to copy batches to
_recent: deque[tuple[Tensor, int, Drawn]] = deque(maxlen=COPIED)


def watch(owner: object) -> None:
    """Note from now on what loaders give."""
    if not _owners:
        _patch("_next_index", _drawing)
        _patch("__next__", _giving)
        _copies[:] = [True] * torch.accelerator.is_available()
    _owners.add(id(owner))


def unwatch(owner: object) -> None:
    """The owner wants to know no more; harmless if he never did."""
    _owners.discard(id(owner))
    if _owners:
        return
    for name, (before, ours) in list(_patches.items()):
        if getattr(_Loading, name) is ours:  # else somebody has put his own over it, which calls ours
            setattr(_Loading, name, before)
            del _patches[name]
    # What is drawn meanwhile is not seen, and a loader that begins anew counts from zero again.
    for loading in list(_loading):
        loading.__dict__.pop(MARK, None)
    _loading.clear()
    _known.clear()
    _recent.clear()


def note(tensor: Tensor, indices: Sequence[int] | Tensor, dataset: str) -> None:
    """Row i of the tensor is sample `indices[i]` of the data set; so it is for every view of its rows."""
    if _owners:
        quietly(_note, tensor, Drawn(indices, dataset))


def _note(tensor: Tensor, drawn: Drawn) -> None:
    if len(_known) >= MOST:  # most ids are used again; what is gone otherwise is put away now and then
        for key in [key for key, known in _known.items() if known.tensor() is None]:
            del _known[key]
    if len(_known) < MOST and not tensor.is_inference():  # writes into such a tensor are not counted
        _known[id(tensor)] = Known(weakref.ref(tensor), tensor._version, drawn)


def rows_of(tensors: Sequence[Tensor], rows: int, axis: int = 0) -> tuple[str, list[int]] | None:
    """The data set, and the index in it of each row of a batch; None where that is not certain.

    Args:
        tensors: what went into the model.
        rows: samples of the batch.
        axis: dimension in which they lie.
    """
    found = [told for tensor in tensors if (told := _of(tensor.detach(), tensor, rows, axis)) is not None]
    return found[0] if found and all(told == found[0] for told in found) else None


def _of(plain: Tensor, tensor: Tensor, rows: int, axis: int) -> tuple[str, list[int]] | None:
    if plain.dim() <= axis or plain.shape[axis] != rows or not rows or not plain.numel():
        return None
    for whole in (tensor, tensor._base):
        known = None if whole is None else _known.get(id(whole))
        if whole is None or known is None or known.tensor() is not whole or known.version != whole._version:
            continue
        first = _first_row(plain, whole.detach(), rows, axis) if _fits(whole, known.drawn) else None
        return None if first is None else _named(known.drawn, first, rows)
    return None if plain.device.type == "cpu" else _of_copy(plain.movedim(axis, 0))


def _first_row(view: Tensor, whole: Tensor, rows: int, axis: int) -> int | None:
    """The row of a tensor at which a view begins that has a row of its own for each; None if it has not."""
    length = whole[0].numel() if whole.dim() and len(whole) else 0
    if not length or not whole.is_contiguous() or (rows > 1 and view.stride(axis) != length):
        return None
    first, offset = divmod(int(view.storage_offset()) - int(whole.storage_offset()), length)
    sizes = zip(view.shape, view.stride(), strict=True)
    reach = sum((size - 1) * stride for at, (size, stride) in enumerate(sizes) if at != axis)
    return first if first >= 0 and offset + reach < length and first + rows <= len(whole) else None


def _of_copy(plain: Tensor) -> tuple[str, list[int]] | None:
    """By content: which of the last batches it is a copy of, if it is one of one only."""
    here = plain.cpu().contiguous().flatten()
    found = [
        _named(drawn, 0, len(plain))
        for tensor, version, drawn in _recent
        if _fits(tensor, drawn)
        and (tensor.dtype, len(tensor), tensor.numel()) == (here.dtype, len(plain), here.numel())
        and tensor._version == version
        and torch.equal(tensor.contiguous().flatten().view(torch.uint8), here.view(torch.uint8))
    ]
    return found[0] if found and all(told == found[0] for told in found) else None


def _fits(tensor: Tensor, drawn: Drawn) -> bool:
    return tensor.dim() > 0 and len(tensor) == len(drawn.indices)


def _named(drawn: Drawn, first: int, rows: int) -> tuple[str, list[int]] | None:
    indices = drawn.indices[first : first + rows]
    listed = indices.tolist() if isinstance(indices, Tensor) else [_index(each) for each in indices]
    if len(listed) != rows or any(each is None for each in listed):
        return None
    return drawn.dataset, cast("list[int]", listed)


def _index(value: Any) -> int | None:
    """What a sampler gave as a number; a key of another sort names no row."""
    try:
        return int(value.__index__())
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return None


def _patch(name: str, around: Callable[[_Method], _Method]) -> None:
    if name not in _patches:
        before = getattr(_Loading, name)
        ours = around(before)
        _patches[name] = before, ours
        setattr(_Loading, name, ours)


def _drawing(before: _Method) -> _Method:
    def _next_index(self: Any) -> Any:
        indices = before(self)
        if _owners:
            try:  # noqa: SIM105 - `suppress` costs as much as all of it
                _draw(self.__dict__, self, indices)
            except Exception:  # noqa: BLE001, S110 - a loader of another sort: nothing is told of it
                pass
        return indices

    return _next_index


def _draw(held: dict[str, Any], loading: Any, indices: Any) -> None:
    """Indices are drawn for the next task; without workers there is but one."""
    under_way = held.get(MARK)
    if under_way is None:
        exact = loading._dataset_kind == dataloader._DatasetKind.Map and loading._auto_collation
        exact = exact and loading._collate_fn is default_collate and held.get("_in_order", True)
        under_way = held[MARK] = {} if exact else _NOTHING
        _loading.add(loading)
    if under_way is not _NOTHING:
        under_way[held.get("_send_idx", 0)] = indices


def _giving(before: _Method) -> _Method:
    def __next__(self: Any) -> Any:  # noqa: N807 - it stands in for that method
        batch = before(self)
        if _owners:
            try:  # noqa: SIM105 - the same
                quietly(_give, self.__dict__, batch)
            except Exception:  # noqa: BLE001, S110 - the same
                pass
        return batch

    return __next__


def _give(held: dict[str, Any], batch: Any) -> None:
    """A batch leaves a loader: the indices of the task that it answers, with workers of its number."""
    under_way = held.get(MARK)
    if not under_way:
        return
    indices = under_way.pop(held["_rcvd_idx"] - 1 if held["_num_workers"] else 0, None)
    if indices is None:
        return
    drawn = Drawn(indices, type(held["_dataset"]).__name__)
    for each in batch.values() if type(batch) is dict else batch if type(batch) is list else (batch,):
        for tensor in (each,) if type(each) is Tensor else _leaves(each):
            _note(tensor, drawn)
            if _copies:
                _keep(tensor, drawn)


def _keep(tensor: Tensor, drawn: Drawn) -> None:
    """For a copy of it; what workers share with this process is scarce, and is not kept."""
    if tensor.nbytes <= COPIED_BYTES and not tensor.is_shared():  # type: ignore[no-untyped-call] # torch's
        _recent.append((tensor, tensor._version, drawn))


def _leaves(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, list | tuple):
        for each in batch:
            yield from _leaves(each)
    elif isinstance(batch, dict):
        for each in batch.values():
            yield from _leaves(each)
