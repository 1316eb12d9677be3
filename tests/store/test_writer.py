"""What a writer promises while nothing breaks, and when its caller asks for odd things."""

import hashlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from nanscope.errors import RunFileExistsError, UsageError
from nanscope.run import Column, Header
from nanscope.store import publish
from nanscope.store import writer as writer_module
from nanscope.store.layout import Layout
from nanscope.store.reader import open_run
from nanscope.store.schema import EVENT_BYTES
from nanscope.store.writer import RunWriter
from nanscope.values import Epoch, Kind, Site
from tests.store.files import (
    BLOCK,
    RING,
    append_pattern,
    assert_pattern,
    bits,
    header,
    layout,
    pattern,
    writing,
)


@pytest.mark.parametrize("columns", [2, 1100])
@pytest.mark.parametrize("rows", [1, 5, BLOCK, BLOCK + 1, RING, RING + 1])
def test_amend_replaces_the_newest_row(tmp_path: Path, columns: int, rows: int) -> None:
    """Also where the newest row is the last of a block or of the ring, and in batch mode."""
    other = pattern(10**6, 10**6 + 1, columns)
    with writing(tmp_path / "run.h5", columns) as writer:
        append_pattern(writer, 0, rows, columns)
        writer.amend(other[0])
        writer.close()
    table = open_run(tmp_path / "run.h5").source.block(0, rows)
    np.testing.assert_array_equal(bits(table), bits(np.concatenate([pattern(0, rows - 1, columns), other])))


def test_amend_again_and_append_after_it(tmp_path: Path) -> None:
    """Every row amended, as a user does who logs a scalar after each step."""
    with writing(tmp_path / "run.h5", 2) as writer:
        for i in range(RING + BLOCK):
            writer.append(3 * i, i / 8, np.zeros(2, np.float32))
            writer.amend(pattern(i, i + 1, 2)[0])
    assert_pattern(open_run(tmp_path / "run.h5"), np.arange(RING + BLOCK))


def test_the_newest_row_stays_open_to_amend(tmp_path: Path) -> None:
    """A row that completes its block is not taken into the block before another one follows."""
    other = pattern(10**6, 10**6 + 1, 2)
    with writing(tmp_path / "run.h5", 2) as writer:
        stop_thread(writer)
        append_pattern(writer, 0, BLOCK, 2)
        writer._live._round()
        writer.amend(other[0])
        append_pattern(writer, BLOCK, BLOCK + 1, 2)
        writer._live._round()
        assert writer._live._done == BLOCK
        table = open_run(tmp_path / "run.h5").source.block(BLOCK - 1, BLOCK)
    np.testing.assert_array_equal(bits(table), bits(other))


def stop_thread(writer: RunWriter) -> None:
    """The thread leaves; the test makes its rounds, or nobody."""
    writer._live._stop.set()
    writer._live._wake.set()
    writer._live._thread.join()


def test_amend_without_a_row_does_nothing(tmp_path: Path) -> None:
    """A scalar logged before the first step has no row to go to."""
    with writing(tmp_path / "run.h5", 1) as writer:
        writer.amend(np.zeros(1, np.float32))
    assert len(open_run(tmp_path / "run.h5")) == 0


def test_spare_columns_take_names(tmp_path: Path) -> None:
    """A new scalar takes the next spare column; a known name keeps its own; none is left in the end."""
    columns = (Column(None, "loss"), Column(None, ""), Column(None, ""))
    writer = RunWriter.create(tmp_path / "run.h5", Header(columns), layout=layout(3))
    assert [writer.name_scalar(name) for name in ("accuracy", "loss", "f1", "accuracy", "more", "")] == [
        1,
        0,
        2,
        1,
        None,
        None,
    ]
    writer.append(0, 0.0, np.array([1, 2, 3], np.float32))
    run = open_run(tmp_path / "run.h5")
    writer.close()
    assert run.scalars == ("loss", "accuracy", "f1")
    assert run.scalar("f1").tolist() == [3]
    assert run.events == ()


def test_events_come_back_in_order(tmp_path: Path) -> None:
    """With numbers that are not finite, numpy's types, nested values and any text."""
    with writing(tmp_path / "run.h5", 1) as writer:
        writer.event("note", 3, text='line\n"quoted" \u5c42 \x1b[31m', inf=float("-inf"))
        writer.event("found", np.int64(4), count=np.float32(2.5), shape=(2, 3), site=Kind.GRAD)
        run = open_run(tmp_path / "run.h5")
    assert run.events == (
        {"kind": "note", "step": 3, "text": 'line\n"quoted" \u5c42 ?[31m', "inf": float("-inf")},
        {"kind": "found", "step": 4, "count": 2.5, "shape": [2, 3], "site": "grad"},
    )
    assert run.events_of("found") == run.events[1:]


