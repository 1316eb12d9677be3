"""Compaction when something goes wrong: the run is there, as it was or compacted, and nothing else is."""

import _thread
import errno
import fcntl
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nanscope.errors import NanscopeError, RunFileError, UsageError
from nanscope.store.compaction import compact as compact_module
from nanscope.store.compaction import fill, temporary
from nanscope.store.compaction.compact import compact, compact_at_close
from nanscope.store.reader import open_run
from nanscope.store.writer import RunWriter
from tests.store.compact_faults import chosen, copied, counting, moments
from tests.store.compaction import HEADER, append, assert_same, facts, grow, record, small, snapshot_of
from tests.store.files import BLOCK

AT_THE_LIMIT = """
import resource, sys
from pathlib import Path
from nanscope.errors import UsageError
from nanscope.store.compaction.compact import compact
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        compact(Path(sys.argv[1]))
    except UsageError as error:
        print(error)
"""


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def test_a_kill_at_any_moment_leaves_the_run(tmp_path: Path) -> None:
    """SIGKILL before each call to the system: the run of three parts is the same before and after."""
    folder = tmp_path / "runs"
    folder.mkdir()
    grow(folder / "run.h5", 2000, 300)
    program = [sys.executable, "-m", "tests.store.compact_faults", str(folder)]
    lines = subprocess.run(program, check=True, capture_output=True, text=True).stdout.splitlines()
    results = [json.loads(line) for line in lines]
    assert {result["moment"] for result in results} >= {
        "write_all",
        "fsync",
        "replace",
        "sync_folder",
        "unlink",
    }
    for result in results:
        assert result["code"] == -9, result
        assert (result["same"], result["tidy"], result["whole"]) == (True, True, True), result
    left = [result["left"] for result in results if result["moment"] == "replace"]
    assert any(name.endswith(".tmp") for names in left for name in names)


def test_a_disk_that_fills_up_changes_nothing(tmp_path: Path) -> None:
    """No room at each write and sync: one clear error, the same bytes, no other file."""
    folder = tmp_path / "runs"
    folder.mkdir()
    record(folder / "run.h5", 2000)
    names = moments(folder / "run.h5")
    for moment in chosen(names[: names.index("replace") + 1]):

        def strike(number: int, _name: str, moment: int = moment) -> None:
            if number == moment:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with copied(folder) as copy:
            before = content(copy)
            with (
                counting(strike),
                pytest.raises(UsageError, match=r"cannot compact .*run.h5 \(No space left .*\): free space"),
            ):
                compact(copy / "run.h5")
            assert content(copy) == before


def test_a_limit_on_file_sizes_changes_nothing(tmp_path: Path) -> None:
    """EFBIG under libhdf5: an error each time, and the process ends in peace."""
    path = tmp_path / "run.h5"
    record(path, 2000)
    before = content(tmp_path)
    limits = ["0", "100", "3000", "10000", "20000", "40000"]
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_LIMIT, str(path), *limits], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(re.findall(r"\(File too large\): the file system or a limit", done.stdout)) == len(limits)
    assert content(tmp_path) == before
    compact(path)
    assert path.stat().st_size > int(limits[-1])


def test_an_interrupt_changes_nothing(tmp_path: Path) -> None:
    """Ctrl-C while it is written and while it is compared."""
    path = tmp_path / "run.h5"
    record(path, 10_000)
    before = content(tmp_path)
    for when in (1, 10_000, 10_001, 20_000):

        def press(done: int, _total: int, when: int = when) -> None:
            if done >= when:
                _thread.interrupt_main()

        with pytest.raises(KeyboardInterrupt):
            compact(path, progress=press)
        assert content(tmp_path) == before


def test_an_error_of_the_caller_changes_nothing(tmp_path: Path) -> None:
    """A progress bar that raises."""
    path = tmp_path / "run.h5"
    record(path, 100)
    before = content(tmp_path)

    def fail(_done: int, _total: int) -> None:
        raise RuntimeError("no bar")

    with pytest.raises(RuntimeError, match="no bar"):
        compact(path, progress=fail)
    assert content(tmp_path) == before


