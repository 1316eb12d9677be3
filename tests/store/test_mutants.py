"""Five hundred damaged run files: each opens or is refused, and no signal, hang or other error gets out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from nanscope.store.compaction.compact import compact
from nanscope.store.guard.confine import WALL_SECONDS
from tests.store.crafts import sound
from tests.store.mutating import DAMAGES, Original, Outcome
from tests.store.sealing import lookup3

ROWS = 250  # finished blocks and newest rows, in one part
LONGEST = 2 * WALL_SECONDS  # the bound that the child is held to, on however slow a machine


@pytest.fixture(scope="module", params=["live", "compact"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound run file of each kind."""
    path = tmp_path_factory.mktemp(request.param) / "run.h5"
    sound(path, ROWS)
    if request.param == "compact":
        compact(path)
    return path


def test_mutants(original: Path, tmp_path: Path) -> None:
    """250 of each kind; a program of its own reads all that it gets of them, in bounded memory and time."""
    path = tmp_path / "mutant.h5"
    shutil.copy(original, path)
    program = [sys.executable, "-W", "error", "-m", "tests.store.mutating", str(path), "250", "1"]
    done = subprocess.run(program, cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    outcomes = [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]
    assert len(outcomes) == 250
    assert max(outcome.seconds for outcome in outcomes) < LONGEST
    assert {outcome.damage for outcome in outcomes} == {damage.__name__ for damage in DAMAGES}
    ends = Counter(outcome.words for outcome in outcomes)
    assert ends["alike"]
    assert ends["is damaged or cut short"] > 50
    assert path.read_bytes() == original.read_bytes()


def test_the_checksums_that_are_made_anew_are_those_of_hdf5(original: Path) -> None:
    """Sealed blocks of a sound file have the checksums that libhdf5 gave them."""
    found = Original.of(original)
    assert len(found.sealed) > 20
    for start, place in found.sealed:
        assert lookup3(found.data[start:place]) == int.from_bytes(found.data[place : place + 4], "little")
