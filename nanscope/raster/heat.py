"""Heat maps: a row per place, a column per stretch of time; what is not finite is the brightest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanscope.raster.cells import PLAIN, Cells
from nanscope.raster.lane import Look
from nanscope.raster.palette import BAD_BACK, BAD_FORE, DIM, RULE, TEXT, Graph, decades, glyphs_of, shares


def columns_per_cell(look: Look) -> int:
    """Columns of data that a cell of a heat map shows."""
    return 1 if look.digits or look.graph is Graph.ASCII else 2


def heat(
    values: NDArray[np.float64], bad: NDArray[np.bool_], look: Look, *, of_shares: bool = False
) -> Cells:
    """Decades above the usual (or shares from 0 to 1) in cells; NaN where nothing was measured.

    Args:
        values, bad: shape (places, width * columns_per_cell(look)).
    """
    if columns_per_cell(look) == 1:
        cells = _digits(values, bad, look, of_shares=of_shares)
    else:
        cells = _colours(values, bad, look, of_shares=of_shares)
    _playhead(cells, look)
    return cells


def rail(bad: NDArray[np.bool_], look: Look) -> Cells:
    """One row that marks the columns that hold something non-finite, shape (width,)."""
    glyphs = glyphs_of(look.graph)
    cells = Cells.blank(1, len(bad))
    cells.glyphs[0] = np.where(bad, glyphs.bad, glyphs.dot)
    cells.fore[0] = np.where(bad, BAD_FORE, RULE)
    cells.back[0] = np.where(bad, BAD_BACK, PLAIN)
    cells.bold[0] = bad
    return cells


def _digits(values: NDArray[np.float64], bad: NDArray[np.bool_], look: Look, *, of_shares: bool) -> Cells:
    glyphs = glyphs_of(look.graph)
    cells = Cells.blank(*values.shape)
    # whole decades: half of one is the noise of a batch of one
    scaled = np.round(np.nan_to_num(values) * 10) if of_shares else np.floor(np.nan_to_num(values))
    digit = np.clip(scaled, 0, 9).astype(np.int64)
    words = np.array([glyphs.dot, *"123456789"])[digit]
    words = np.where(np.isnan(values), " ", words)
    cells.glyphs[:] = np.where(bad, glyphs.bad, words)
    cells.fore[:] = np.where(bad, BAD_FORE, np.where(digit > 0, TEXT, DIM))
    cells.back[:] = np.where(bad, BAD_BACK, PLAIN)
    cells.bold[:] = bad | (digit >= 5)
    return cells


def _colours(values: NDArray[np.float64], bad: NDArray[np.bool_], look: Look, *, of_shares: bool) -> Cells:
    colour = np.where(np.isnan(values), PLAIN, shares(values) if of_shares else decades(values))
    left, right = colour[:, 0::2], colour[:, 1::2]
    cells = Cells.blank(*left.shape)
    cells.glyphs[:] = "▌"
    cells.fore[:], cells.back[:] = left, right
    cells.glyphs[left == PLAIN] = "▐"  # a half without a colour has to be the background
    cells.fore[left == PLAIN], cells.back[left == PLAIN] = right[left == PLAIN], PLAIN
    cells.glyphs[(left == PLAIN) & (right == PLAIN)] = " "
    either = bad[:, 0::2] | bad[:, 1::2]
    cells.glyphs[either] = glyphs_of(look.graph).bad
    cells.fore[either], cells.back[either] = BAD_FORE, BAD_BACK
    cells.bold[either] = True
    return cells


def _playhead(cells: Cells, look: Look) -> None:
    """The column where one looks; a non-finite value wins over it and is shown in reverse."""
    at = look.playhead
    if at is None or not 0 <= at < cells.width:
        return
    bad = cells.back[:, at] == BAD_BACK
    cells.glyphs[~bad, at] = glyphs_of(look.graph).bar
    keep = cells.back[~bad, at]
    cells.back[~bad, at] = np.where(keep == PLAIN, PLAIN, keep)
    cells.fore[~bad, at] = BAD_FORE
    cells.fore[bad, at], cells.back[bad, at] = BAD_BACK, BAD_FORE