def test_a_wrong_bit_is_found_before_the_original_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit of one chunk, of every dataset in turn: the copy is refused, the run stays."""
    path = tmp_path / "run.h5"
    record(path, 3 * BLOCK)
    before, packs = content(tmp_path), 0
    real = fill.pack

    def flip(values: np.ndarray) -> bytes:
        nonlocal packs
        packs += 1
        if packs == target:
            values.reshape(-1).view(np.uint8)[len(values) // 2] ^= 1
        return real(values)

    monkeypatch.setattr(fill, "pack", flip)
    target = 1
    while refused(path):
        assert content(tmp_path) == before
        packs, target = 0, target + 1
    assert packs == target - 1 == 7 + 2 + 8  # columns that hold something, step and time, one level of each


def refused(path: Path) -> bool:
    """Whether the copy was found to differ."""
    try:
        compact(path)
    except RunFileError as error:
        return "was not compacted: the compacted copy differs in" in str(error)
    return False


@pytest.mark.parametrize("word", ["note", "lr", "fc1", "finished", "red"])
def test_a_wrong_word_is_found_before_the_original_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """Events, settings and names are compared, too."""
    path = tmp_path / "run.h5"
    record(path, 10)
    before = content(tmp_path)
    for place in ("compaction.file", "image"):
        real = __import__(f"nanscope.store.{place}", fromlist=["to_json"]).to_json
        monkeypatch.setattr(
            f"nanscope.store.{place}.to_json", lambda value, real=real: real(value).replace(word, word[::-1])
        )
    with pytest.raises(NanscopeError):
        compact(path)
    assert content(tmp_path) == before


def test_a_run_that_is_written_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """A writer that seemed dead wakes up: its file stays under its name."""
    path = tmp_path / "run.h5"
    record(path, 100)

    def write(_done: int, _total: int) -> None:
        os.utime(path, ns=(1, 1))

    with pytest.raises(UsageError, match="was changed while it was compacted"):
        compact(path, progress=write)
    assert open_run(path).source.rows == 100
    assert len(content(tmp_path)) == 1


def test_of_two_at_once_one_wins(tmp_path: Path) -> None:
    """The second one finishes while the first is still at work: the first gives up, the run is there once."""
    path = tmp_path / "run.h5"
    grow(path, 300, 200)
    expected = facts(path)
    winners: list[bool] = []

    def race(done: int, total: int) -> None:
        if done == total and not winners:
            winners.append(compact(path).done)

    with pytest.raises(UsageError, match=r"cannot compact .*No such file"):
        compact(path, progress=race)
    assert winners == [True]
    assert facts(path) == expected
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.h5"]


def test_what_a_killed_compaction_left_is_removed(tmp_path: Path) -> None:
    """But not what another one is working on, nor what belongs to another run."""
    path = tmp_path / "run.h5"
    record(path, 100)
    names = (".run.h5.compact-0.tmp", ".run.h5.compact-1.tmp", ".other.h5.compact-2.tmp", "run.h5.compact")
    for name in names:
        (tmp_path / name).write_bytes(b"left")
    with (tmp_path / names[1]).open("rb") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        compact(path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"run.h5", *names[1:]}


def test_without_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no locks nobody knows what is left and what is being worked on."""
    path = tmp_path / "run.h5"
    record(path, 100)
    (tmp_path / ".run.h5.compact-0.tmp").write_bytes(b"left")
    monkeypatch.setattr(temporary, "flock", None)
    compact(path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"run.h5", ".run.h5.compact-0.tmp"}


def test_a_short_run_is_compacted_at_close(tmp_path: Path) -> None:
    """It takes a moment, and the run is the same."""
    path = tmp_path / "run.h5"
    record(path, 1000)
    expected, before = facts(path), snapshot_of(open_run(path))
    done = compact_at_close(path, seconds=60)
    assert done is not None
    assert done.done
    assert facts(path) == expected
    assert_same(before, snapshot_of(open_run(path)))


def test_a_long_run_is_left_at_close(tmp_path: Path) -> None:
    """When it is estimated to take longer than it may, nothing is written."""
    path = tmp_path / "run.h5"
    record(path, 1000)
    before = content(tmp_path)
    assert compact_at_close(path, seconds=0) is None
    assert content(tmp_path) == before


def test_at_close_it_gives_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An estimate that was wrong does not keep the training waiting."""
    path = tmp_path / "run.h5"
    record(path, 1000)
    before = content(tmp_path)
    monkeypatch.setattr(compact_module, "_estimate", lambda _path: 0.0)
    assert compact_at_close(path, seconds=0) is None
    assert content(tmp_path) == before


@pytest.mark.filterwarnings("error")
def test_at_close_nothing_is_raised_or_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A full disk, a live run, no run at all: the training ends as it would without compaction."""
    path = tmp_path / "run.h5"
    writer = RunWriter.create(path, HEADER, layout=small())
    append(writer, 0, 100)
    assert compact_at_close(path, seconds=60) is None
    writer.close()

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    before = content(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("nanscope.store.compaction.through.write_all", full)
        assert compact_at_close(path, seconds=60) is None
    assert content(tmp_path) == before
    assert compact_at_close(tmp_path / "none.h5", seconds=60) is None
    assert capfd.readouterr() == ("", "")
