"""The canvas: every changed cell is painted again, and as little else as pays."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nanscope.raster.cells import Cells
from nanscope.tui.canvas import CLOSE, Canvas, regions


@given(arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(1, 80))))
def test_regions_hold_every_changed_cell(changed: np.ndarray) -> None:
    """Together they hold each of them; each begins and ends with one, and has no long gap inside."""
    painted = np.zeros_like(changed)
    for region in regions(changed):
        row = changed[region.y, region.x : region.right]
        assert row[0]
        assert row[-1]
        assert np.diff(np.flatnonzero(row)).max(initial=0) <= CLOSE
        painted[region.y, region.x : region.right] = True
    assert not (changed & ~painted).any()


def test_wide_letters_keep_their_width() -> None:
    """A row with letters of two cells is as wide as the screen, and reads as it was written."""
    cells = Cells.blank(1, 20)
    cells.write(0, 1, "层1 and 层2", 0xFFFFFF)
    canvas = Canvas(colours=True)
    canvas._cells = cells
    strip = canvas.strip_of(0)
    assert strip.text.rstrip() == " 层1 and 层2"
    assert sum(segment.cell_length for segment in strip) == 20


def test_without_colours_no_style_has_one() -> None:
    """NO_COLOR: bold is all there is."""
    cells = Cells.blank(1, 20)
    cells.write(0, 1, "bad", 0xFFFFFF, 0xB00040, bold=True)
    canvas = Canvas(colours=False)
    canvas._cells = cells
    styles = [segment.style for segment in canvas.strip_of(0)]
    assert all(style is not None and style.color is None and style.bgcolor is None for style in styles)
    assert any(style is not None and style.bold for style in styles)
