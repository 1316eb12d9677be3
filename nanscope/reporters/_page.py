"""The paper that the text reporters write on: 80 columns, glyphs and colours that the stream can show.

Strings of a run are data: control characters become `?`, markup is never interpreted, and what the stream
cannot encode is written as the escape that Python would write.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from nanscope.standing import Standing
from nanscope.values import Severity

WIDTH = 80
LONGEST_WORD = 44
"""Cells; a longer word (a name) is cut in the middle, since both its ends tell something."""

BAD, WARN, CALM = "bold white on #b00040", "bold #e69f00", "bold #56b4e9"
STRONG, DIM = "bold", "dim"


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What is drawn for what; every glyph is one cell wide."""

    error: str
    warning: str
    note: str
    here: str
    bullet: str
    usual: str
    bad: str
    shades: str
    done: str
    left: str


UNICODE = Glyphs("✖", "▲", "●", "▸", "·", "·", "\N{MULTIPLICATION SIGN}", "·░▒▓█", "━", "─")
ASCII = Glyphs("X", "^", "o", ">", "-", ".", "x", ".:+#@", "=", "-")

SEVERITY_WORDS: Mapping[Severity, str] = {
    Severity.ERROR: "ERR",
    Severity.WARNING: "WARN",
    Severity.NOTE: "NOTE",
}
STYLE_OF: Mapping[Severity, str] = {Severity.ERROR: BAD, Severity.WARNING: WARN, Severity.NOTE: CALM}


class Page:
    """Lines of text on a stream, wrapped with hanging indents.

    Colour only on a terminal, and there only where NO_COLOR and TERM allow it; ASCII unless both the stream's
    encoding and the locale can show more.
    """

    def __init__(self, out: TextIO) -> None:
        self.width = _width(out)
        self.ascii = not _shows_unicode(out)
        self.glyphs = ASCII if self.ascii else UNICODE
        self.console = Console(
            file=out,
            width=self.width,
            force_terminal=out.isatty(),
            markup=False,
            emoji=False,
            highlight=False,
            legacy_windows=False,
        )

    def words(self, text: str) -> str:
        """A sentence with names from a run in it, fit to be drawn."""
        return " ".join(clip(word, LONGEST_WORD) for word in self.literal(text).split())

    def literal(self, text: str) -> str:
        """Text as it is, but for what must not or cannot reach the stream."""
        shown = text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
        return shown.encode("ascii", "backslashreplace").decode() if self.ascii else shown

    def line(self, text: Text | str = "") -> None:
        """One line, never wrapped."""
        self.console.print(text, soft_wrap=True)

    def block(self, first: Text | str, text: Text | str, style: str = "") -> None:
        """Text to the right of what stands on its first line; further lines hang below the text."""
        head = first if isinstance(first, Text) else Text(first)
        body = text if isinstance(text, Text) else Text(self.words(text), style)
        lines = body.wrap(self.console, max(20, self.width - head.cell_len))
        for number, line in enumerate(lines or [Text()]):
            whole = (head if number == 0 else Text(" " * head.cell_len)) + line
            whole.rstrip()
            self.line(whole)

    def heading(self, title: str, aside: str = "") -> None:
        """The title of a section, after an empty line."""
        self.line()
        self.block(Text.assemble((title, STRONG), "  "), aside, DIM)

    def glyph(self, severity: Severity) -> str:
        """The severity as a shape."""
        return str(getattr(self.glyphs, severity.name.lower()))

    def standing(self, standing: Standing) -> Text:
        """Shape and word and colour."""
        return Text(f"{self.glyph(standing.severity)} {standing.word}", STYLE_OF[standing.severity])


def clip(text: str, cells: int) -> str:
    """Text in at most so many cells, cut in the middle."""
    if cell_len(text) <= cells:
        return text
    keep = cells - 2
    tail, taken = "", 0
    for letter in reversed(text):
        taken += cell_len(letter)
        if taken > keep // 2:
            break
        tail = letter + tail
    return set_cell_size(text, keep - cell_len(tail)) + ".." + tail


def fit(text: str, cells: int) -> str:
    """Text in exactly so many cells: cut in the middle or filled with blanks."""
    return set_cell_size(clip(text, cells), cells)


def _width(out: TextIO) -> int:
    if not out.isatty():
        return WIDTH
    try:
        columns = os.get_terminal_size(out.fileno()).columns
    except (OSError, ValueError):  # a terminal without a size, or one that is only imitated
        return WIDTH
    return max(40, min(WIDTH, columns)) if columns else WIDTH


def _shows_unicode(out: TextIO) -> bool:
    encoding = (out.encoding or "utf-8").lower().replace("-", "")
    # Python itself puts LC_CTYPE=C.UTF-8 where the user's locale is plain C (PEP 538): that is no promise.
    own = os.environ.get("LC_CTYPE", "")
    chosen = os.environ.get("LC_ALL") or (own if own != "C.UTF-8" else "") or os.environ.get("LANG")
    return encoding == "utf8" and chosen not in ("C", "POSIX")
