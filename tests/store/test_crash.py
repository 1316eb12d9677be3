"""Writers that are killed, forked, or run out of disk."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from nanscope.errors import UsageError
from nanscope.store import regions
from nanscope.store.reader import open_run
from nanscope.store.regions import write_all
from nanscope.store.writer import RunWriter
from tests.store.files import (
    BLOCK,
    RING,
    append_pattern,
    assert_pattern,
    full_beyond,
    header,
    layout,
    writing,
)


@pytest.mark.parametrize("columns", [2, 1100])
def test_a_disk_that_fills_up_and_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """One warning; the gap is told; what came before, the newest rows and what comes after are exact."""
    path = tmp_path / "run.h5"
    with writing(path, columns) as writer:
        append_pattern(writer, 0, 2 * BLOCK + 1, columns)
        while writer._live._done < 2 * BLOCK:
            writer._live._wake.set()
        monkeypatch.setattr(regions, "write_all", full_beyond(writer._live._regions.offsets["live/index"]))
        with pytest.warns(RuntimeWarning, match="No space left on device; the training goes on") as told:
            append_pattern(writer, 2 * BLOCK + 1, 3 * RING, columns)
        full = open_run(path)
        monkeypatch.setattr(regions, "write_all", write_all)
        writer._live._retry_at = 0.0
        append_pattern(writer, 3 * RING, 5 * RING, columns)
        writer.close()
    assert len(told) == 1
    assert 3 * np.arange(2 * BLOCK)[-1] in full.steps
    run = open_run(path)
    numbers = run.steps // 3
    assert_pattern(run, numbers)
    gap = np.flatnonzero(np.diff(numbers) > 1)
    assert len(gap) == 1
    assert numbers[gap[0]] == 2 * BLOCK - 1
    assert numbers[-1] == 5 * RING - 1
    assert run.lost == (f"{5 * RING - len(run):,} steps could not be written and are missing",)


FULL_DISK = """
import os, resource, sys
from pathlib import Path
from nanscope.store.writer import RunWriter
from tests.store.files import *
path = Path(sys.argv[1])
writer = RunWriter.create(path, header(2), layout=layout(2))
if sys.argv[2] == "limit":  # what is reserved can be written, nothing beyond it
    resource.setrlimit(resource.RLIMIT_FSIZE, (writer._live._regions.offsets["live/index"],) * 2)
if sys.argv[2] == "ring":  # from the second row on there is room for the head and the events only
    append_pattern(writer, 0, 1, 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (writer._live._regions.offsets["live/ring"],) * 2)
    append_pattern(writer, 1, 3 * RING, 2)
    writer.close()
    from nanscope.store.reader import open_run
    run = open_run(path)
    print(len(run), *run.lost)
    sys.exit()
