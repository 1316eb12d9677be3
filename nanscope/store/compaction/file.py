"""The compacted file as h5py makes it: any program that reads HDF5 finds its way in it.

/series/values    f4 (site, stat, step)  cells that are no column have no chunk, nor has what is all MISSING
/series/scalars   f4 (scalar, step)
/series/step, time                       dimension scales are attached, so that xarray opens the group
/pyramid/<level>  f4 (column, quantity, bucket)    the buckets of all parts, one part after the other
/findings         events as JSON lines
/epochs/...       the evaluations as a table
/state            JSON: how the run ended, what was lost, of which parts it was made
/chunks/<name>    u8 (series, chunk, 3): offset, size and CRC-32 of each chunk, see `chunks.py`
/checksums        JSON: CRC-32 of every text and of the small tables
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import h5py
import numpy as np
from h5py import h5d
from numpy.typing import NDArray

from nanscope import __version__
from nanscope.run import MISSING
from nanscope.store.compaction.chunks import ABSENT, chunk_crc
from nanscope.store.compaction.codec import LEVEL
from nanscope.store.compaction.draft import Draft, Slot
from nanscope.store.compaction.fold import FIELDS
from nanscope.store.compaction.part_record import LEVELS, short
from nanscope.store.compaction.through import Through
from nanscope.store.image import checksums_of, put_texts, write_header
from nanscope.store.journal import to_json
from nanscope.store.pyramid import QUANTITIES
from nanscope.store.schema import FORMAT, MAJOR, MINOR

CHUNK_ROWS = 4096
_CHUNK_BUCKETS = 2048
_VERSION = ("v110", "v110")  # a chunk index of a sixth of the size that older versions give it
_PRECISION = {False: "exact", True: "12bit"}


class CompactFile:
    """A compacted file in the making. Not to be shared by threads.

    Attributes:
        through: what h5py writes into; its `error` says whether the file is worth anything.
        chunk: rows in a chunk.
        widths: buckets in a chunk, by level.
    """

    def __init__(self, file: Any, through: Through, draft: Draft) -> None:
        self.through = through
        self.chunk = max(1, min(CHUNK_ROWS, draft.source.rows))
        self.widths = {level: max(1, min(_CHUNK_BUCKETS, draft.buckets(level))) for level in LEVELS}
        self._file = file
        self._draft = draft
        self._spots = _spots(draft)
        self._chunked: dict[str, tuple[h5d.DatasetID, int]] = {}  # looking one up by name takes 50 us
        self._index: dict[str, NDArray[np.uint64]] = {}
        self._write_attributes()
        write_header(file, draft.header)
        self._make_series()
        self._make_pyramid()

    def put(self, name: str, series: int, number: int, data: bytes) -> None:
        """Write one chunk.

        Args:
            name: of the dataset below /chunks.
            series: of its series, such as the column.
            number: of the chunk within the series.
            data: its bytes, see `codec.py`.
        """
        dataset, spot = self._spot(name, series)
        identity, width = self._chunked[dataset]
        identity.write_direct_chunk((*spot, number * width), data)
        self._index[name][series, number, 1:] = len(data), chunk_crc(data, name, series, number)

    def put_snapshot(self, number: int, slot: Slot) -> None:
        """Copy a snapshot; its slot gets no more room than it needs."""
        copy = self._file.create_dataset(f"snapshots/slot{number}", (slot.nbytes,), "u1")
        copy.attrs.update(units="byte", long_name="one state of the training")
        start = 0
        for piece in slot.pieces():
            copy[start : start + len(piece)] = piece
            start += len(piece)

    def finish(self) -> None:
        """Write what is known only now, and what is small."""
        draft = self._draft
        for name in self._index:
            self._write_index(name)
        self._write_findings([to_json(event) for event in draft.events])
        for name, values in draft.epochs.items():
            self._file[f"epochs/{name}"] = values
            self._file[f"epochs/{name}"].attrs.update(units=FIELDS[name].unit, long_name=FIELDS[name].meaning)
        records = [asdict(record) for record in draft.records]
        self._file["state"] = to_json({"state": draft.state, "lost": list(draft.lost), "parts": records})
        self._file["checksums"] = to_json(checksums_of(self._file))

    def _write_findings(self, lines: list[str]) -> None:
        findings = put_texts(self._file, "findings", lines)
        findings.make_scale("findings")  # xarray warns of a dimension that has no name

    def _write_attributes(self) -> None:
        header, contents = self._draft.header, self._draft.first.contents
        self._file.attrs.update(
            format=FORMAT,
            format_version=f"{MAJOR}.{MINOR}",
            nanscope_version=__version__,
            host=contents.host,
            created=header.created,
            run_id=contents.run_id,
            part=contents.part,
            parts=self._draft.count,
            layout="compact",
            precision=_PRECISION[bool(self._draft.lossy)],
        )

    def _make_series(self) -> None:
        series, rows = self._file["series"], self._draft.source.rows
        sites, stats, scalars = (len(series[name]) for name in ("site", "stat", "scalar"))
        missing = f"MISSING (NaN {MISSING.view(np.uint32):#x}) where not measured"
        self._make("series/values", (sites, stats, rows), "<f4", "1", f"stat of a site at a step, {missing}")
        self._make("series/scalars", (scalars, rows), "<f4", "1", f"scalar at a step, {missing}")
        self._make("series/step", (rows,), "<i8", "step", "number of the step")
        self._make("series/time", (rows,), "<f8", "s", "seconds since the run began")
        self._open_index("columns", len(self._draft.header.columns), rows, self.chunk)
        for name in ("step", "time"):
            self._open_index(name, 1, rows, self.chunk)
        _attach_scales(series)

    def _make_pyramid(self) -> None:
        columns = len(self._draft.header.columns)
        meaning = f"per column: {', '.join(QUANTITIES)} of each bucket; the parts' one after the other"
        for level in LEVELS:
            count = self._draft.buckets(level)
            if count:
                self._make(level, (columns, len(QUANTITIES), count), "<f4", "1", meaning)
                self._open_index(short(level), columns, count, self.widths[level])

    def _make(self, name: str, shape: tuple[int, ...], dtype: str, unit: str, meaning: str) -> None:
        width = self.widths.get(name, self.chunk)
        planes = shape[1] if name in LEVELS else 1
        chunks = (*(1,) * (len(shape) - 1), width) if planes == 1 else (1, planes, width)
        dataset = self._file.create_dataset(
            name,
            shape,
            dtype,
            chunks=chunks if 0 not in shape else None,
            shuffle=0 not in shape or None,
            compression="gzip" if 0 not in shape else None,
            compression_opts=LEVEL if 0 not in shape else None,
            fillvalue=MISSING if dtype == "<f4" else None,
        )
        dataset.attrs.update(units=unit, long_name=meaning)
        self._chunked[name] = dataset.id, width

    def _open_index(self, name: str, series: int, length: int, width: int) -> None:
        self._index[name] = np.empty((series, -(-length // width), 3), np.uint64)
        self._index[name][:] = ABSENT

    def _spot(self, name: str, series: int) -> tuple[str, tuple[int, ...]]:
        """Dataset and position of a series."""
        if name == "columns":
            return self._spots[series]
        if name in ("step", "time"):
            return f"series/{name}", ()
        return f"pyramid/{name}", (series, 0)

    def _write_index(self, name: str) -> None:
        index = self._index[name]
        spots = {self._spot(name, series): series for series in range(len(index))}
        for dataset in {dataset for dataset, _ in spots}:
            identity, width = self._chunked[dataset]

            def note(chunk: Any, dataset: str = dataset, width: int = width) -> None:
                *spot, position = chunk.chunk_offset
                index[spots[dataset, tuple(spot)], position // width, 0] = chunk.byte_offset

            if index.size:
                identity.chunk_iter(note)
        if index.size:
            self._file[f"chunks/{name}"] = index
            self._file[f"chunks/{name}"].attrs.update(units="1", long_name="offset, size, CRC-32 of a chunk")


@contextmanager
def making(descriptor: int, draft: Draft) -> Iterator[CompactFile]:
    """A compacted file in an empty file on the disk.

    Raises:
        OSError: it could not be written; h5py itself was spared.
    """
    through = Through(descriptor)
    with h5py.File(through, "w", libver=_VERSION) as file:
        yield CompactFile(file, through, draft)
    if through.error is not None:
        raise through.error


def _spots(draft: Draft) -> list[tuple[str, tuple[int, ...]]]:
    """Dataset of each column, and where in it."""
    columns = draft.header.columns
    sites = {site: i for i, site in enumerate(dict.fromkeys(c.site for c in columns if c.site is not None))}
    stats = {stat: i for i, stat in enumerate(dict.fromkeys(c.stat for c in columns if c.site is not None))}
    spots: list[tuple[str, tuple[int, ...]]] = []
    scalars = 0
    for column in columns:
        if column.site is None:
            spots.append(("series/scalars", (scalars,)))
            scalars += 1
        else:
            spots.append(("series/values", (sites[column.site], stats[column.stat])))
    return spots


def _attach_scales(series: Any) -> None:
    dimensions = {"values": ("site", "stat", "step"), "scalars": ("scalar", "step"), "time": ("step",)}
    dimensions["stat_definition"] = ("stat",)
    dimensions.update({name: ("site",) for name in series if name.startswith("site_")})
    for name in ("site", "stat", "scalar", "step"):
        series[name].make_scale(name)
    for name, scales in dimensions.items():
        for axis, scale in enumerate(scales):
            series[name].dims[axis].attach_scale(series[scale])
