"""What the model says: the classes that it predicts, over time and now."""

from __future__ import annotations

from textwrap import wrap

import numpy as np
from numpy.typing import NDArray

from nanscope.detectors.nan_predictions import class_names
from nanscope.numbers import count, score
from nanscope.raster.bars import cell_width, class_bars, label_width, matrix
from nanscope.raster.cells import Cells, fit_end
from nanscope.raster.heat import columns_per_cell, heat
from nanscope.raster.palette import BAD_BACK, BAD_FORE, DIM, STRONG, TEXT
from nanscope.replay.readout import worded
from nanscope.samples import told_samples
from nanscope.tui.scene import Scene
from nanscope.values import Epoch

ROW_SHARE = "  row %"
LAST = 1_000
NUMBERS = 5  # cells of the numbers of classes left of the strip
HOW = (
    "predicted classes were not recorded: they are counted where the loss makes a choice of the logits "
    "(cross_entropy, nll_loss ..), or of the module that record(..., logits='head') names"
)


def recent(scene: Scene) -> NDArray[np.float64]:
    """How often each class was predicted in the last 1,000 steps up to the playhead, shape (classes,)."""
    case, row = scene.case, scene.place.row
    start = max(0, row + 1 - LAST)
    found = [case.reader.rows(case.run.index(None, name), start, row + 1) for name in class_names(case.run)]
    return np.array([float(np.nansum(np.where(np.isfinite(v), v, 0))) for v in found])


def classes(scene: Scene, height: int, width: int) -> Cells:
    """The predictions up to the playhead as bars, beside the true shares."""
    cells = Cells.blank(height, width)
    column = cells.write(0, 1, "PREDICTED CLASS", STRONG, bold=True)
    if not class_names(scene.case.run):
        _told(cells, HOW)
        return cells
    cells.write(0, column + 2, f"last {count(min(LAST, scene.place.row + 1))} steps", DIM)
    values = recent(scene)
    nans = _nan_rows(scene)
    label, samples = _made_of(scene)
    true = scene.case.run.header.config.get("label_counts") or ()
    against = tuple(true) if isinstance(true, list | tuple) and len(true) == len(values) else ()
    cells.put(
        1, 1, class_bars(values.tolist(), height - 1 - bool(nans), width - 2, scene.graph, against=against)
    )
    if nans:
        text = f" {count(nans)} of them: argmax of NaN "
        cells.write(height - 1, 1, text, BAD_FORE, BAD_BACK, bold=True)
    if label and height > len(values) + 3:
        cells.write(height - 1 - bool(nans), 1, fit_end(f"{label} {samples}", width - 2), TEXT)
    return cells


def _made_of(scene: Scene) -> tuple[str, str]:
    """At the bad step: which samples of the data set it was made of, see `told_samples`."""
    born, row = scene.case.diagnosis.origin, scene.place.row
    here = born is not None and born.dataset_rows and scene.case.step(row) == born.step
    return told_samples(born) if born is not None and here else ("", "")


def _told(cells: Cells, text: str) -> None:
    """A text below the title, as far as there is room."""
    for row, line in enumerate(wrap(text, max(1, cells.width - 2))[: cells.height - 1], 1):
        cells.write(row, 1, line, DIM)


def _nan_rows(scene: Scene) -> int:
    case, row = scene.case, scene.place.row
    if not case.run.has(None, "predicted_nan"):
        return 0
    values = case.reader.rows(case.run.index(None, "predicted_nan"), max(0, row + 1 - LAST), row + 1)
    return int(np.nansum(np.where(np.isfinite(values), values, 0)))


def strip(scene: Scene, height: int, width: int) -> Cells:
    """Class by time: the share of each among the predictions."""
    cells = Cells.blank(height, width)
    names = class_names(scene.case.run)
    cells.write(0, 1, "share of each class among the predictions", STRONG, bold=True)
    if not names:
        return cells
    room = width - NUMBERS - 1
    look = scene.look(room)
    edges = scene.edges(room * columns_per_cell(look))
    read = [scene.case.reader.columns(None, name, edges) for name in names]
    mean = np.nan_to_num(np.array([each.mean for each in read]))
    total = mean.sum(0)
    share = np.where(total > 0, mean / np.maximum(total, 1e-30), np.nan)
    bad = _bad(scene, edges.starts.size, len(names))
    shown = min(height - 1, len(names))
    cells.put(1, NUMBERS, heat(share[:shown], bad[:shown], look, of_shares=True))
    for row in range(shown):
        cells.write(row + 1, 1, f"{row:>3}", TEXT)
    return cells


