"""The byte budget: what is kept whole, what becomes a summary, and that nothing is made up."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from nanscope.run import Floats, Run, is_missing
from nanscope.store.layout import Layout
from nanscope.store.reader import open_run
from nanscope.store.writer import RunWriter
from tests.store.files import BLOCK, append_pattern, bits, header, pattern

SLOTS = 8
BLOCKS = 40


@contextmanager
def thinning(path: Path, columns: int = 2) -> Iterator[RunWriter]:
    """A writer whose file keeps 8 of 40 blocks whole."""
    sizes = Layout(columns, BLOCK, 4 * BLOCK, BLOCKS, SLOTS)
    writer = RunWriter.create(path, header(columns), layout=sizes)
    try:
        yield writer
    finally:
        writer.close()


def drained(writer: RunWriter) -> None:
    """Every block whose last row is final has been written and is on the disk itself."""
    live = writer._live
    while live._done + live.layout.block < live.rows or live._freed < live._done:
        live._sync_at = 0.0
        live._wake.set()


def kept_blocks(run: Run) -> list[int]:
    """Numbers of the blocks that are there with all values; exact, and MISSING elsewhere."""
    table = run.source.block(0, len(run))
    whole = ~is_missing(table).all(axis=1)
    np.testing.assert_array_equal(bits(table[whole]), bits(pattern(0, len(run), 2)[whole]))
    np.testing.assert_array_equal(run.steps, 3 * np.arange(len(run)))
    columns = [run.source.column(i, 0, len(run)) for i in range(2)]
    np.testing.assert_array_equal(bits(np.stack(columns, axis=1)), bits(table))
    return [b for b in range(len(run) // BLOCK) if whole[b * BLOCK : (b + 1) * BLOCK].all()]


def test_the_first_and_the_newest_blocks_stay(tmp_path: Path) -> None:
    """In the middle only summaries are kept; the steps and the sentence say so."""
    with thinning(tmp_path / "run.h5") as writer:
        for start in range(0, 30 * BLOCK, BLOCK):
            append_pattern(writer, start, start + BLOCK, 2)
            drained(writer)
    run = open_run(tmp_path / "run.h5")
    assert len(run) == 30 * BLOCK
    assert kept_blocks(run) == [0, 1, 23, 24, 25, 26, 27, 28, 29]
    assert len(run.lost) == 1
    assert run.lost[0].startswith(
        f"{21 * BLOCK:,} of the steps {3 * 2 * BLOCK} to {3 * (23 * BLOCK - 1):,} are"
    )
    assert run.lost[0].endswith("kept as summaries of 64 steps only: the file reached its size budget")


def test_blocks_around_what_matters_stay(tmp_path: Path) -> None:
    """The block in which `keep` was called, the one before and the one after."""
    with thinning(tmp_path / "run.h5") as writer:
        for start in range(0, 30 * BLOCK, BLOCK):
            append_pattern(writer, start, start + BLOCK // 2, 2)
            if start == 10 * BLOCK:
                writer.keep()
            append_pattern(writer, start + BLOCK // 2, start + BLOCK, 2)
            drained(writer)
    assert kept_blocks(open_run(tmp_path / "run.h5")) == [0, 1, 9, 10, 11, 26, 27, 28, 29]


def test_keeping_everything_cannot_starve_the_newest(tmp_path: Path) -> None:
    """`keep` in every block: at most about half of the room is given to it."""
    with thinning(tmp_path / "run.h5") as writer:
        for start in range(0, 30 * BLOCK, BLOCK):
            writer.keep()
            append_pattern(writer, start, start + BLOCK, 2)
            drained(writer)
    kept = kept_blocks(open_run(tmp_path / "run.h5"))
    assert len(kept) == SLOTS + 1  # the last one is still in the ring
    assert kept[-2:] == [28, 29]


@pytest.mark.parametrize("bucket", [10, 64, 128, 640])
def test_summaries_cover_what_was_thinned(tmp_path: Path, bucket: int) -> None:
    """Lows, highs and counts of every row that ever was, against the whole table."""
    with thinning(tmp_path / "run.h5") as writer:
        append_pattern(writer, 0, 30 * BLOCK, 2)
    run = open_run(tmp_path / "run.h5")
    view = run.source.overview(1, bucket)
    column = pattern(0, 30 * BLOCK, 2)[:, 1]
    ends = np.append(view.starts[1:], len(run))
    for i, (start, end) in enumerate(zip(view.starts, ends, strict=True)):
        expected_low, expected_high, bad = oracle(column[start:end])
        assert view.nonfinite[i] == bad
        np.testing.assert_array_equal([view.low[i], view.high[i]], [expected_low, expected_high])


def oracle(values: Floats) -> tuple[float, float, int]:
    """Lowest and highest finite value, and how many are not finite, one by one."""
    finite = [float(v) for v in values if np.isfinite(v)]
    bad = sum(not np.isfinite(v) and not is_missing(np.array([v]))[0] for v in values)
    return min(finite, default=float("nan")), max(finite, default=float("nan")), bad


def test_a_reader_sees_no_block_in_the_place_of_another(tmp_path: Path) -> None:
    """Opened before, read after the writer gave a block's place to another one: MISSING, not its values."""
    with thinning(tmp_path / "run.h5") as writer:
        append_pattern(writer, 0, 8 * BLOCK + 1, 2)
        drained(writer)
        run = open_run(tmp_path / "run.h5")
        assert kept_blocks(run) == list(range(8))
        for start in range(8 * BLOCK + 1, 20 * BLOCK + 1, BLOCK):
            append_pattern(writer, start, start + BLOCK, 2)
            drained(writer)
        assert kept_blocks(run) == [0, 1]


