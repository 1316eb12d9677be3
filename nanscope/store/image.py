"""The HDF5 part of a new run file, built in memory.

libhdf5 crashes the process at exit when a disk fills up under it, so it never sees the disk: h5py writes into
an object that only remembers the pieces, and `publish.py` puts them into the file.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from nanscope import __version__
from nanscope.run import STATS, Header
from nanscope.store.checksums import checksum
from nanscope.store.filelike import Pieces
from nanscope.store.head import HEAD_SLOT
from nanscope.store.journal import to_json
from nanscope.store.layout import Layout
from nanscope.store.schema import FORMAT, MAJOR, MINOR, Array, arrays
from nanscope.values import Site

PAGE = 4096  # where datasets begin, so that no slot of the head shares a sector with the other one
_TEXT_BYTES = 64 << 10  # of strings that are written at once
_VERSION = ("v108", "v108")  # checksummed metadata, but no "open for writing" mark that a SIGKILL would leave


@dataclass(frozen=True)
class Image:
    """A new run file before it is on the disk.

    Attributes:
        pieces: offset and bytes, in the order of writing (a later one may overwrite an earlier one).
        offsets: where each pre-allocated dataset begins, by name.
        size: of the whole file, in bytes.
    """

    pieces: tuple[tuple[int, bytes], ...]
    offsets: dict[str, int] = field(default_factory=dict)
    size: int = 0


@dataclass(frozen=True)
class Identity:
    """Which run a file belongs to, and which part of it it is, from 1."""

    run_id: str
    part: int = 1


def build_image(header: Header, layout: Layout, identity: Identity) -> Image:
    """The file's metadata, names and texts, with room for everything that is to come."""
    pieces = Pieces()
    aligned = {"alignment_threshold": 2 * HEAD_SLOT, "alignment_interval": PAGE}
    with h5py.File(pieces, "w", libver=_VERSION, **aligned) as file:
        file.attrs.update(
            format=FORMAT,
            format_version=f"{MAJOR}.{MINOR}",
            nanscope_version=__version__,
            host=platform.node(),
            created=header.created,
            run_id=identity.run_id,
            part=identity.part,
            layout="live",
        )
        write_header(file, header)
        file["checksums"] = to_json(checksums_of(file))
        specs = arrays(layout)
        offsets = {spec.name: _allocate(file, spec) for spec in specs}
    size = max(offsets[spec.name] + spec.nbytes for spec in specs)
    end = max(offset + len(piece) for offset, piece in pieces.written)
    return Image(tuple(pieces.written), offsets, max(size, end))


def write_header(file: Any, header: Header) -> None:
    """The texts and names of a run, alike in live and compacted files."""
    texts = {"config": header.config, "env": header.environment, "model": header.model}
    for name, value in texts.items():
        file[name] = to_json(value)
    sites = list(dict.fromkeys(c.site for c in header.columns if c.site is not None))
    stats = list(dict.fromkeys(c.stat for c in header.columns if c.site is not None))
    series = file.require_group("series")
    _write_sites(series, sites)
    put_texts(series, "stat", stats)
    put_texts(series, "stat_definition", [STATS.get(stat, "") for stat in stats])
    put_texts(series, "scalar", [c.stat for c in header.columns if c.site is None])
    _write_columns(file.require_group("columns"), header, sites, stats)


def _write_columns(group: Any, header: Header, sites: list[Site], stats: list[str]) -> None:
    site_of = {site: i for i, site in enumerate(sites)}
    stat_of = {stat: i for i, stat in enumerate(stats)}
    scalar = itertools.count()
    pairs = [
        (site_of[c.site], stat_of[c.stat]) if c.site is not None else (-1, next(scalar))
        for c in header.columns
    ]
    _numbers(group, "site", [site for site, _ in pairs], "<i4", "site of a column, -1: a scalar")
    _numbers(group, "stat", [stat for _, stat in pairs], "<i4", "stat or scalar of a column")


def _write_sites(series: Any, sites: list[Site]) -> None:
    put_texts(series, "site", [str(site) for site in sites])
    put_texts(series, "site_module", [site.name for site in sites])
    put_texts(series, "site_kind", [site.kind.value for site in sites])
    put_texts(series, "site_module_type", [site.module_type for site in sites])
    put_texts(series, "site_dtype", [site.dtype for site in sites])
    _numbers(series, "site_order", [site.order for site in sites], "<i4", "order of execution, -1: none")
    _numbers(series, "site_numel", [site.numel for site in sites], "<i8", "elements, 0: they vary")


def _numbers(group: Any, name: str, values: list[int], dtype: str, meaning: str) -> None:
    group[name] = np.array(values, dtype)
    group[name].attrs.update(units="1", long_name=meaning)


def put_texts(group: Any, name: str, texts: Sequence[str]) -> Any:
    """Make a dataset of strings, in slices: HDF5 2.0.0 spoils a file that is given 2 MB of them at once."""
    # HDF5 text ends at a NUL and must be UTF-8; every other character is kept and left to the reader
    kept = [text.replace("\0", "?").encode("utf-8", "replace").decode("utf-8") for text in texts]
    dataset = group.create_dataset(name, (len(kept),), h5py.string_dtype())
    start = size = 0
    for stop, text in enumerate(kept, 1):
        size += len(text)
        if size >= _TEXT_BYTES or stop == len(kept):
            dataset[start:stop] = kept[start:stop]
            start, size = stop, 0
    return dataset


def checksums_of(file: Any) -> dict[str, int]:
    """Checksums of the texts and of the small tables; chunks and snapshots have their own."""
    found: dict[str, int] = {}

    def note(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or item.size == 0 or name.startswith(("chunks/", "snapshots/")):
            return
        if h5py.check_string_dtype(item.dtype):
            found[name] = checksum(np.ravel(item.asstr()[()]).tolist())
        elif item.chunks is None:
            found[name] = checksum(item[()].tobytes())

    file.visititems(note)
    return found


def _allocate(file: Any, spec: Array) -> int:
    """Make a contiguous dataset without writing it; returns its offset."""
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_layout(h5d.CONTIGUOUS)
    plist.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5d.FILL_TIME_NEVER)
    group, _, name = spec.name.rpartition("/")
    kind = h5t.py_create(np.dtype(spec.dtype))
    space = h5s.create_simple(spec.shape)
    dataset = h5py.Dataset(h5d.create(file.require_group(group).id, name.encode(), kind, space, plist))
    dataset.attrs["units"] = spec.unit
    dataset.attrs["long_name"] = spec.meaning
    offset: int = dataset.id.get_offset()
    return offset
