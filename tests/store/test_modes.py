"""When rows are written at once, and when they are left to the thread."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nanscope.store import live
from nanscope.store.live import ARMED_ROWS, LiveFile
from nanscope.store.reader import open_run
from nanscope.store.writer import RunWriter
from tests.store.files import append_pattern, header, layout, pattern

COST = 1e-5


@pytest.fixture
def writer(tmp_path: Path) -> RunWriter:
    """A writer without its thread; writing a row takes 10 microseconds."""
    made = RunWriter.create(tmp_path / "run.h5", header(2), layout=layout(2))
    made._live._stop.set()
    made._live._wake.set()
    made._live._thread.join()
    made._live._row_seconds = COST
    return made


def look(file: LiveFile, monkeypatch: pytest.MonkeyPatch, *, step_seconds: float, rows: int) -> bool:
    """Let so many rows pass at this pace; whether the file is in row mode then."""
    since, _ = file._looked
    file._done = file._freed = file.rows  # nothing is to be written in this test
    file.rows += rows
    now = since + step_seconds * rows
    monkeypatch.setattr(live, "clock", SimpleNamespace(monotonic=lambda: now))
    file._choose_mode()
    return file._row_mode


def test_the_mode_follows_the_pace(writer: RunWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row mode where a row costs up to 1 % of a step, batch mode where it costs more, and back."""
    file = writer._live
    assert file._row_mode
    paces = ((101 * COST, True), (99 * COST, False), (10 * COST, False), (200 * COST, True))
    for pace, expected in paces:
        assert look(file, monkeypatch, step_seconds=pace, rows=1000) == expected


def test_no_rows_or_too_short_a_look_change_nothing(
    writer: RunWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluation between two epochs is no slow step."""
    file = writer._live
    assert not look(file, monkeypatch, step_seconds=COST, rows=10_000)
    since, _ = file._looked
    monkeypatch.setattr(live, "clock", SimpleNamespace(monotonic=lambda: since + 100))
    file._choose_mode()
    assert not file._row_mode


def test_rows_that_matter_are_written_at_once(writer: RunWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `keep` for so many rows, whatever they cost; then the pace decides again."""
    file = writer._live
    assert not look(file, monkeypatch, step_seconds=COST, rows=10_000)
    writer.keep()
    assert file._row_mode
    assert look(file, monkeypatch, step_seconds=COST * 10, rows=ARMED_ROWS - 1)
    assert not look(file, monkeypatch, step_seconds=COST, rows=10_000)


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_a_mode_that_is_asked_for_stays(tmp_path: Path, mode: live.Mode) -> None:
    """At any pace; both write the same rows."""
    made = RunWriter.create(tmp_path / "run.h5", header(2), layout=layout(2), mode=mode)
    append_pattern(made, 0, 300, 2)
    assert made._live._row_mode == (mode == "row")
    made.close()
    table = open_run(tmp_path / "run.h5").source.block(0, 300)
    np.testing.assert_array_equal(table.view(np.uint32), pattern(0, 300, 2).view(np.uint32))


def test_from_batch_to_row_mode_no_row_is_left_behind(
    writer: RunWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that waited are in the file after one round, and those after them are written at once."""
    file = writer._live
    monkeypatch.setattr(file, "_call_thread", lambda: None)
    file._row_mode = False
    append_pattern(writer, 0, 20, 2)
    assert file._written == 0
    file._row_mode = True
    append_pattern(writer, 20, 25, 2)
    assert file._written == 0  # in order: nothing goes before the ones that wait
    file._round()
    append_pattern(writer, 25, 30, 2)
    assert file._written == 30