def test_a_failed_write_gives_no_place_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails between giving a place up and filling it: no block points to another one's values."""
    with thinning(tmp_path / "run.h5") as writer:
        append_pattern(writer, 0, 9 * BLOCK, 2)
        drained(writer)
        regions = writer._live._regions
        write = regions.write

        def failing(dataset: str, data: Floats, start: int = 0) -> None:
            if dataset == "series/blocks":
                raise OSError(28, "No space left on device")
            write(dataset, data, start)

        monkeypatch.setattr(regions, "write", failing)
        with pytest.warns(RuntimeWarning, match="No space left"):
            append_until_it_fails(writer)
        monkeypatch.undo()
        writer._live._retry_at = 0.0
        append_pattern(writer, 9 * BLOCK + 1, 20 * BLOCK, 2)
    kept = kept_blocks(open_run(tmp_path / "run.h5"))
    assert kept[:2] == [0, 1]
    assert kept[-1] == 19


def append_until_it_fails(writer: RunWriter) -> None:
    """One more row completes a block; the thread tries to write it."""
    append_pattern(writer, 9 * BLOCK, 9 * BLOCK + 1, 2)
    while writer._live._retry_at == 0:
        writer._live._wake.set()


@pytest.mark.parametrize("columns", [1, 90, 230, 2150, 6030, 20_000])
@pytest.mark.parametrize("capacity", [None, 100, 3_000_000])
@pytest.mark.parametrize("budget", [4 << 30, 100 << 20])
def test_sizes_stay_within_the_budget(columns: int, capacity: int | None, budget: int) -> None:
    """What the file may take for blocks and summaries, but for a least number of blocks."""
    sizes = Layout.for_run(columns, capacity, budget)
    least = 16 * (sizes.value_bytes + sizes.summary_bytes)
    assert sizes.blocks * sizes.summary_bytes + sizes.slots * sizes.value_bytes <= budget + least
    assert sizes.slots <= sizes.blocks
    assert list(sizes.levels.values()) == sorted(sizes.levels.values())
    assert sizes.finest in sizes.levels.values()


def test_a_run_that_fits_is_not_thinned() -> None:
    """Three million steps of the MLP fit into the default budget whole."""
    sizes = Layout.for_run(230, 3_000_000)
    assert sizes.slots == sizes.blocks
    assert sizes.finest == 64
