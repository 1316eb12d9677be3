"""Panes of words: the findings, why it happened, what to try."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from nanscope.numbers import count, number
from nanscope.raster.cells import Cells, fit, fit_end
from nanscope.raster.palette import BAD_BACK, BAD_FORE, DIM, FOCUS_BACK, STRONG, TEXT, WARN
from nanscope.replay.stops import Stop
from nanscope.tui.scene import Scene, passes
from nanscope.values import Origin, Severity

WORDS = {Severity.ERROR: "ERR ", Severity.WARNING: "WARN", Severity.NOTE: "NOTE"}
Written = tuple[str, int, bool]
"""Text, colour, bold."""


def shown_stops(scene: Scene) -> tuple[Stop, ...]:
    """Findings, trail and marks of the case in focus that pass the filter."""
    return tuple(stop for stop in scene.stops if passes(scene.place.only, stop.what) or not scene.stops)


def findings(scene: Scene, height: int, width: int, *, chosen: bool = False) -> Cells:
    """A title and a line per event, the chosen one, or the last before the playhead, in sight."""
    cells = Cells.blank(height, width)
    stops = shown_stops(scene)
    column = cells.write(0, 1, "EVENTS", STRONG, bold=True)
    cells.write(0, column + 2, f"{len(stops)}   n N" if stops else "none: no rule fired", DIM)
    before = sum(stop.row <= scene.place.row for stop in stops) - 1
    at = min(scene.place.picked, len(stops) - 1) if chosen else before
    first = max(0, min(len(stops) - (height - 1), at - (height - 1) // 2))
    for row, stop in enumerate(stops[first : first + height - 1], 1):
        here = first + row - 1 == at
        _event(cells, scene, row, stop, here=here, chosen=here and chosen)
    return cells


def findings_line(scene: Scene, height: int, width: int) -> Cells:
    """Findings in one line, the worst first, for small screens."""
    cells = Cells.blank(height, width)
    stops = sorted(scene.stops, key=lambda each: -each.severity)
    column = cells.write(0, 1, f"events {len(stops)}:" if stops else "no rule fired", DIM) + 1
    for stop in stops:
        told = f"{scene.glyphs.severity(stop.severity)} {scene.case.step(stop.row)} {fit_end(stop.what, 32)}"
        bad = stop.severity is Severity.ERROR
        fore, back = (BAD_FORE, BAD_BACK) if bad else (TEXT, None)
        column = cells.write(0, column, told, fore, back) + 2
    return cells


def _event(cells: Cells, scene: Scene, row: int, stop: Stop, *, here: bool, chosen: bool) -> None:
    digits = len(str(scene.case.step(scene.case.rows - 1)))
    if chosen:
        cells.back[row] = FOCUS_BACK
    cells.write(row, 0, scene.glyphs.here if here else " ", STRONG, FOCUS_BACK if chosen else None)
    fore = (DIM, WARN, BAD_FORE)[stop.severity]
    back = BAD_BACK if stop.severity is Severity.ERROR else (FOCUS_BACK if chosen else None)
    column = cells.write(row, 1, f"{scene.glyphs.severity(stop.severity)} {WORDS[stop.severity]}", fore, back)
    column = cells.write(
        row, column, f" {scene.case.step(stop.row):>{digits}}  ", TEXT, FOCUS_BACK if chosen else None
    )
    text = fit_end(stop.what, cells.width - column - 1)
    cells.write(row, column, text, STRONG if here else TEXT, FOCUS_BACK if chosen else None)


def why(scene: Scene, height: int, width: int) -> Cells:
    """The causes in short."""
    cells = Cells.blank(height, width)
    column = cells.write(0, 1, "WHY", STRONG, bold=True)
    causes = scene.case.diagnosis.causes
    cells.write(0, column + 2, "5 shows all of it" if causes else "", DIM)
    lines: list[Written] = []
    for cause in sorted(causes, key=lambda each: each.rank):
        lines += [(f"{cause.rank} {cause.id}", STRONG, True)]
        lines += wrapped(cause.why, width - 3, "  ")
    if not causes:
        lines = wrapped(_no_cause(scene), width - 2, "")
    write(cells, 1, lines)
    return cells


def _no_cause(scene: Scene) -> str:
    if not scene.case.diagnosis.findings:
        return f"no non-finite value in {count(scene.case.rows)} steps, no rule fired"
    return "nothing that was recorded fits a known cause"


def origin(scene: Scene) -> list[Written]:
    """The operation where it was born, with its operands; or how to get it."""
    born = scene.case.diagnosis.origin
    if born is None:
        return []
    at = f"step {born.step}, {born.phase}, {born.module or 'model'}"
    if born.op is None:
        told = next((str(e.get("why", "")) for e in scene.case.run.events_of("no-rewind")), "")
        reason = f": {told}" if told else ""
        how = "record(..., rewind=True) keeps what is needed to execute the bad step again"
        return [(at, STRONG, True), (f"its operation is not known{reason}", TEXT, False), (how, DIM, False)]
    place = f"   {born.location} in {born.location.function}" if born.location else ""
    return [(at, STRONG, True), (f"{born.op}{place}", BAD_FORE, True), *_operands(born)]


def _operands(born: Origin) -> Iterator[Written]:
    for operand in born.operands:
        extra = {"NaN": operand.nan, "inf": operand.inf, "zero": operand.zeros}
        told = "".join(f", {count(many)} {word}" for word, many in extra.items() if many)
        shape = f"{list(operand.shape)} {operand.dtype}"
        yield f"  {fit(operand.role, 10)} {shape}, largest {number(operand.abs_max)}{told}", TEXT, False
    if born.result:
        made = (
            f"{count(born.result.nan)} nan, {count(born.result.posinf)} inf, {count(born.result.neginf)} -inf"
        )
        yield f"  {'result':<10} {list(born.result.shape)} {born.result.dtype}: {made}", STRONG, False
    if born.element and born.element.operands:
        values = ", ".join(number(value) for value in born.element.operands)
        yield f"  {'element':<10} {list(born.element.index)} from {values}", TEXT, False
    if born.samples:
        yield f"  {'samples':<10} {', '.join(map(str, born.samples))}", STRONG, False


def causes(scene: Scene, width: int) -> list[Written]:
    """Every cause with its evidence and the safe form of the code."""
    lines: list[Written] = []
    for cause, evidence in scene.case.view.causes:
        lines.append((f"{cause.rank} {cause.id}", STRONG, True))
        lines += wrapped(cause.why, width - 2, "  ")
        for line in evidence:
            lines += [(text, DIM, False) for text, *_ in wrapped(line, width - 4, f"  {scene.glyphs.dot} ")]
        if cause.rewrite:
            lines += [(text, STRONG, True) for text, *_ in wrapped(cause.rewrite, width - 8, "  safe: ")]
    return lines or wrapped(_no_cause(scene), width, "")


def remedies(scene: Scene, width: int) -> list[Written]:
    """What to try, with what came of it, and how to find out."""
    found = scene.case.diagnosis.remedies
    lines: list[Written] = []
    for rank, remedy in enumerate(found, 1):
        over = f" over {count(remedy.steps)} steps" if remedy.steps is not None else ""
        outcome = "" if remedy.outcome == "untried" else f"   [{remedy.outcome}{over}]"
        strong = remedy.outcome == "prevented"
        lines += [
            (text, STRONG if strong else TEXT, strong)
            for text, *_ in wrapped(f"{rank} {remedy.change}{outcome}", width, "")
        ]
    if found and all(remedy.outcome == "untried" for remedy in found):
        lines.append(("none was tried on this run: " + _how_to_verify(scene), DIM, False))
    return lines


def _how_to_verify(scene: Scene) -> str:
    if scene.case.run.header.config.get("dataset"):
        return f"nanscope diagnose {scene.case.path} --verify"
    return "record(..., verify_remedies=True)"


def wrapped(text: str, width: int, first: str) -> list[Written]:
    """Text in lines; the first begins with `first`, the others as far to the right."""
    lines = textwrap.wrap(text, max(10, width), break_long_words=True) or [""]
    return [(f"{first if i == 0 else ' ' * len(first)}{line}", TEXT, False) for i, line in enumerate(lines)]


def write(cells: Cells, row: int, lines: list[Written]) -> int:
    """Lines from a row on; gives the row after them. What does not fit is said."""
    room = cells.height - row
    for i, (text, fore, bold) in enumerate(lines[:room]):
        cells.write(row + i, 1, fit_end(text, cells.width - 1), fore, bold=bold)
    if len(lines) > room > 0:
        cells.write(
            cells.height - 1,
            1,
            f".. {len(lines) - room + 1} more lines: down, or z".ljust(cells.width - 1),
            DIM,
        )
    return row + min(room, len(lines))
