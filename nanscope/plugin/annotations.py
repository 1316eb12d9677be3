"""What others are told of a failure: properties of the report (JUnit XML), annotations on GitHub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # importing it for real would load h5py
    from nanscope.plugin.failure import Failure

PREFIX = "nanscope."


def properties(failure: Failure, root: Path) -> list[tuple[str, str]]:
    """Names and values that travel with the report of a test, also from a worker of xdist."""
    from nanscope.plugin.message import place, short  # noqa: PLC0415 - loads numpy

    found = {"what": failure.headline, "step": str(failure.step), "phase": str(failure.phase)}
    where = place(failure, root)
    if where is not None:
        found |= {"file": where[0], "line": str(where[1])}
    if failure.cause is not None:
        found["cause"] = failure.cause.id
    if failure.path is not None:
        found["run"] = short(failure.path, root)
    return [(PREFIX + name, value) for name, value in found.items()]


def lines_for_github(stats: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """A line for each failure of which the place is known; none outside of GitHub's workflows."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    for report in [*stats.get("failed", ()), *stats.get("error", ())]:
        told = {str(name): str(value) for name, value in report.user_properties}
        if PREFIX + "what" not in told:
            continue
        place = [
            f"{name}={_value(told[PREFIX + name])}" for name in ("file", "line") if PREFIX + name in told
        ]
        cause = f" ({told[PREFIX + 'cause']})" if PREFIX + "cause" in told else ""
        text = _text(f"{told[PREFIX + 'what']}{cause} in {report.nodeid}")
        yield f"::error {','.join([*place, 'title=nanscope'])}::{text}"


def _text(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _value(text: str) -> str:
    return _text(text).replace(":", "%3A").replace(",", "%2C")
