"""Files of every sort: live, cut short, foreign, newer."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from nanscope.errors import RunFileError
from nanscope.run import is_missing
from nanscope.store.head import HEAD_SLOT, Head, newest_head, pack_head
from nanscope.store.image import Identity, build_image
from nanscope.store.process import started
from nanscope.store.reader import open_run
from nanscope.store.recover import STALE_SECONDS, state_of
from nanscope.store.schema import arrays
from tests.store.files import BLOCK, RING, append_pattern, assert_pattern, header, layout, writing


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A sound run file with blocks, ring and events."""
    path = tmp_path / "run.h5"
    with writing(path, 2) as writer:
        append_pattern(writer, 0, RING + 10, 2)
        writer.event("note", 1, text="hello")
    return path


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Change bytes of a file in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def offset_of(path: Path, dataset: str) -> int:
    """Where a dataset begins, as plain h5py sees it."""
    with h5py.File(path) as file:
        return int(file[dataset].id.get_offset())


def test_a_live_run_shows_the_moment_of_opening(tmp_path: Path) -> None:
    """Rows that come later are not in it, also once they have overwritten the ring; a new look has them."""
    path = tmp_path / "run.h5"
    with writing(path, 2) as writer:
        append_pattern(writer, 0, BLOCK + 7, 2)
        early = open_run(path)
        append_pattern(writer, BLOCK + 7, 3 * RING, 2)
        late = open_run(path)
        assert (early.state, late.state) == ("live", "live")
        assert_pattern(early, np.arange(BLOCK + 7))
        assert_pattern(late, np.arange(3 * RING))


