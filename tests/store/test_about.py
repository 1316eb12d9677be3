"""`about`: what is in a run file, told from the file alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanscope.reporters import ABOUT_REPORTERS
from nanscope.run import Column, Header
from nanscope.store.about import about
from nanscope.store.compaction.compact import compact
from nanscope.store.layout import Layout
from nanscope.store.writer import RunWriter
from nanscope.values import Epoch
from tests.store.files import BLOCK, RING, append_pattern, header, layout, writing


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short names: a long one makes the last line, the next command, as long as it is."""
    monkeypatch.chdir(tmp_path)


def told(path: Path) -> str:
    """The text of `info`, its words with single blanks between them."""
    out = io.StringIO()
    ABOUT_REPORTERS["text"]([about(path)], out)
    assert max(map(len, out.getvalue().splitlines())) <= 80
    return " ".join(out.getvalue().split())


def test_parts_are_told_one_by_one() -> None:
    """Rows and sizes of each file, the sum of all; compacted, it is one file that holds three."""
    path = Path("run.h5")
    with writing(path, 2, blocks=2) as writer:
        append_pattern(writer, 0, 300, 2)
        writer.epoch(Epoch(1, 300, 10, 0.5, 1.0, 0.25, 0.1))
    found = about(path)
    assert [(file.part, file.rows) for file in found.files] == [(1, 128), (2, 128), (3, 44)]
    facts = found.to_dict()
    assert (facts["steps"], facts["last_step"], facts["epochs"]) == (300, 3 * 299, 1)
    files = sorted(Path().iterdir())
    assert facts["bytes"] == sum(file.stat().st_size for file in files)
    assert facts["bytes_on_disk"] == sum(512 * file.stat().st_blocks for file in files)
    assert facts["bytes_per_step"] == facts["bytes_on_disk"] / 300
    assert "run.part3.h5: part 3, live layout" in told(path)
    compact(path)
    (file,) = about(path).files
    assert (file.part, file.parts, file.layout, file.rows, file.capacity) == (1, 3, "compact", 300, None)
    assert "parts 1 to 3, compact layout" in told(path)


@pytest.mark.parametrize("form", ["live", "compact"])
def test_thinned_steps_are_told_as_ranges(form: str) -> None:
    """The steps between those that are kept whole."""
    path = Path("run.h5")
    writer = RunWriter.create(path, header(2), layout=Layout(2, BLOCK, RING, 40, 8))
    append_pattern(writer, 0, 20 * BLOCK, 2)
    writer.close()
    if form == "compact":
        compact(path)
    found = about(path)
    whole = [range(start, stop) for start, stop in found.run.source.whole()]
    kept = {3 * row for rows in whole for row in rows}
    gone = {step for first, last in found.thinned for step in range(first, last + 1, 3)}
    assert gone
    assert kept | gone == set(range(0, 3 * 20 * BLOCK, 3))
    assert not kept & gone
    first, last = found.thinned[0]
    assert f"of these steps only summaries are kept: {first} to {last}" in told(path)


def test_an_empty_run() -> None:
    """No step, no number made up."""
    with writing(Path("run.h5"), 1):
        pass
    facts = about(Path("run.h5")).to_dict()
    assert (facts["steps"], facts["first_step"], facts["seconds"], facts["bytes_per_step"]) == (
        0,
        None,
        None,
        None,
    )
    assert "Steps none" in told(Path("run.h5"))


def test_a_model_that_somebody_made_up() -> None:
    """Shapes in a foreign file may be anything; the sound ones are counted."""
    model = (
        {"name": "a", "parameters": {"weight": [2, 3], "bias": [2**60, 2**60], "odd": "x", "worse": [-1]}},
        {"name": "b", "parameters": "none"},
        {"parameters": {"scalar": [], "float": [1.5]}},
    )
    columns = (Column(None, "loss"),)
    argv = {"argv": "no list", "git_commit": ["x"], "seed": "\x1b[31m", "long": "a b " * 10**5}
    header_of = Header(columns, {"deep": {"a": [1]}}, argv, model)
    writer = RunWriter.create(Path("run.h5"), header_of, layout=layout(1))
    writer.append(0, 0.0, np.zeros(1, np.float32))
    writer.close()
    assert about(Path("run.h5")).to_dict()["parameters"] == 7
    text = told(Path("run.h5"))
    assert "\x1b" not in text
    assert len(text) < 5000


@pytest.mark.parametrize(("config", "shown"), [({"seed": 7}, "seed 7"), ({}, "torch seed 12345")])
def test_one_seed_is_told(config: dict[str, Any], shown: str) -> None:
    """The one that decides the training; torch's own, by that name, where the settings have none."""
    header_of = Header((Column(None, "loss"),), config, {"seed": 12345, "device": "cpu"}, ())
    writer = RunWriter.create(Path("run.h5"), header_of, layout=layout(1))
    writer.append(0, 0.0, np.zeros(1, np.float32))
    writer.close()
    text = told(Path("run.h5"))
    assert shown in text
    assert text.count("seed") == 1