def test_events_that_cannot_be_stored_are_counted(tmp_path: Path) -> None:
    """A value that holds itself, and one that is larger than what is left; the next small one is kept."""
    loop: list[object] = []
    loop.append(loop)
    with writing(tmp_path / "run.h5", 1) as writer:
        writer.event("loop", 0, value=loop)
        writer.event("large", 1, text="x" * EVENT_BYTES)
        writer.event("small", 2)
        writer.close()
        run = open_run(tmp_path / "run.h5")
    assert [event["kind"] for event in run.events] == ["small"]
    assert run.lost == ("2 events found no room and were not recorded",)


def test_epochs_come_back(tmp_path: Path) -> None:
    """NaN in the metrics stays NaN; a confusion matrix above 100 classes is left out."""
    small = Epoch(1, 10, 10, 0.5, 2.5, 0.1, 0.02, ((1, 2), (3, 4)))
    large = Epoch(2, 20, 10, 0.5, 1.5, 0.1, 0.02, ((0,) * 101,) * 101)
    with writing(tmp_path / "run.h5", 1) as writer:
        writer.epoch(small)
        writer.epoch(large)
        writer.epoch(Epoch(3, 30, 10, 0.5, float("nan"), 0.1, 0.0))
        run = open_run(tmp_path / "run.h5")
    assert run.epochs[0] == small
    assert run.epochs[1] == Epoch(2, 20, 10, 0.5, 1.5, 0.1, 0.02)
    assert np.isnan(run.epochs[2].loss)
    assert run.events == ()


@pytest.mark.parametrize("state", ["finished", "interrupted", "failed"])
def test_close_says_how_the_run_ended(tmp_path: Path, state: str) -> None:
    """Only the first close counts, and what comes after it is ignored."""
    with writing(tmp_path / "run.h5", 1) as writer:
        append_pattern(writer, 0, 3, 1)
        writer.close(state)
        writer.close("finished")
        append_pattern(writer, 3, 6, 1)
        writer.amend(np.zeros(1, np.float32))
        writer.event("late", 9)
    run = open_run(tmp_path / "run.h5")
    assert run.state == state
    assert_pattern(run, np.arange(3))
    assert run.events == ()


def test_a_taken_name_is_left_alone(tmp_path: Path) -> None:
    """A second recorder is told so; the file there keeps every byte, and no other file is left."""
    path = tmp_path / "run.h5"
    with writing(path, 2) as writer:
        append_pattern(writer, 0, 5, 2)
    before = hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(RunFileExistsError, match=r"run\.h5 exists .*choose another name"):
        RunWriter.create(path, header(2), layout=layout(2))
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_taken_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two recorders that both saw the name free: the second one still does not overwrite."""
    path = tmp_path / "run.h5"
    monkeypatch.setattr(publish, "_refuse_existing", lambda _: path.write_text("first"))
    with pytest.raises(RunFileExistsError):
        RunWriter.create(path, header(1), layout=layout(1))
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("taken", [False, True])
def test_file_systems_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, taken: bool
) -> None:
    """The name is taken another way there, and still never over another file."""
    path = tmp_path / "run.h5"

    def refuse(*_: object) -> None:
        if taken:
            path.write_text("first")
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(publish.os, "link", refuse)
    if taken:
        with pytest.raises(RunFileExistsError):
            RunWriter.create(path, header(1), layout=layout(1))
        assert path.read_text() == "first"
    else:
        RunWriter.create(path, header(1), layout=layout(1)).close()
        assert open_run(path).state == "finished"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/sys/run.h5", r"cannot record into /sys/run\.h5 \((Permission denied|Read-only).*record elsewhere"),
        ("{tmp}/no/run.h5", r"No such file or directory.*make its folder first"),
        ("{tmp}/file/run.h5", r"Not a directory.*its folder is a file"),
    ],
)
def test_folders_that_take_no_file(tmp_path: Path, path: str, words: str) -> None:
    """Read-only (one that refuses root too), missing, not a folder: one line with what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=words):
        RunWriter.create(Path(path.format(tmp=tmp_path)), header(1), layout=layout(1))


def test_a_row_needs_a_column(tmp_path: Path) -> None:
    """A file of empty rows would record nothing."""
    with pytest.raises(UsageError, match="at least one column"):
        RunWriter.create(tmp_path / "run.h5", Header(()))


def test_the_layout_bounds_the_memory() -> None:
    """At any width the ring takes at most 16 MiB, and the file has room for the run and more."""
    for columns in (1, 230, 1024, 6000):
        for capacity in (None, 10, 3_000_000):
            sizes = Layout.for_run(columns, capacity)
            assert sizes.ring * sizes.row_bytes <= 16 << 20
            assert sizes.ring == 4 * sizes.block
            assert sizes.rows >= min(max(capacity or 2**20, 2**16), 1_500_000)


def test_no_hdf5_handle_stays_open(tmp_path: Path) -> None:
    """libhdf5 never holds the run file in the trainer: its crash cannot become the run's."""
    before = h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_ALL)
    with writing(tmp_path / "run.h5", 1) as writer:
        append_pattern(writer, 0, 1, 1)
        assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_ALL) == before


