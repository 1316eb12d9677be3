"""`verify`: silent on every sound file, and it finds every damaged byte and every wrong summary."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from nanscope.run import MISSING, Column, Header
from nanscope.store.about import about
from nanscope.store.compaction.compact import compact
from nanscope.store.head import HEAD_SLOT, Head, pack_head
from nanscope.store.layout import Layout
from nanscope.store.pyramid import MEAN, QUANTITIES, summarise
from nanscope.store.reader import open_run
from nanscope.store.snapshots.slots import HEADER_BYTES, slot_bytes_for
from nanscope.store.verification import compacted as verify_compact
from nanscope.store.verification.recount import disagreements
from nanscope.store.writer import RunWriter
from nanscope.values import Kind, Site
from tests.store.damage import flips, is_found, overwrite, place_of, sample, seal_block, used_bytes, verified
from tests.store.files import BLOCK, RING, append_pattern, bits, header, layout, writing
from tests.store.snapshot_files import pieces, state

BLOCKS = 9  # that the file below has in full
ROWS = BLOCKS * BLOCK + 10
COLUMNS = (
    Column(Site("fc1", Kind.OUTPUT), "l2"),
    Column(Site("fc1", Kind.OUTPUT), "abs_max"),
    Column(None, "loss"),
)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound live file with blocks, a full ring and events."""
    path = tmp_path_factory.mktemp("verify") / "run.h5"
    writer = RunWriter.create(path, Header(COLUMNS, config={"lr": 0.1}), layout=layout(3))
    append_pattern(writer, 0, ROWS, 3)
    writer.event("note", 1, text="hello")
    writer.event("note", 2, text="again")
    writer.close()
    return path


@pytest.fixture
def run_file(master: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copy(master, tmp_path / "run.h5"))


@pytest.fixture
def compact_file(run_file: Path) -> Path:
    """The same run compacted."""
    compact(run_file)
    return run_file


def test_a_sound_file(master: Path) -> None:
    """Nothing is wrong, and everything was looked at."""
    found = verified(master)
    assert (found.problems, found.notes, found.state) == ((), (), "finished")
    summaries = BLOCKS * 3
    assert found.checked == {
        "texts and tables": 15,
        "heads": 2,
        "events": 2,
        "rows in the ring": RING,
        "blocks": BLOCKS,
        "steps": ROWS,
        "summaries": summaries,
    }


@pytest.mark.parametrize("rows", [0, 1, BLOCK, BLOCK + 1, RING, 3 * RING])
@pytest.mark.parametrize("form", ["live", "compact", "12bit"])
def test_sound_files_of_every_length(tmp_path: Path, rows: int, form: str) -> None:
    """Empty, within the ring, at the edges of blocks; live, compacted, rounded."""
    path = tmp_path / "run.h5"
    with writing(path, 2) as writer:
        append_pattern(writer, 0, rows, 2)
    if form != "live":
        compact(path, precision="12bit" if form == "12bit" else None)
    found = verified(path)
    assert found.problems == ()
    assert found.checked.get("steps", 0) == rows


def test_a_sound_run_while_it_is_written(tmp_path: Path) -> None:
    """Looks while the writer is at work find nothing, and all rows that were there."""
    with writing(tmp_path / "run.h5", 2) as writer:
        for start in range(0, 12 * BLOCK, 50):
            append_pattern(writer, start, start + 50, 2)
            found = verified(tmp_path / "run.h5")
            assert (found.problems, found.state) == ((), "live")
            assert found.checked["steps"] >= start


@pytest.mark.parametrize("form", ["live", "compact"])
def test_sound_runs_in_parts_and_thinned(tmp_path: Path, form: str) -> None:
    """Parts with different columns, and blocks of which only summaries are left."""
    sizes = Layout(2, BLOCK, RING, 20, 8)
    writer = RunWriter.create(tmp_path / "run.h5", header(2), layout=sizes)
    append_pattern(writer, 0, 20 * BLOCK, 2)
    writer.change(header(3))
    append_pattern(writer, 20 * BLOCK, 23 * BLOCK, 3)
    writer.close()
    if form == "compact":
        compact(tmp_path / "run.h5")
    found = verified(tmp_path / "run.h5")
    assert found.problems == ()
    assert len(found.files) == (2 if form == "live" else 1)
    assert any("summaries" in note for note in found.notes)


