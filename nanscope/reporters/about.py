"""What is in a run file, as text in 80 columns."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from time import time
from typing import Any, TextIO

from rich.text import Text

from nanscope.facts import STATES
from nanscope.numbers import count, duration, score, size
from nanscope.reporters._page import CALM, DIM, STRONG, WARN, Page
from nanscope.run import Header
from nanscope.store.about import About, FileFacts

LABEL_CELLS = 13
MOST_NAMES = 40  # of scalars, ranges or files; the rest is counted
LONGEST_TEXT = 2000  # letters of one entry; `--format json` has all of it
_UNTOLD = ("argv", "git_commit", "nanscope", "pid")  # of the environment: told elsewhere


def render_about(runs: Sequence[About], out: TextIO) -> None:
    """Write what is in each run; the last line is the next command to type."""
    page = Page(out)
    for number, about in enumerate(runs):
        if number:
            page.line()
        _run(page, about)
    names = " ".join(shlex.quote(about.run.name) for about in runs)
    page.line()
    page.line(Text(page.literal(f"nanscope {'compare' if len(runs) > 1 else 'diagnose'} {names}"), STRONG))


def _run(page: Page, about: About) -> None:
    facts = about.to_dict()
    run = about.run
    calm = run.state == "finished"
    page.block("", Text.assemble((page.literal(run.name), STRONG), "  ", (run.state, CALM if calm else WARN)))
    page.line()
    _row(page, "Steps", _steps(facts))
    _row(
        page,
        "Recorded",
        f"{_moment(run.header.created)} on {about.host} with nanscope {about.files[0].writer}",
    )
    _row(page, "Config", _pairs(run.header.config) or "none was recorded")
    _row(page, "Environment", _pairs(_environment(run.header)) or "none was recorded")
    _row(page, "Commit", str(run.header.environment.get("git_commit") or "not known"))
    _row(page, "Command", _command(run.header.environment.get("argv")))
    _row(page, "Model", f"{count(facts['modules'])} modules, {count(facts['parameters'])} parameters")
    _row(page, "Sites", _counts(facts["sites"], "no site"))
    _row(page, "Stats", ", ".join(facts["stats"]) or "none")
    _row(page, "Scalars", _names(facts["scalars"]))
    _row(page, "Epochs", _epochs(about))
    _row(page, "Events", _counts(facts["events"], "none"))
    _row(page, "Snapshots", _snapshots(about.files))
    for file in about.files[:MOST_NAMES]:
        _file(page, file)
    if len(about.files) > MOST_NAMES:
        _row(page, "", f"and {count(len(about.files) - MOST_NAMES)} more files")
    _row(page, "Size", _size(facts))
    _row(page, "Thinned", _thinned(about))
    _health(page, about)


def _row(page: Page, label: str, text: str) -> None:
    more = len(text) - LONGEST_TEXT
    shown = f"{text[:LONGEST_TEXT]} .. and {count(more)} more letters" if more > 0 else text
    page.block(Text(f"  {label:<{LABEL_CELLS}}", DIM), shown)


def _steps(facts: Mapping[str, Any]) -> str:
    if not facts["steps"]:
        return "none"
    pace = facts["seconds"] / facts["steps"]
    return (
        f"{count(facts['steps'])}, from {facts['first_step']} to {facts['last_step']}, "
        f"in {duration(facts['seconds'])} ({duration(pace)} each)"
    )


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _environment(header: Header) -> dict[str, Any]:
    """What is told of the environment: torch's own seed only where no other decides the training."""
    told = {key: value for key, value in header.environment.items() if key not in _UNTOLD}
    seed = {"torch seed": told.pop("seed")} if "seed" in told else {}
    return told if "seed" in header.config else told | seed


def _pairs(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _command(argv: Any) -> str:
    if not isinstance(argv, list) or not argv:
        return "not known"
    return " ".join(shlex.quote(str(word)) for word in argv)


def _counts(counts: Mapping[str, int], none: str) -> str:
    listed = ", ".join(f"{count(number)} {kind}" for kind, number in counts.items())
    return f"{count(sum(counts.values()))}: {listed}" if counts else none


def _names(names: Sequence[str]) -> str:
    more = f" and {count(len(names) - MOST_NAMES)} more" if len(names) > MOST_NAMES else ""
    return f"{count(len(names))}: {', '.join(names[:MOST_NAMES])}{more}" if names else "none"


def _epochs(about: About) -> str:
    if not about.run.epochs:
        return "none"
    last = about.run.epochs[-1]
    scores = f"loss {score(last.loss)}, accuracy {score(last.accuracy)}, macro F1 {score(last.f1)}"
    return f"{count(len(about.run.epochs))}, the last: {scores}"


def _snapshots(files: Sequence[FileFacts]) -> str:
    steps = [step for file in files for step in file.snapshots]
    if steps:
        return f"{_names([str(step) for step in steps])} (steps)"
    return "none yet" if any(file.slots for file in files) else "none"


def _file(page: Page, file: FileFacts) -> None:
    last = file.part + file.parts - 1
    part = f"part {file.part}" if last == file.part else f"parts {file.part} to {last}"
    room = "" if file.capacity is None else f", room for {count(file.capacity)}"
    rounded = "" if file.precision == "exact" else f", rounded to {file.precision}"
    told = f"{part}, {file.layout} layout (format {file.format}){rounded}, {count(file.rows)} steps{room}"
    _row(page, "File", f"{file.path}: {told}")


def _size(facts: Mapping[str, Any]) -> str:
    holes = f", {size(facts['bytes'])} with its holes" if facts["bytes"] > facts["bytes_on_disk"] else ""
    pace = f", {size(round(facts['bytes_per_step']))} per step" if facts["steps"] else ""
    return f"{size(facts['bytes_on_disk'])} on the disk{holes}{pace}"


def _thinned(about: About) -> str:
    if not about.thinned:
        return "no: every step is kept whole"
    ranges = [f"{first} to {last}" for first, last in about.thinned]
    return f"of these steps only summaries are kept: {_names(ranges).partition(': ')[2]}"


def _health(page: Page, about: About) -> None:
    ended = STATES.get(about.run.state)
    beat = about.files[-1].heartbeat
    told = [f"{about.run.state}: {ended}"] if ended else []
    if beat is not None and about.run.state in ("live", "killed"):
        told.append(f"last sign of life of its writer {duration(max(0.0, time() - beat))} ago")
    told += about.run.lost or ["nothing is known to be lost"]
    for sentence in told:
        _row(page, "Health", sentence)
    _row(page, "", "checksums and summaries are checked by: nanscope verify")
