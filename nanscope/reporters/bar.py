"""The progress bar of work on run files: only on a terminal, and only when the work takes long."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Self, TextIO

from rich.live import Live
from rich.text import Text

from nanscope.reporters._page import CALM, DIM, STRONG, Page, clip

PATIENCE = 0.5  # seconds before anything is drawn
EVERY = 0.1  # seconds between two drawings
CELLS = 24
LABEL_CELLS = 30


class Bar:
    """One line that is drawn again and again, and gone when the work is done.

        with Bar("run.h5", sys.stderr) as show:
            work(..., progress=show)

    It draws within the call and starts no thread; the calls may come from any thread, one at a time.
    """

    def __init__(self, label: str, out: TextIO) -> None:
        self._page = Page(out)
        self._label = label
        self._live = (
            Live(console=self._page.console, auto_refresh=False, transient=True) if out.isatty() else None
        )
        self._next = monotonic() + PATIENCE

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: int, total: int) -> None:
        """Show how much of it is done."""
        if self._live is None or monotonic() < self._next:
            return
        self._live.start()
        self._live.update(self._line(done, total), refresh=True)
        self._next = monotonic() + EVERY

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _line(self, done: int, total: int) -> Text:
        share = min(1.0, done / total) if total else 1.0
        cells = round(CELLS * share)
        glyphs = self._page.glyphs
        return Text.assemble(
            (clip(self._page.words(self._label), LABEL_CELLS), STRONG),
            "  ",
            (glyphs.done * cells, CALM),
            (glyphs.left * (CELLS - cells), DIM),
            f"  {share:4.0%}",
        )
