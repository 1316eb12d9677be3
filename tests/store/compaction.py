"""Runs with something of everything, and what must be the same before and after compaction."""

from __future__ import annotations

import dataclasses
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nanscope.run import MISSING, Column, Floats, Header, Run, Source
from nanscope.store.contents import open_contents
from nanscope.store.head import HEAD_SLOT, newest_head, pack_head
from nanscope.store.journal import to_json
from nanscope.store.layout import Layout
from nanscope.store.reader import open_run
from nanscope.store.writer import RunWriter
from nanscope.values import Epoch, Kind, Site
from tests.store.files import BLOCK, RING, bits, pattern

SITES = (
    Site("", Kind.INPUT, "Net", 0, "float32"),
    Site("fc1", Kind.OUTPUT, "Linear", 1, "bfloat16"),
    Site("fc1.weight", Kind.WEIGHT, "Linear", 1, "float32", 2**40),
)
COLUMNS = (
    Column(SITES[1], "l2"),
    Column(None, "loss"),
    Column(SITES[2], "l2"),  # not every site has every stat, and scalars may stand in between
    Column(SITES[2], "nan_count"),
    Column(None, "own"),
    Column(SITES[0], "l2"),
    Column(None, ""),
    Column(None, ""),
)
HEADER = Header(
    COLUMNS,
    {"lr": 0.1, "odd": [float("inf"), None, {"deep": "text"}]},
    {"seed": 0, "argv": ["a b", "ä"]},
    ({"name": "fc1", "type": "Linear"},),
    1234.5,
)
BUCKETS = (1, 2, 3, 10, 16, 63, 64, 65, 100, 128, 200, 256, 512, 1000, 5000)


def small(columns: int = len(COLUMNS), *, slots: int = 1024, blocks: int = 1024, finest: int = 16) -> Layout:
    """Small blocks; fewer slots than blocks thin the run."""
    return Layout(columns, BLOCK, RING, blocks, min(slots, blocks), finest)


def table(start: int, stop: int, columns: int = len(COLUMNS)) -> Floats:
    """Rows of the pattern with gaps: column 2 is measured at every fifth row, the last column never."""
    rows = pattern(start, stop, columns).copy()
    rows[np.arange(start, stop) % 5 != 0, 2 % columns] = MISSING
    rows[:, -1] = MISSING
    return rows


def append(writer: RunWriter, start: int, stop: int, columns: int = len(COLUMNS)) -> None:
    """Append rows start..stop of the table; row i is step 3 i, at i / 8 seconds."""
    for i, row in enumerate(table(start, stop, columns), start):
        writer.append(3 * i, i / 8, row)


def note(writer: RunWriter) -> None:
    """Events and epochs, the odd ones too."""
    writer.event("note", 1, text="line\nwith \x1b[31mred and 'ä' and \u202e", number=float("nan"))
    writer.event("oddity", 2**60, nested={"list": [1, 2.5, None, True, "x"], "none": None})
    writer.epoch(Epoch(1, 10, 10, 1.5, 0.3, 0.9, 0.8, ((5, 1), (0, 7))))
    writer.epoch(Epoch(2, 20, 10, 0.0, float("nan"), 0.1, float("inf"), ()))
    writer.epoch(Epoch(3, 30, 10, 2.5, 1e300, 0.1, 5e-324, ((1, 0, 0), (0, 2**32 - 1, 0), (0, 0, 3))))


def record(path: Path, rows: int, *, layout: Layout | None = None, state: str = "finished") -> None:
    """A run with something of everything."""
    writer = RunWriter.create(path, HEADER, layout=layout or small())
    append(writer, 0, rows)
    note(writer)
    writer.name_scalar("accuracy")
    writer.close(state)


def grow(path: Path, first: int, second: int) -> None:
    """A run of three parts: the second one has another site and lacks a stat, the third one is empty."""
    writer = RunWriter.create(path, HEADER, layout=small())
    append(writer, 0, first)
    note(writer)
    site = Site("fc2", Kind.OUTPUT, "Linear", 2, "float32")
    columns = (Column(None, "loss"), Column(site, "l2"), Column(SITES[1], "l2"), Column(None, ""))
    writer.change(dataclasses.replace(HEADER, columns=columns))
    append(writer, first, first + second, len(columns))
    writer.event("note", 5, text="in part 2")
    writer.change(HEADER)
    writer.close()


def forsake(path: Path) -> None:
    """Make a live file look as if its writer had been killed."""
    contents, descriptor = open_contents(path, str(path))
    with os.fdopen(descriptor, "rb") as file:
        file.seek(contents.offsets["live/head"])
        head = newest_head(file.read(2 * HEAD_SLOT))
    assert head is not None
    with path.open("r+b") as file:
        file.seek(contents.offsets["live/head"] + (head.sequence + 1) % 2 * HEAD_SLOT)
        file.write(pack_head(head._replace(sequence=head.sequence + 1, pid=2**31 - 1)))


def facts(path: Path) -> tuple[object, ...]:
    """Everything of a run that is no array, in a form that equals itself."""
    run = open_run(path)
    header = dataclasses.asdict(dataclasses.replace(run.header, columns=()))
    texts = (to_json(header), to_json(list(run.events)), to_json([epoch.to_dict() for epoch in run.epochs]))
    return (run.header.columns, *texts, run.state, run.lost, len(run), run.source.whole())


def arrays(source: Source, columns: int) -> dict[str, NDArray[np.generic]]:
    """Every array that a reader can ask for, as bits."""
    rows = source.rows
    cuts = sorted({0, min(1, rows), rows // 3, rows // 2, max(0, rows - 5), rows})
    found: dict[str, NDArray[np.generic]] = {
        "block": bits(source.block(0, rows)),
        "steps": source.steps(0, rows),
        "times": source.times(0, rows).view(np.uint64),
    }
    for low, high in pairwise(cuts):
        found[f"block {low}:{high}"] = bits(source.block(low, high))
        found[f"steps {low}:{high}"] = source.steps(low, high)
    for index in range(columns):
        found[f"column {index}"] = bits(source.column(index, 0, rows))
        found[f"part of column {index}"] = bits(source.column(index, rows // 3, rows // 2))
        for bucket in BUCKETS:
            view = source.overview(index, bucket)
            name = f"overview {index} {bucket}"
            found |= {f"{name} bucket": np.array(view.bucket), f"{name} starts": view.starts}
            found |= {f"{name} {part}": bits(getattr(view, part)) for part in ("low", "high", "mean")}
            found[f"{name} nonfinite"] = view.nonfinite
    return found


def snapshot_of(run: Run) -> dict[str, NDArray[np.generic]]:
    """As `arrays`, of an open run."""
    return arrays(run.source, len(run.header.columns))


def assert_same(before: dict[str, NDArray[np.generic]], after: dict[str, NDArray[np.generic]]) -> None:
    """The same arrays, bit for bit, of the same shapes and types."""
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert (array.shape, array.dtype) == (after[name].shape, after[name].dtype), name
        np.testing.assert_array_equal(array, after[name], err_msg=name)
