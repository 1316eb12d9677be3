"""The files of one run: `run.h5`, and `run.part2.h5` and so on when it was full or its sites changed."""

from __future__ import annotations

import re
from pathlib import Path

_PART = re.compile(r"\.part[0-9]+(-[0-9a-f]{8})?$")


def part_names(path: Path, part: int, run_id: str) -> tuple[Path, Path]:
    """Names that a further part of the run at `path` may have; the second where the first is taken."""
    return (
        path.with_name(f"{path.stem}.part{part}{path.suffix}"),
        path.with_name(f"{path.stem}.part{part}-{run_id[:8]}{path.suffix}"),
    )


def first_name(path: Path) -> Path:
    """Name of the first part, given that of any."""
    return path.with_name(_PART.sub("", path.stem) + path.suffix)