def test_a_training_that_outruns_the_disk_waits_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a disk that hangs, rows that find no room are dropped and counted; the rest is sound."""
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    with writing(tmp_path / "run.h5", 1) as writer:
        stop_thread(writer)  # nobody frees the ring
        monkeypatch.setattr(writer._live, "_call_thread", lambda: None)
        fake = SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep, time=lambda: 0.0)
        monkeypatch.setattr("nanscope.store.live.clock", fake)
        append_pattern(writer, 0, RING, 1)
        with pytest.warns(RuntimeWarning, match="the disk is too slow"):
            append_pattern(writer, RING, RING + 10, 1)
        assert 1.0 <= clock.now < 1.1  # it waited once, for the first of the ten
        writer.close()
    run = open_run(tmp_path / "run.h5")
    assert_pattern(run, np.arange(RING))
    (lost,) = run.lost
    assert lost.startswith("10 steps found no room and were not recorded: ")


def test_without_a_thread_the_training_makes_the_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread to be had (a limit on processes): every row, every block and the end are written."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    writer = RunWriter.create(tmp_path / "run.h5", header(2), layout=layout(2), mode="batch")
    append_pattern(writer, 0, 3 * RING + 5, 2)
    writer.close()
    monkeypatch.undo()
    run = open_run(tmp_path / "run.h5")
    assert_pattern(run, np.arange(3 * RING + 5))
    assert (run.state, run.lost) == ("finished", ())


def test_an_error_in_the_thread_costs_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is: one warning, and the next round goes on."""
    with writing(tmp_path / "run.h5", 2) as writer:
        failing = iter([ValueError("odd")])
        write = writer._live._put_block

        def put_block(number: int) -> None:
            for error in failing:
                raise error
            write(number)

        monkeypatch.setattr(writer._live, "_put_block", put_block)
        with pytest.warns(RuntimeWarning, match=r"ValueError\('odd'\); the training goes on"):
            append_until_warned(writer)
        writer._live._retry_at = 0.0  # it tries again after a second; this test does not wait for it
        append_pattern(writer, 2 * BLOCK, 3 * RING, 2)
        writer.close()
    assert_pattern(open_run(tmp_path / "run.h5"), np.arange(3 * RING))


def append_until_warned(writer: RunWriter) -> None:
    """Two blocks of rows, and wait until the thread has met the error."""
    append_pattern(writer, 0, 2 * BLOCK, 2)
    while not writer._live._warned:
        writer._live._wake.set()


def test_a_kill_in_the_midst_of_an_amend_leaves_a_row(tmp_path: Path) -> None:
    """The row torn in its place, as between two pages of the write: the amended one counts."""
    path, other = tmp_path / "run.h5", pattern(10**6, 10**6 + 1, 2)
    with writing(path, 2) as writer:
        append_pattern(writer, 0, 10, 2)
        writer.amend(other[0])
        writer._live._regions.write("live/ring", b"\xa5\x5a", 9 * writer._live.layout.row_bytes + 26)
        run = open_run(path)
        row = run.source.block(9, 10)
    assert len(run) == 10
    np.testing.assert_array_equal(bits(row), bits(other))


def test_a_file_is_live_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens it between its publication and the writer's first act sees a live, sound run."""
    seen = []
    publish_file = writer_module.publish

    def look(path: Path, *arguments: Any) -> int:
        descriptor = publish_file(path, *arguments)
        seen.append(open_run(path))
        return descriptor

    monkeypatch.setattr(writer_module, "publish", look)
    with writing(tmp_path / "run.h5", 2):
        assert (seen[0].state, seen[0].lost, len(seen[0])) == ("live", (), 0)


def test_hostile_names_are_kept_as_data(tmp_path: Path) -> None:
    """Escape sequences, bidi controls, NUL, lone surrogates, markup, 10,000 letters: cleaned, not obeyed."""
    names = ["\x1b]2;x\x07", "a\u202eb", "nul\0nul", "\ud800", "[/red]</script>", "x" * 10_000, "\u5c421"]
    columns = (
        *(Column(Site(name, Kind.OUTPUT, module_type=name), "l2") for name in names),
        Column(None, "\x9b1m"),
        Column(None, ""),
    )
    writer = RunWriter.create(tmp_path / "run.h5", Header(columns, {"name": "\x1b[2J"}), layout=layout(9))
    writer.name_scalar("spare\x1b")
    writer.close()
    run = open_run(tmp_path / "run.h5")
    assert [site.name for site in run.sites] == [
        "?]2;x?",
        "a?b",
        "nul?nul",
        "?",
        "[/red]</script>",
        "x" * 10_000,
        "\u5c421",
    ]
    assert run.scalars == ("?1m", "spare?")
    assert run.header.config == {"name": "?[2J"}
