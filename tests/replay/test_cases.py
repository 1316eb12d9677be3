"""Cases are found beside each other; links, marks and what is typed lead to a place."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanscope.diagnosis import diagnose
from nanscope.errors import RunFileError, UsageError
from nanscope.replay import goto, marks
from nanscope.replay.axis import Axis, Unit
from nanscope.replay.cases import Case, files_of, open_case, ordered, siblings_of
from nanscope.replay.link import Link, command, opened
from nanscope.replay.marks import Mark
from nanscope.replay.place import Place
from tests.builders import make_run
from tests.replay import story

SMALL = (1024, 32)


@pytest.fixture
def folder(files: dict[int, Path], tmp_path: Path) -> Path:
    """The two small cases in a folder that a test may change."""
    for batch in SMALL:
        shutil.copy(files[batch], tmp_path)
    return tmp_path


def in_memory(batch: int = 1024) -> Case:
    """A case of the story without its file."""
    run = story.case(batch)
    return Case(Path(f"digits-bs{batch}.h5"), run, diagnose(run))


def test_siblings_have_another_batch_size(folder: Path, files: dict[int, Path]) -> None:
    """Not the file itself, nor a copy of it, nor what is no run."""
    shutil.copy(files[32], folder / "again.h5")
    (folder / "broken.h5").write_bytes(b"no run file")
    found = siblings_of(open_case(folder / "digits-bs32.h5"))
    assert [case.label for case in found] == ["bs=1024"]


@pytest.mark.parametrize(
    ("setting", "value", "count"), [("lr", 0.2, 0), ("optimizer", "adam", 0), ("epochs", 3, 1)]
)
def test_another_experiment_is_no_sibling(
    tmp_path: Path, setting: str, value: float | str, count: int
) -> None:
    """Data, model, optimizer and lr must agree; how long it trained need not."""
    mine = story.write(tmp_path / "a.h5", story.case(1024))
    run = story.case(32, rows=30)
    config = {**run.header.config, setting: value}
    story.write(tmp_path / "b.h5", replace(run, header=replace(run.header, config=config)))
    assert len(siblings_of(open_case(mine))) == count


def test_the_largest_batch_is_first(folder: Path) -> None:
    """It is the baseline."""
    cases = ordered([open_case(folder / f"digits-bs{batch}.h5") for batch in sorted(SMALL)])
    assert [case.label for case in cases] == ["bs=1024", "bs=32"]


def test_a_folder_names_its_runs(folder: Path) -> None:
    """Once each, without the parts of a run; an empty one is said."""
    (folder / "x.part2.h5").write_bytes(b"")
    assert [path.name for path in files_of([folder, folder])] == ["digits-bs1024.h5", "digits-bs32.h5"]
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match="no run file"):
        files_of([folder / "empty"])


def test_what_is_no_run_file_is_refused(tmp_path: Path) -> None:
    """As the reader does."""
    (tmp_path / "x.h5").write_bytes(b"nothing")
    with pytest.raises(RunFileError):
        open_case(tmp_path / "x.h5")


@given(row=st.integers(0, 59), start=st.integers(0, 40), width=st.integers(10, 60), screen=st.integers(1, 6))
def test_a_link_opens_the_same_place(row: int, start: int, width: int, screen: int) -> None:
    """The command, read as its options are, leads back."""
    case = in_memory()
    place = Place(rows=60, module="fc2", screen=screen).window(start, start + width)
    place = replace(place, row=row).within()
    words = shlex.split(command(place, [case]))
    told = dict(zip(words[3:-1:2], words[4::2], strict=False))
    link = Link(int(told["--at"]), told["--layer"], told["--window"], int(told["--screen"]))
    assert opened(Place(rows=60, stop=60), case, link) == place


def test_a_link_with_a_window_alone_stands_in_it() -> None:
    """The playhead is never outside of what is shown."""
    place = opened(Place(rows=60, stop=60), in_memory(), Link(window="20:39"))
    assert (place.start, place.stop, place.row) == (20, 40, 20)


@pytest.mark.parametrize("link", [Link(layer="fc9"), Link(window="20"), Link(window="a:b")])
def test_a_link_to_nowhere_is_refused(link: Link) -> None:
    """In words."""
    with pytest.raises(UsageError):
        opened(Place(rows=60, stop=60), in_memory(), link)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("1204", 1204),
        ("1 204", 1204),
        ("1.2k", 1200),
        ("50%", 950),
        ("e3.5", 220),
        ("+1k", 1100),
        ("-50", 50),
        ("here", 7),
    ],
)
def test_what_is_typed_leads_to_a_row(text: str, row: int) -> None:
    """Each form, from row 100 of 1 900; an epoch has 63 steps."""
    assert goto.row_of(text, in_memory(32), 100, (Mark(7, "here"),)) == row


@pytest.mark.parametrize("text", ["abc", "", "1e3x", "%", "e", "nan"])
def test_what_is_no_place_is_refused(text: str) -> None:
    """Also `nan` in a run that has none."""
    with pytest.raises(UsageError):
        goto.row_of(text, in_memory(32), 100)


def test_marks_are_kept_beside_the_run(folder: Path) -> None:
    """One per step, by step; the run file stays as it was."""
    path = folder / "digits-bs32.h5"
    before = hashlib.sha256(path.read_bytes()).digest()
    marks.add(path, Mark(9, "late"))
    marks.add(path, Mark(3, "first"))
    assert marks.add(path, Mark(3, "second")) == marks.read(path) == (Mark(3, "second"), Mark(9, "late"))
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert sorted(p.name for p in folder.glob("*.marks*")) == ["digits-bs32.h5.marks.json"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", "3", "[1]", '[{"step": 1}]', '[{"step": Infinity, "note": ""}]',
     '[{"step": -1, "note": ""}]', '[{"step": 99999999999999999999, "note": ""}]', "[" * 100_000],
)  # fmt: skip
def test_a_spoilt_file_of_marks_holds_none(tmp_path: Path, text: str) -> None:
    """Nor does it end the replay."""
    marks.path_of(tmp_path / "run.h5").write_text(text)
    assert marks.read(tmp_path / "run.h5") == ()


def test_a_note_from_a_file_is_cleaned(tmp_path: Path) -> None:
    """It could hold what a terminal obeys."""
    entries = [{"step": 1, "note": "\x1b]2;x\x07"}]
    marks.path_of(tmp_path / "run.h5").write_text(json.dumps(entries))
    assert marks.read(tmp_path / "run.h5") == (Mark(1, "?]2;x?"),)


@pytest.mark.parametrize("samples", [4.0, [4.0] * 49 + [1.0], [3.0, 5.0] * 25])
@pytest.mark.parametrize("unit", list(Unit))
def test_the_axis_leads_back(samples: float | list[float], unit: Unit) -> None:
    """The last row at or before a position, as a look at every row finds it."""
    run = make_run(loss=[1.0] * 50, samples=samples, config={"batch_size": 4, "train_size": 20})
    case = Case(Path("run.h5"), run, diagnose(run))
    axis = Axis(case)
    at = [axis.at(row, unit) for row in range(50)]
    assert at == sorted(at)
    for position in (at[0], at[17], at[17] + 1e-3, (at[30] + at[31]) / 2, at[-1] + 9):
        assert axis.row(position, unit) == max(row for row in range(50) if at[row] <= position)


def test_samples_are_those_seen() -> None:
    """All alike: steps times the batch; else their sum."""
    for samples, expected in (([4.0] * 10, 24.0), ([4.0, 2.0] * 5, 18.0)):
        run = make_run(loss=[1.0] * 10, samples=samples)
        assert Axis(Case(Path("run.h5"), run, diagnose(run))).at(5, Unit.SAMPLES) == expected
