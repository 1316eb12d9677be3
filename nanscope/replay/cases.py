"""Cases: runs that are looked at side by side, each with its diagnosis and what has been read of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nanscope.diagnosis import diagnose
from nanscope.errors import RunFileError, UsageError
from nanscope.facts import batch_of, updates_per_epoch
from nanscope.replay.columns import Reader
from nanscope.run import Run
from nanscope.store.reader import open_run
from nanscope.values import Diagnosis, Kind, Site
from nanscope.view import DERIVED, View, build_view

MOST_SIBLINGS = 8
MOST_FILES = 200  # of a folder that are opened to find them
APART = DERIVED | {"batch_size", "seed", "epochs", "device", "data_dir"}
"""Settings in which the cases of an experiment may differ."""
_PART = re.compile(r"\.part\d+$")


@dataclass(frozen=True)
class Case:
    """One run on the screen."""

    path: Path
    run: Run
    diagnosis: Diagnosis

    @cached_property
    def reader(self) -> Reader:
        """What has been read of it."""
        return Reader(self.run)

    @cached_property
    def view(self) -> View:
        """The answer in words."""
        return build_view(self.run, self.diagnosis)

    @cached_property
    def label(self) -> str:
        """`bs=1`, or the file's name."""
        batch = batch_of(self.run.header.config)
        return batch.replace("batch size ", "bs=") if batch else self.path.stem

    @cached_property
    def common(self) -> int:
        """How many of the words between dots all names of sites begin with; each has one more at least."""
        words = [site.name.split(".") for site in self.run.sites if site.name]
        common = 0
        while words and all(len(each) > common + 1 and each[common] == words[0][common] for each in words):
            common += 1
        return common

    @cached_property
    def per_epoch(self) -> int | None:
        """Steps of an epoch, where the settings tell."""
        return updates_per_epoch(self.run.header.config)

    @property
    def rows(self) -> int:
        """Recorded steps."""
        return len(self.run)

    @property
    def is_live(self) -> bool:
        """Whether it is still being written."""
        return self.run.state == "live"

    def step(self, row: int) -> int:
        """Number of the step that a row tells of."""
        return int(self.run.steps[row]) if 0 <= row < self.rows else row

    def row_of(self, step: int) -> int:
        """The last row at or before a step."""
        return max(0, min(self.rows, int(self.run.steps.searchsorted(step, "right"))) - 1)

    def sites(self, kind: Kind, stat: str) -> tuple[Site, ...]:
        """Where a stat was recorded, in order of execution."""
        found = [site for site in self.run.sites if site.kind is kind and self.run.has(site, stat)]
        return tuple(sorted(found, key=lambda site: (site.order < 0, site.order)))


def open_case(path: Path) -> Case:
    """One run and its diagnosis.

    Raises:
        RunFileError: the file is not a readable run file.
    """
    run = open_run(path)
    return Case(path, run, diagnose(run))


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files that the arguments name; a folder names the runs in it."""
    found: list[Path] = []
    for path in paths:
        inside = _runs_in(path) if path.is_dir() else [path]
        if not inside:
            raise UsageError(
                f"no run file in {path}", "make one: nanscope train --batch-size 1 -o DIR/run.h5"
            )
        found += inside
    return list(dict.fromkeys(found))


def newest() -> Path:
    """The newest run below runs/."""
    files = _runs_in(Path("runs"))
    if not files:
        raise UsageError("no run file below runs/", "name one, or make one: nanscope train --batch-size 1")
    return max(files, key=lambda path: path.stat().st_mtime)


def siblings_of(case: Case) -> list[Case]:
    """Runs of the same experiment in the same folder with other batch sizes; of a size the newest."""
    wanted = _experiment(case.run)
    mine = case.run.header.config.get("batch_size", case)
    if not wanted or mine is case:
        return []
    found: dict[Any, Case] = {}
    others = [path for path in _runs_in(case.path.parent) if not _is_same(path, case.path)]
    for path in sorted(others, key=lambda path: -path.stat().st_mtime)[:MOST_FILES]:
        other = _opened(path)
        size = mine if other is None else other.header.config.get("batch_size", mine)
        if other is not None and size not in (mine, *found) and _experiment(other) == wanted:
            found[size] = Case(path, other, diagnose(other))
    return list(found.values())[:MOST_SIBLINGS]


def ordered(cases: Sequence[Case]) -> list[Case]:
    """The largest batch first: it is what the others are compared with."""

    def size(case: Case) -> float:
        batch = case.run.header.config.get("batch_size", 0)
        return -float(batch) if isinstance(batch, int) else float("-inf")

    return sorted(cases, key=size)


def _opened(path: Path) -> Run | None:
    try:
        return open_run(path)
    except (RunFileError, OSError):
        return None


def _runs_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.h5") if not _PART.search(path.stem))


def _is_same(path: Path, other: Path) -> bool:
    return path.resolve() == other.resolve()


def _experiment(run: Run) -> Mapping[str, Any]:
    """The settings that must agree: data, model, optimizer, lr; nothing where none are on record."""
    settings = {key: value for key, value in run.header.config.items() if key not in APART}
    return settings and {**settings, "model": [entry.get("name") for entry in run.header.model]}