@pytest.mark.parametrize("dataset", used_bytes(layout(3), BLOCKS, 1))
def test_every_flipped_bit_of_a_live_file_is_found(run_file: Path, dataset: str) -> None:
    """Wherever it is in the data; unused room is not data."""
    raw = run_file.read_bytes()
    offset, size = place_of(run_file, dataset)
    ranges = used_bytes(layout(3), BLOCKS, len(raw[offset : offset + size].rstrip(b"\0")))[dataset]
    positions = [offset + byte for byte in sample(ranges, 20, seed=len(dataset))]
    missed = [position - offset for position in flips(run_file, positions, seed=1) if not is_found(run_file)]
    assert missed == []
    assert not is_found(run_file)


def test_every_flipped_bit_of_a_chunk_is_found(compact_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of the lists of chunks, the texts and the tables, wherever HDF5 put them."""
    with h5py.File(compact_file) as file:
        lists = [name for name in file["chunks"] if file[f"chunks/{name}"].size]
        entries = np.concatenate([file[f"chunks/{name}"][:].reshape(-1, 3) for name in lists])
    positions = [
        int(offset) + random.Random(i).randrange(int(size)) for i, (offset, size, _) in enumerate(entries)
    ]
    for name in lists:
        offset, size = place_of(compact_file, f"chunks/{name}")
        positions += [offset + byte for byte in sample([range(size)], 6, seed=2)]
    for text in (b'"state"', b"fc1", b"loss", b"abs_max", b"hello"):
        positions.append(compact_file.read_bytes().index(text) + 1)
    with compact_file.open("rb") as file:
        answer = verify_compact.chunk_map(file.fileno(), "run.h5")
    # libhdf5 would be asked anew for every flip, which takes a process each, and the places stay as they are
    monkeypatch.setattr(verify_compact, "chunk_map", lambda _descriptor, _name: answer)
    missed = [position for position in flips(compact_file, positions, seed=1) if not is_found(compact_file)]
    assert missed == []
    assert not is_found(compact_file)


def test_flipped_bits_in_names_and_settings_are_found(run_file: Path) -> None:
    """A changed setting or name reads well, and is wrong: the reader says so, too."""
    data = run_file.read_bytes()
    positions = [data.index(text) + 2 for text in (b'{"lr": 0.1}', b"fc1.output", b"loss")]
    positions.append(place_of(run_file, "columns/stat")[0])
    missed = [position for position in flips(run_file, positions, seed=1) if not is_found(run_file)]
    assert missed == []
    next(flips(run_file, positions[:1], seed=1))
    assert "config is not as it was written" in open_run(run_file).lost


@pytest.mark.parametrize("form", ["live", "compact"])
def test_every_flipped_bit_of_a_snapshot_is_found(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its header, its arrays, its table and its checksums; an empty slot is sound."""
    path = tmp_path / "run.h5"
    monkeypatch.setattr(verify_compact, "_check_places", lambda *_: None)
    made = pieces(state(5))
    size = slot_bytes_for(made, {"of": 5})
    writer = RunWriter.create(path, header(2), layout=layout(2), snapshots=(2, size))
    append_pattern(writer, 0, 10, 2)
    assert writer.snapshot(5, 0.5, made, {"of": 5})
    writer.close()
    if form == "compact":
        compact(path)
    found = verified(path)
    assert (found.problems, found.checked["snapshots"]) == ((), 1)
    assert about(path).files[0].snapshots == (5,)
    data = path.read_bytes()
    begin = data.index(b"\x93NSSNAP\n")
    arrays = begin + HEADER_BYTES
    table = data.index(b'"entries"', arrays)
    positions = [begin, begin + 16, begin + 40, arrays, arrays + 11_999, table, table + 30]
    missed = [position for position in flips(path, positions, seed=1) if not is_found(path)]
    assert missed == []


def test_the_place_of_the_damage_is_told(run_file: Path) -> None:
    """Steps, and the series by name where a summary disagrees."""
    table = np.full(BLOCK, 7, np.float32)
    overwrite(run_file, "series/blocks", (2 * 3 + 1) * BLOCK * 4, table)
    problems = verified(run_file).problems
    where = f"steps {2 * BLOCK * 3} to {3 * (3 * BLOCK - 1)}"
    assert problems[0] == f"{where}: the checksum of their values is wrong"
    assert any(
        problem.startswith(f"fc1.output.abs_max, {where}: its summary has low") for problem in problems
    )
    assert not any(problem.startswith(("fc1.output.l2", "loss")) for problem in problems)


@pytest.mark.parametrize("quantity", range(len(QUANTITIES)))
def test_a_wrong_summary_with_right_checksums(run_file: Path, quantity: int) -> None:
    """A bug in the writer: one number of one summary, sealed with the right checksum."""
    start = 4 * ((4 * 3 + 2) * len(QUANTITIES) + quantity)
    overwrite(run_file, "pyramid/block", start, np.array([12345.5], "<f4"))
    seal_block(run_file, layout(3), 4)
    (problem,) = verified(run_file).problems
    assert problem.startswith(f"loss, steps {4 * BLOCK * 3} to {(5 * BLOCK - 1) * 3}")
    assert f"its summary has {QUANTITIES[quantity]} 12345.5" in problem


def test_steps_that_do_not_rise(run_file: Path) -> None:
    """Also with right checksums, within a block and from one to the next."""
    overwrite(run_file, "series/step", 8 * (2 * BLOCK + 5), np.array([1], "<i8"))
    seal_block(run_file, layout(3), 2)
    assert any("the numbers of the steps do not rise" in problem for problem in verified(run_file).problems)


def test_the_ring_against_the_blocks(run_file: Path) -> None:
    """A row that is in both must be the same row."""
    newest = BLOCKS - 1
    with h5py.File(run_file) as file:
        values = file["series/blocks"][newest]
        summaries = {name: file[name][newest] for name in layout(3).levels}
    values[0, 3] = np.float32(1.5)
    overwrite(run_file, "series/blocks", newest * 3 * BLOCK * 4, values)
    for name, rows in layout(3).levels.items():
        made = summarise(np.ascontiguousarray(values.T), rows)
        overwrite(run_file, name, newest * summaries[name].nbytes, made)
    seal_block(run_file, layout(3), newest)
    step = 3 * (newest * BLOCK + 3)
    assert verified(run_file).problems == (f"step {step}: the row in the ring is not the one in its block",)


def test_what_a_kill_leaves_is_no_damage(run_file: Path) -> None:
    """Torn: the row after the newest one, or the newest one while it is amended and there is a copy of it."""
    for place in (ROWS % RING, (ROWS - 1) % RING):
        unfinished = run_file.with_name(f"{place}.h5")
        shutil.copy(run_file, unfinished)
        size = layout(3).row_bytes
        newest = ring_row(unfinished, (ROWS - 1) % RING)
        overwrite(unfinished, "live/head", 0, np.zeros(2 * HEAD_SLOT, np.uint8))
        killed = Head(sequence=9, rows=ROWS, blocks=BLOCKS, durable_blocks=BLOCKS)
        overwrite(unfinished, "live/head", 0, np.frombuffer(pack_head(killed), np.uint8))
        overwrite(unfinished, "live/ring", place * size + size // 2, np.full(size // 2, 7, np.uint8))
        assert bool(verified(unfinished).problems) == (place == (ROWS - 1) % RING)
        overwrite(unfinished, "live/amended", 0, newest)
        found = verified(unfinished)
        assert (found.problems, found.state) == ((), "killed")
        assert found.notes == ("the row that was being written at the end is not complete",)


def ring_row(path: Path, place: int) -> np.ndarray:
    """The words in a place of the ring."""
    with h5py.File(path) as file:
        return np.asarray(file["live/ring"][place])


def test_rows_that_are_not_there(run_file: Path) -> None:
    """A block without its entry, and a place in the ring that is empty."""
    overwrite(run_file, "live/index", 16 * 3, np.zeros(4, "<u4"))
    overwrite(run_file, "live/ring", 5 * layout(3).row_bytes, np.zeros(layout(3).row_bytes, np.uint8))
    problems = verified(run_file).problems
    assert any(f"rows {3 * BLOCK} to {4 * BLOCK - 1} are missing" in problem for problem in problems)
    assert any(problem.startswith("place 5 in the ring") for problem in problems)


def test_a_small_file_that_declares_a_huge_run(tmp_path: Path) -> None:
    """A head that claims 2^18 blocks of which none is there: verify tells the first and stops."""
    path, blocks = tmp_path / "run.h5", 1 << 18
    sizes = Layout(3, BLOCK, RING, blocks, 4)
    RunWriter.create(path, Header(COLUMNS), layout=sizes).close()
    head = pack_head(Head(9, blocks * BLOCK, blocks, blocks, state=1))
    for slot in (0, HEAD_SLOT):
        overwrite(path, "live/head", slot, np.frombuffer(head, np.uint8))
    found = verified(path)
    assert found.problems[-1].endswith("more problems")
    (looked,) = (note for note in found.notes if "were looked at" in note)
    assert int(looked.split()[4].replace(",", "")) < 2500


def test_libhdf5_must_find_the_same_chunks(compact_file: Path) -> None:
    """A chunk that somebody wrote anew with h5py lies elsewhere; the file's own list does not know."""
    with h5py.File(compact_file, "r+") as file:
        file["series/scalars"][0, :] = 1
    assert any("libhdf5 finds" in problem for problem in verified(compact_file).problems)


def test_one_damaged_part_among_several(tmp_path: Path) -> None:
    """The file is named."""
    with writing(tmp_path / "run.h5", 2, blocks=2) as writer:
        append_pattern(writer, 0, 5 * BLOCK, 2)
    overwrite(tmp_path / "run.part2.h5", "series/time", 8, np.array([1], "u1"))
    problems = verified(tmp_path / "run.h5").problems
    assert problems
    assert all(problem.startswith("run.part2.h5: ") for problem in problems)


def test_a_part_that_is_gone(tmp_path: Path) -> None:
    """What is missing as a whole is a problem, too."""
    with writing(tmp_path / "run.h5", 2, blocks=2) as writer:
        append_pattern(writer, 0, 5 * BLOCK, 2)
    (tmp_path / "run.part2.h5").unlink()
    assert any("part 2" in problem for problem in verified(tmp_path / "run.h5").problems)


tables = hnp.arrays(np.uint32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(patterns=tables)
def test_counting_again_agrees(patterns: np.ndarray) -> None:
    """Arbitrary bits, summarised by the writer's code and counted again by the other."""
    values = patterns.view(np.float32)
    with np.errstate(all="ignore"):
        summary = summarise(values, 7)
    assert list(disagreements(summary, values, 7)) == []


@pytest.mark.parametrize("quantity", range(len(QUANTITIES)))
def test_counting_again_notices(quantity: int) -> None:
    """One number off by a little, in one bucket of one column, is the only disagreement."""
    values = np.random.default_rng(0).normal(3, 1, (64, 4)).astype(np.float32)
    values[3, 1], values[4, 1], values[5, 1] = np.nan, np.inf, MISSING
    summary = summarise(values, 16)
    off = np.float32(1.0001) if quantity <= MEAN + 1 else np.float32(2)
    summary[2, quantity, 3] = summary[2, quantity, 3] * off + (off == 2)
    (found,) = disagreements(summary, values, 16)
    assert (found.column, found.cell, found.quantity) == (2, 3, QUANTITIES[quantity])
    assert bits(np.float32(found.stored)[None]) == bits(summary[2, quantity, 3][None])
