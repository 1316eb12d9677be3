"""One dataset of a file that nobody vouches for: what it is and where, asked without reading it."""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5z

from nanscope.store.guard.elements import in_words, number_type
from nanscope.store.guard.refusal import Refusal, check, shown
from nanscope.store.inventory import Stored

RANK, CHUNK_BYTES, DATASET_BYTES = 6, 64 << 20, 1 << 40
STRINGS = 1_000_000

_LAYOUTS = (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED)
_FILTERS = {
    h5z.FILTER_DEFLATE: "deflate",
    h5z.FILTER_SHUFFLE: "shuffle",
    h5z.FILTER_FLETCHER32: "fletcher32",
}
_VARIABLE_BYTES = 16  # of a string of variable length on the disk: u4 its size, u8 and u4 where it is


def describe(dataset: h5d.DatasetID, path: bytes) -> Stored:
    """A numeric dataset, once it is certain that libhdf5 can say so without harm.

    Args:
        dataset: opened, nothing more.
        path: how messages call it.

    Raises:
        Refusal: it is what no run file holds.
    """
    plist = _creation(dataset, path)
    kind = dataset.get_type()
    dtype = number_type(kind)
    if dtype is None:
        raise Refusal(f"its dataset {shown(path)} holds {in_words(kind)}, which no run file does")
    shape = _shape(dataset, path)
    size = kind.get_size() * math.prod(shape)
    check(size <= DATASET_BYTES, f"its dataset {shown(path)} claims {size:,} bytes")
    chunks = _chunks(plist, kind.get_size(), path)
    offset = dataset.get_offset() if plist.get_layout() == h5d.CONTIGUOUS else None
    return Stored(shape, dtype, offset, chunks, _filters(plist, path))


def read_text(dataset: h5d.DatasetID, path: bytes, file: Any, room: int) -> tuple[list[str], int]:
    """A string dataset, flattened, and its size in bytes, if it is at most `room`.

    Args:
        dataset, path: as in `describe`.
        file: the file object that the dataset is in.
        room: bytes.

    Raises:
        Refusal: it is what no run file holds.
    """
    plist = _creation(dataset, path)
    # libhdf5 inflates a chunk without bound
    check(
        plist.get_layout() == h5d.CONTIGUOUS, f"its text {shown(path)} is in chunks, which no run file's is"
    )
    count = math.prod(_shape(dataset, path))
    check(count <= STRINGS, f"its text {shown(path)} claims {count:,} lines")
    size = _text_bytes(dataset, count, file)
    check(size <= room, f"its text {shown(path)} claims {size:,} bytes")
    found = h5py.Dataset(dataset).asstr(errors="replace")[()]
    return ([found] if isinstance(found, str) else found.ravel().tolist()), size


def _creation(dataset: h5d.DatasetID, path: bytes) -> h5p.PropDCID:
    """How the dataset was made, if it is no reference to data elsewhere."""
    plist = dataset.get_create_plist()
    layout, name = plist.get_layout(), shown(path)
    check(layout != h5d.VIRTUAL, f"it holds a virtual dataset, which points to other files ({name})")
    check(layout in _LAYOUTS, f"its dataset {name} is stored in an unknown way")
    outside = layout == h5d.CONTIGUOUS and plist.get_external_count() > 0
    check(not outside, f"it holds a dataset whose data is in another file ({name})")
    return plist


def _shape(dataset: h5d.DatasetID, path: bytes) -> tuple[int, ...]:
    space = dataset.get_space()
    if space.get_simple_extent_type() == h5s.NULL:
        return (0,)
    rank = space.get_simple_extent_ndims()
    check(rank <= RANK, f"its dataset {shown(path)} has {rank} dimensions")
    return tuple(int(length) for length in space.get_simple_extent_dims())


def _chunks(plist: h5p.PropDCID, size: int, path: bytes) -> tuple[int, ...] | None:
    if plist.get_layout() != h5d.CHUNKED:
        return None
    chunks = tuple(int(length) for length in plist.get_chunk())
    claimed = size * math.prod(chunks)
    check(claimed <= CHUNK_BYTES, f"its dataset {shown(path)} has chunks of {claimed:,} bytes")
    return chunks


def _filters(plist: h5p.PropDCID, path: bytes) -> tuple[str, ...]:
    codes = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    unknown = next((code for code in codes if code not in _FILTERS), None)
    way = f"its dataset {shown(path)} is compressed in a way that no run file is (filter {unknown})"
    check(unknown is None, way)
    return tuple(_FILTERS[code] for code in codes)


def _text_bytes(dataset: h5d.DatasetID, count: int, file: Any) -> int:
    """What the strings take: libhdf5 would allocate it before anybody could object."""
    kind, offset = dataset.get_type(), dataset.get_offset()
    if not kind.is_variable_str():
        return int(kind.get_size()) * count
    if offset is None:
        return 0
    file.seek(offset)
    places = np.frombuffer(file.read(_VARIABLE_BYTES * count), "<u4").reshape(count, -1)
    return int(places[:, 0].sum(dtype=np.uint64)) if count else 0
