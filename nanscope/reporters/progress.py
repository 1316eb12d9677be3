"""The live line of `nanscope train`: how far, how well, and the moment when something is found."""

from __future__ import annotations

from types import TracebackType
from typing import Self, TextIO

from rich.live import Live
from rich.text import Text

from nanscope.experiment.progress import Progress
from nanscope.numbers import count, number, score
from nanscope.reporters._page import BAD, CALM, DIM, STRONG, WARN, Page, clip

BAR_CELLS = 12


class ProgressLine:
    """One line that is drawn again at each call, on a terminal; elsewhere one plain line at the end.

        with ProgressLine("bs=1", sys.stderr) as show:
            train(..., on_progress=show)

    It draws within the call and starts no thread, so that the training is not disturbed in between.
    """

    def __init__(self, label: str, out: TextIO) -> None:
        self._page = Page(out)
        self._label = label
        self._latest: Progress | None = None
        self._live = Live(console=self._page.console, auto_refresh=False) if out.isatty() else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __call__(self, progress: Progress) -> None:
        """Show where the training stands."""
        self._latest = progress
        if self._live:
            self._live.update(self._line(progress), refresh=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        elif self._latest:
            self._page.line(self._line(self._latest, bar=False))

    def _line(self, progress: Progress, *, bar: bool = True) -> Text:
        """The parts from the left, as many as fit; trouble comes before what it makes meaningless."""
        parts = [Text(self._page.words(self._label), STRONG)]
        if bar:
            parts.append(self._bar(progress))
        digits = len(count(progress.total))
        parts.append(Text(f"{count(progress.step):>{digits}}/{count(progress.total)}"))
        room = self._page.width - sum(part.cell_len + 2 for part in parts) - 1
        parts += self._trouble(progress, room) if progress.trouble else self._health(progress, room)
        line = Text()
        for part in parts:
            if line.cell_len + part.cell_len + 2 < self._page.width:
                line = Text.assemble(line, "  " if line else "", part)
        return line

    def _bar(self, progress: Progress) -> Text:
        share = min(1.0, progress.step / progress.total) if progress.total else 0.0
        done = round(BAR_CELLS * share)
        style = WARN if progress.trouble else CALM
        glyphs = self._page.glyphs
        return Text.assemble((glyphs.done * done, style), (glyphs.left * (BAR_CELLS - done), DIM))

    def _trouble(self, progress: Progress, room: int) -> list[Text]:
        told = clip(self._page.words(progress.trouble or ""), room - 2)
        return [Text(f"{self._page.glyphs.error} {told}", BAD), Text(f"loss {score(progress.loss)}")]

    def _health(self, progress: Progress, room: int) -> list[Text]:
        parts = [Text(f"loss {score(progress.loss)}"), Text(f"acc {score(progress.accuracy)}")]
        if progress.worst:
            norm = number(progress.worst_l2)
            left = room - sum(part.cell_len + 2 for part in parts) - len(norm) - 1
            parts.append(Text(f"{clip(self._page.words(progress.worst), max(8, left))} {norm}", DIM))
        return parts