if sys.argv[2] == "tmpfs":
    with open(path.with_name("filler"), "wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)): pass
        except OSError: pass
append_pattern(writer, 0, 3 * RING, 2)
writer.event("note", 5, text="still here")
writer.close()
from nanscope.store.reader import open_run
run = open_run(path)
assert_pattern(run, run.steps // 3)
print(run.state, len(run), run.steps[-1] // 3, run.events[0]["text"])
"""


def run_on_full_disk(*command: str) -> subprocess.CompletedProcess[str]:
    """Run the program above; its exit code must be 0 and it must warn once."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeWarning") == 1, done.stderr
    return done


def test_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes less than asked gets the rest; one that takes nothing is full."""
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:3], offset))
    with (tmp_path / "file").open("wb") as file:
        write_all(file.fileno(), b"0123456789", 2)
        monkeypatch.setattr(os, "pwrite", lambda *_: 0)
        with pytest.raises(OSError, match="No space left"):
            write_all(file.fileno(), b"x", 0)
    assert (tmp_path / "file").read_bytes() == b"\0\0" + b"0123456789"


def test_a_file_size_limit(tmp_path: Path) -> None:
    """`RLIMIT_FSIZE`: the training ends well, the newest rows and the events are in the file."""
    done = run_on_full_disk(sys.executable, "-c", FULL_DISK, str(tmp_path / "run.h5"), "limit")
    assert "File too large" in done.stderr
    assert done.stdout.split(maxsplit=3) == ["finished", str(RING), str(3 * RING - 1), "still here\n"]


def test_rows_that_not_even_the_ring_took(tmp_path: Path) -> None:
    """The file says how many: a run cut short by the disk must not pass for a whole one."""
    done = run_on_full_disk(sys.executable, "-c", FULL_DISK, str(tmp_path / "run.h5"), "ring")
    kept, lost, *words = done.stdout.split()
    assert int(kept) >= 1
    assert int(kept) + int(lost.replace(",", "")) == 3 * RING
    assert "more room" in " ".join(words)


def test_a_full_tmpfs(tmp_path: Path) -> None:
    """A real disk without a byte left: the same."""
    mount = f"mount -t tmpfs -o size=4m none {tmp_path}"
    probe = subprocess.run(["unshare", "--mount", "sh", "-c", mount], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("no right to mount a tmpfs")
    program = [sys.executable, "-c", FULL_DISK, str(tmp_path / "run.h5"), "tmpfs"]
    done = run_on_full_disk("unshare", "--mount", "sh", "-c", mount + ' && exec "$@"', "sh", *program)
    assert "No space left on device" in done.stderr
    state, _, last, text = done.stdout.split(maxsplit=3)
    assert (state, last, text) == ("finished", str(3 * RING - 1), "still here\n")


def test_no_space_for_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused in one line before anything has its name; nothing is left behind."""
    monkeypatch.setattr("nanscope.store.publish.write_all", full_beyond(100_000))
    with pytest.raises(UsageError, match=r"No space left on device.*free space or record elsewhere"):
        RunWriter.create(tmp_path / "run.h5", header(2), layout=layout(2))
    assert list(tmp_path.iterdir()) == []


def test_a_warning_made_an_error_does_not_reach_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-W error` and a disk that fails at once: append, event and close still return."""
    with warnings.catch_warnings(), writing(tmp_path / "run.h5", 2) as writer:
        warnings.simplefilter("error")
        monkeypatch.setattr(regions, "write_all", full_beyond(0))
        append_pattern(writer, 0, 2 * RING, 2)
        writer.event("note", 1)
        writer.amend(np.zeros(2, np.float32))
        writer.close()
    assert writer._live._warned


def test_rows_that_failed_are_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails for a moment costs nothing as long as the ring in memory holds the rows."""
    with writing(tmp_path / "run.h5", 2) as writer:
        append_pattern(writer, 0, 10, 2)
        monkeypatch.setattr(regions, "write_all", full_beyond(writer._live._regions.offsets["live/ring"]))
        with pytest.warns(RuntimeWarning, match="No space left"):
            append_pattern(writer, 10, 20, 2)
        monkeypatch.setattr(regions, "write_all", write_all)
        append_pattern(writer, 20, 30, 2)
        writer.close()
    run = open_run(tmp_path / "run.h5")
    assert_pattern(run, np.arange(30))
    assert run.lost == ()


def test_a_forked_child_gets_its_own_file(tmp_path: Path) -> None:
    """The child's rows never reach the parent's ring: both files are whole, each with its own rows."""
    path = tmp_path / "run.h5"
    with writing(path, 2) as writer:
        append_pattern(writer, 0, 100, 2)
        pid = os.fork()
        if pid == 0:  # the child must not come back into pytest, whatever happens
            try:
                append_pattern(writer, 0, RING + 5, 2)
                writer.event("note", 1, text="child")
                writer.close("interrupted")
            finally:
                os._exit(0)
        append_pattern(writer, 100, 2 * RING, 2)
        os.waitpid(pid, 0)
        writer.close()
    parent, child = open_run(path), open_run(tmp_path / f"run.fork{pid}.h5")
    assert (parent.state, child.state) == ("finished", "interrupted")
    assert_pattern(parent, np.arange(2 * RING))
    assert_pattern(child, np.arange(RING + 5))
    assert parent.events == ()
    assert child.events[0]["text"] == "child"


def test_a_forked_child_that_does_nothing_leaves_nothing(tmp_path: Path) -> None:
    """A data loader's worker: closing in the child neither closes the parent's run nor makes a file."""
    path = tmp_path / "run.h5"
    with writing(path, 2) as writer:
        append_pattern(writer, 0, 10, 2)
        pid = os.fork()
        if pid == 0:
            try:
                writer.close("failed")
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert open_run(path).state == "live"
        append_pattern(writer, 10, 20, 2)
    assert_pattern(open_run(path), np.arange(20))
    assert list(tmp_path.iterdir()) == [path]