def _bad(scene: Scene, count_: int, classes_: int) -> NDArray[np.bool_]:
    """Columns in which a prediction was the argmax of NaN, for the class that it falls to."""
    bad = np.zeros((classes_, count_), np.bool_)
    if scene.case.run.has(None, "predicted_nan"):
        nans = scene.case.reader.columns(None, "predicted_nan", scene.edges(count_))
        bad[:] = np.nan_to_num(nans.high) > 0
    return bad


def confusion(scene: Scene, height: int, width: int) -> Cells:
    """The evaluation at or before the playhead."""
    cells = Cells.blank(height, width)
    epoch = epoch_at(scene)
    if epoch is None or not epoch.confusion:
        cells.write(0, 1, "no evaluation yet", STRONG, bold=True)
        _told(cells, "nanscope train evaluates; recorder.log_epoch(...) records yours")
        return cells
    ahead = ", ahead of here" if epoch.step > scene.case.step(scene.place.row) + 1 else ""
    cells.write(0, 1, f"evaluation after epoch {epoch.epoch}, step {epoch.step}{ahead}", STRONG, bold=True)
    scores = f"loss {score(epoch.loss)}  accuracy {score(epoch.accuracy)}  macro F1 {score(epoch.f1)}"
    cells.write(1, 1, scores, TEXT)
    cells.write(2, 1, "rows: true class, columns: predicted; %: right", DIM)
    counts = np.array(epoch.confusion, float)
    drawn = matrix(counts, height - 3, width - 1, scene.graph)
    cells.put(3, 1, drawn)
    _shares_right(cells, counts, drawn, scene)
    return cells


def _shares_right(cells: Cells, counts: NDArray[np.float64], drawn: Cells, scene: Scene) -> None:
    """How much of each true class was found, and of each predicted one was right, where there is room."""
    size, label = cell_width(counts, cells.width - 1), label_width(counts)
    right = 1 + label + size * len(counts)
    if size < len(" 100") or right + len(ROW_SHARE) > cells.width or drawn.height < 2:
        return
    cells.write(3, right, ROW_SHARE, DIM)
    for number, text in enumerate(percents(counts.diagonal(), counts.sum(1), scene)[: drawn.height - 1]):
        cells.write(4 + number, right, f"{text:>{len(ROW_SHARE)}}", TEXT)
    bottom = 3 + drawn.height
    if bottom < cells.height:
        cells.write(bottom, right, "  col %", DIM)
        for number, text in enumerate(percents(counts.diagonal(), counts.sum(0), scene)):
            cells.write(bottom, 1 + label + number * size, f"{text:>{size}}", TEXT)


def percents(part: NDArray[np.float64], whole: NDArray[np.float64], scene: Scene) -> list[str]:
    """Shares in whole percent; a dot where there is nothing to have a share of."""
    pairs = zip(part.tolist(), whole.tolist(), strict=True)
    return [f"{100 * one / of:.0f}" if of else scene.glyphs.dot for one, of in pairs]


def epoch_at(scene: Scene) -> Epoch | None:
    """The last evaluation up to the playhead, else the first."""
    step = scene.case.step(scene.place.row)
    epochs = scene.case.run.epochs
    return next(
        (epoch for epoch in reversed(epochs) if epoch.step <= step + 1), epochs[0] if epochs else None
    )


def worst(scene: Scene, height: int, width: int) -> Cells:
    """The pairs of classes that are mistaken most often."""
    cells = Cells.blank(height, width)
    epoch = epoch_at(scene)
    cells.write(0, 1, "MISTAKEN MOST OFTEN", STRONG, bold=True)
    if epoch is None or not epoch.confusion:
        return cells
    counts = np.array(epoch.confusion, float)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None)[: height - 1]
    for row, at in enumerate(order, 1):
        true, predicted = np.unravel_index(at, counts.shape)
        if counts[true, predicted]:
            cells.write(
                row, 1, f"{true} taken for {predicted}   {worded(float(counts[true, predicted]))}", TEXT
            )
    return cells
