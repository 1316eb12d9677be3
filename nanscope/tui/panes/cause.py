"""The panes of Why beside the list of events: the chosen one in full, and all that the diagnosis says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nanscope.raster.cells import Cells
from nanscope.raster.palette import BAD_BACK, BAD_FORE, DIM, STRONG, TEXT, Graph
from nanscope.replay.why import ASCII, Branches, Paragraph, Tone, detail, paragraphs
from nanscope.tui.panes.words import Written, at_event, shown_stops, wrapped
from nanscope.tui.scene import Scene

TONES: Mapping[Tone, tuple[int, bool]] = {
    Tone.PLAIN: (TEXT, False),
    Tone.TITLE: (STRONG, True),
    Tone.STRONG: (STRONG, True),
    Tone.FAINT: (DIM, False),
    Tone.BAD: (BAD_FORE, True),
}


def cause(scene: Scene, height: int, width: int) -> Cells:
    """Origin, causes, remedies and trail, from the paragraph on that was scrolled to."""
    cells, told = Cells.blank(height, width), told_of(scene)
    lines = [written(each, width - 2) for each in told]
    lengths = [len(each) for each in lines]
    # the last page is a full one
    last = next((i for i in range(len(told)) if sum(lengths[i:]) <= height), len(told) - 1)
    first = min(scene.place.picked, last) if scene.place.pane else 0
    _fill(cells, 0, lines[first:], [each.tone for each in told[first:]], ": tab, then down")
    return cells


def told_of(scene: Scene) -> list[Paragraph]:
    """The paragraphs of the case in focus."""
    return paragraphs(scene.case, ASCII if scene.graph is Graph.ASCII else Branches())


def event(scene: Scene, height: int, width: int) -> Cells:
    """The chosen event in full, with its rule and its numbers."""
    cells, stops = Cells.blank(height, width), shown_stops(scene)
    if stops:
        told = detail(scene.case, stops[at_event(scene)])
        _fill(cells, 1, [written(each, width - 2) for each in told], [each.tone for each in told], "")
    return cells


def written(paragraph: Paragraph, width: int) -> list[Written]:
    """A paragraph in lines."""
    fore, bold = TONES[paragraph.tone]
    lines = wrapped(paragraph.text, width - len(paragraph.head), paragraph.head)
    return [(text, fore, bold) for text, *_ in lines]


def _fill(cells: Cells, top: int, lines: Iterable[list[Written]], tones: Iterable[Tone], how: str) -> None:
    """Lines from a row on; how many did not fit, and how one sees them, is said in the last row."""
    told = [(line, tone) for each, tone in zip(lines, tones, strict=True) for line in each]
    room = cells.height - top
    for row, ((text, fore, bold), tone) in enumerate(told[:room], top):
        cells.write(row, 1, text, fore, BAD_BACK if tone is Tone.BAD else None, bold=bold)
    if len(told) > room > 0:
        text = f".. {len(told) - room + 1} more lines{how}"
        cells.write(cells.height - 1, 1, text.ljust(cells.width - 1), DIM)
