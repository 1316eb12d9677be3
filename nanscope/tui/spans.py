"""What changed on the screen is written from where it begins, not from the left end of its widget.

Textual 8.2 writes each changed part of a line together with all that is left of it: a playhead that moves
through a heat map costs 200 kB a second so, and a tenth of it without. There is no public way in; should
Textual change inside, its own way of writing is what remains.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.console import Console
from rich.control import Control

PARTS = ("spans", "chops", "chop_ends", "render_segments")
"""What makes an update of the screen one of parts of lines."""


def narrowed(update: Any) -> Any:
    """The same update, made to write no more than its parts where it is one of parts of lines."""
    if all(hasattr(update, name) for name in PARTS):
        update.render_segments = partial(written, update)
    return update


def written(update: Any, console: Console) -> str:
    """Characters and escape sequences of the changed parts, each with the way there."""
    found = []
    for row, first, last in update.spans:
        for end, (begin, strip) in zip(update.chop_ends[row], update.chops[row].items(), strict=False):
            low, high = max(begin, first), min(end, last)
            if strip is not None and low < high:
                found.append(Control.move_to(low, row).segment.text)
                found.append(strip.crop(low - begin, high - begin).render(console))
    return "".join(found)