def test_reading_while_it_is_written(tmp_path: Path) -> None:
    """Each look between and during appends is a sound prefix, and it never gets shorter."""
    path = tmp_path / "run.h5"
    program = (
        "import sys; from pathlib import Path; from tests.store.files import *\n"
        "with writing(Path(sys.argv[1]), 3) as writer:\n"
        "    print('ready', flush=True)\n"
        "    append_pattern(writer, 0, 40 * RING, 3)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        lengths = [0]
        while child.poll() is None:
            run = open_run(path)
            assert run.lost == ()
            assert_pattern(run, np.arange(len(run)))
            lengths.append(len(run))
    assert lengths == sorted(lengths)
    assert len(open_run(path)) == 40 * RING


def test_a_reader_that_stays_does_not_disturb_the_writer(tmp_path: Path) -> None:
    """Plain h5py holds the file open, with its lock, while rows go on and the file is closed."""
    path = tmp_path / "run.h5"
    with writing(path, 2) as writer, h5py.File(path) as held:
        append_pattern(writer, 0, 2 * RING, 2)
        writer.close()
        assert held.attrs["format"] == "nanscope-run"
    assert_pattern(open_run(path), np.arange(2 * RING))


def test_plain_h5py_reads_everything(run_file: Path) -> None:
    """Names, texts, blocks and steps need no nanscope; every numeric dataset has unit and meaning."""
    run = open_run(run_file)
    with h5py.File(run_file) as file:
        assert json.loads(file["config"].asstr()[()]) == {}
        assert list(file["series/scalar"].asstr()[:]) == ["s0", "s1"]
        blocks = file["series/blocks"][: RING // BLOCK].transpose(0, 2, 1).reshape(-1, 2)
        np.testing.assert_array_equal(blocks, run.source.block(0, RING))
        np.testing.assert_array_equal(file["series/step"][:RING], run.steps[:RING])
        for group in ("live", "pyramid"):
            for dataset in file[group].values():
                assert set(dataset.attrs) == {"units", "long_name"}


def test_a_copy_without_holes_is_the_same_run(run_file: Path, tmp_path: Path) -> None:
    """Moved or copied byte by byte into a read-only file."""
    copy = tmp_path / "copy.h5"
    copy.write_bytes(run_file.read_bytes())
    copy.chmod(0o444)
    run_file.unlink()
    run = open_run(copy)
    assert_pattern(run, np.arange(RING + 10))
    assert run.events[0]["text"] == "hello"


@pytest.mark.parametrize("share", [0.0, 1e-7, 1e-5, 0.001, 0.3, 0.9, 0.999999])
def test_a_file_cut_short_is_refused(run_file: Path, share: float) -> None:
    """At any length, in one sentence, with no traceback from below in its place."""
    os.truncate(run_file, int(run_file.stat().st_size * share))
    with pytest.raises(RunFileError, match=r"cut short: copy it again|not an HDF5 file"):
        open_run(run_file)


def test_a_file_cut_short_while_it_is_open(run_file: Path) -> None:
    """The next request says so; nothing is made up."""
    run = open_run(run_file)
    os.truncate(run_file, 100_000)
    with pytest.raises(RunFileError, match="became shorter while it was read"):
        run.source.column(0, 0, len(run))


def test_names_without_a_run_file(tmp_path: Path) -> None:
    """Missing, a folder, a FIFO (which must not block), a socket, text, no HDF5, other HDF5."""
    (tmp_path / "text.h5").write_text("hello")
    os.mkfifo(tmp_path / "fifo.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(3)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.h5"))
    for name, words in {
        "missing.h5": "cannot be read (No such file or directory): check the name",
        "nul\0.h5": "cannot be read",
        ".": "is a folder",
        "fifo.h5": "is not a regular file",
        "socket.h5": "cannot be read",
        "text.h5": "is not an HDF5 file",
        "other.h5": "is an HDF5 file but no nanscope run file",
    }.items():
        with pytest.raises(RunFileError, match=re.escape(words)) as caught:
            open_run(tmp_path / name)
        assert caught.value.hint
        assert "\n" not in str(caught.value)


def test_versions(run_file: Path) -> None:
    """A higher minor version opens; a higher major one is refused with what to do."""
    with h5py.File(run_file, "r+") as file:
        file.attrs["format_version"] = "1.7"
        file.create_group("something_new")
    assert len(open_run(run_file)) == RING + 10
    with h5py.File(run_file, "r+") as file:
        file.attrs["format_version"] = "2.0"
        file.attrs["nanscope_version"] = "9.1\x1b"
    with pytest.raises(RunFileError, match=r"written by nanscope 9\.1\? in format 2\.0.*pip install -U"):
        open_run(run_file)


@pytest.mark.parametrize(
    "name", ["config", "columns/site", "series/blocks", "live/ring", "live/head", "pyramid/block"]
)
def test_a_file_with_a_part_missing_is_refused(run_file: Path, name: str) -> None:
    """Ours by its format, but not by its content."""
    with h5py.File(run_file, "r+") as file:
        del file[name]
    with pytest.raises(RunFileError, match="damaged"):
        open_run(run_file)


def test_columns_that_do_not_fit_the_rows_are_refused(run_file: Path) -> None:
    """Two values in a row, one column named."""
    with h5py.File(run_file, "r+") as file:
        for name in ("columns/site", "columns/stat"):
            first = file[name][:1]
            del file[name]
            file[name] = first
    with pytest.raises(RunFileError, match="damaged"):
        open_run(run_file)


@pytest.mark.parametrize("name", ["live/ring", "series/blocks", "series/step"])
def test_a_dataset_of_another_kind_is_refused(run_file: Path, name: str) -> None:
    """Same name and shape, but chunked: its bytes lie elsewhere."""
    with h5py.File(run_file, "r+") as file:
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        file.create_dataset(name, shape, dtype, chunks=True)
    with pytest.raises(RunFileError, match="damaged"):
        open_run(run_file)


def test_a_damaged_row_is_left_out(run_file: Path) -> None:
    """One flipped bit in the ring: that row is missing and said so, no other."""
    start = offset_of(run_file, "live/ring") + 5 * layout(2).row_bytes
    overwrite(run_file, start + 30, b"\xa5")
    run = open_run(run_file)
    assert_pattern(run, np.delete(np.arange(RING + 10), RING + 5))
    assert run.lost == ("1 steps could not be written and are missing",)


def test_the_tail_of_a_live_run_has_no_gap(run_file: Path) -> None:
    """Beyond what the head counted, reading stops at the first gap: the writer may just have been there."""
    overwrite(run_file, offset_of(run_file, "live/head"), pack_head(Head(sequence=10**6, rows=RING + 2)))
    start = offset_of(run_file, "live/ring") + 5 * layout(2).row_bytes
    overwrite(run_file, start + 30, b"\xa5")
    assert_pattern(open_run(run_file), np.arange(RING + 5))


def test_a_block_that_was_not_synced_must_prove_itself(tmp_path: Path) -> None:
    """After a power cut: damaged values above the durable blocks are left out, with their neighbours kept."""
    path = tmp_path / "run.h5"
    with writing(path, 2) as writer:
        append_pattern(writer, 0, 3 * RING, 2)
    head = Head(sequence=10**6, rows=3 * RING, durable_blocks=2)
    overwrite(path, offset_of(path, "live/head"), pack_head(head))
    for block in (1, 4):
        overwrite(path, offset_of(path, "series/blocks") + block * BLOCK * 8 + 100, b"\xa5\x5a")
    run = open_run(path)
    missing = is_missing(run.source.block(0, len(run))).all(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(missing), np.arange(4 * BLOCK, 5 * BLOCK))
    np.testing.assert_array_equal(run.steps, 3 * np.arange(3 * RING))
    assert run.lost == (f"the values of {BLOCK} steps are unreadable, their summaries are there",)


@pytest.mark.parametrize("name", ["series/step", "series/time", "pyramid/block"])
def test_a_summary_that_was_not_synced_must_prove_itself(tmp_path: Path, name: str) -> None:
    """Without its steps or its summaries a block is left out as a whole."""
    path = tmp_path / "run.h5"
    with writing(path, 2) as writer:
        append_pattern(writer, 0, 3 * RING, 2)
    sizes = {array.name: array.nbytes // layout(2).blocks for array in arrays(layout(2))}
    overwrite(path, offset_of(path, "live/head"), pack_head(Head(sequence=10**6, rows=3 * RING)))
    overwrite(path, offset_of(path, name) + 4 * sizes[name] + 9, b"\xa5\x5a")
    run = open_run(path)
    assert_pattern(run, np.delete(np.arange(3 * RING), np.arange(4 * BLOCK, 5 * BLOCK)))
    assert run.lost == (f"{BLOCK} steps could not be written and are missing",)


def test_a_torn_head_leaves_the_one_before(run_file: Path) -> None:
    """One slot damaged: the other counts. Both damaged: the rows are still found, and that is said."""
    start = offset_of(run_file, "live/head")
    heads = run_file.read_bytes()[start : start + 2 * HEAD_SLOT]
    newest = newest_head(heads)
    assert newest is not None
    newer = start + newest.sequence % 2 * HEAD_SLOT
    overwrite(run_file, newer + 8, b"\xff")
    assert newest_head(run_file.read_bytes()[start : start + 2 * HEAD_SLOT]) is not None
    assert_pattern(open_run(run_file), np.arange(RING + 10))
    overwrite(run_file, start, bytes(2 * HEAD_SLOT))
    run = open_run(run_file)
    assert_pattern(run, np.arange(RING + 10))
    assert run.state == "killed"
    assert run.lost == (
        "the writer's record of its progress is unreadable; rows were found by their checksums",
    )


def test_a_torn_event_is_counted(run_file: Path) -> None:
    """Its neighbours are kept."""
    start = offset_of(run_file, "live/events")
    first = run_file.read_bytes()[start : start + 1000].split(b"\n")[0]
    overwrite(run_file, start + len(first) + 1, b'00000000 {"kind": "torn", "step": 0}\n' + first + b"\n")
    run = open_run(run_file)
    assert [event["kind"] for event in run.events] == ["note", "note"]
    assert run.lost == ("1 events are unreadable",)


def test_states_of_an_unclosed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here: live while the process is there. Elsewhere: while its heart beats, by either clock."""
    monkeypatch.setattr("nanscope.store.recover.time.time", lambda: 1000.0)
    monkeypatch.setattr("nanscope.store.recover.platform.node", lambda: "here")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    alive = Head(heartbeat=1000.0, pid=os.getpid())
    assert state_of(alive, "here") == "live"
    assert state_of(alive._replace(pid=gone.pid), "here") == "killed"
    assert state_of(alive._replace(pid=gone.pid), "elsewhere") == "live"
    assert state_of(alive._replace(heartbeat=1000.0 - STALE_SECONDS - 1), "elsewhere") == "killed"
    assert state_of(alive._replace(heartbeat=1000.0 + STALE_SECONDS + 1), "elsewhere") == "killed"
    assert state_of(alive._replace(heartbeat=0.0), "here") == "live"  # stopped, or the clock was set
    assert state_of(alive._replace(started=started(os.getpid())), "here") == "live"
    assert state_of(alive._replace(started=started(os.getpid()) + 1), "here") == "killed"  # another process
    assert state_of(alive._replace(state=3, heartbeat=0.0), "here") == "failed"


def test_the_reader_needs_no_torch(run_file: Path) -> None:
    """A run opens on a machine without torch, and without the libraries of the screens."""
    program = (
        "import sys; from nanscope.store.reader import open_run; print(len(open_run(sys.argv[1])));"
        "print([name for name in ('torch', 'rich', 'textual', 'click', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run_file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == [str(RING + 10), "[]"]


def test_a_run_keeps_its_file_when_the_name_goes(run_file: Path) -> None:
    """Deleted or replaced while it is open: the run still shows what it was opened on."""
    run = open_run(run_file)
    other = run_file.with_name("other.h5")
    shutil.copy(run_file, other)
    other.replace(run_file)
    run_file.unlink()
    assert_pattern(run, np.arange(RING + 10))


def test_pieces_of_a_new_file_are_small() -> None:
    """The metadata of a wide file: far below the room that is reserved for it, and all of it at the start."""
    image = build_image(header(1000), layout(1000), Identity("0" * 32))
    assert sum(len(piece) for _, piece in image.pieces) < 200_000
    assert image.size > 200_000_000
