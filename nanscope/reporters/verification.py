"""Whether run files are sound, as text in 80 columns."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TextIO

from rich.text import Text

from nanscope.numbers import count
from nanscope.reporters._page import BAD, CALM, DIM, STRONG, Page
from nanscope.store.verification.verify import Verification


def render_verifications(found: Sequence[Verification], out: TextIO) -> None:
    """Write what was found in each run; the last line is the next command to type."""
    page = Page(out)
    for verification in found:
        _one(page, verification)
    page.line()
    page.line(Text(page.literal(_command(found)), STRONG))


def _one(page: Page, found: Verification) -> None:
    sound = not found.problems
    problems = f"{count(len(found.problems))} problem{'s' * (len(found.problems) > 1)}"
    word = Text(f"{page.glyphs.note} sound", CALM) if sound else Text(f"{page.glyphs.error} {problems}", BAD)
    page.block("", Text.assemble((page.literal(found.name), STRONG), "  ", word))
    for problem in found.problems:
        page.block(f"  {page.glyphs.error} ", problem)
    for note in found.notes:
        page.block(f"  {page.glyphs.bullet} ", note)
    checked = ", ".join(f"{count(number)} {what}" for what, number in found.checked.items() if number)
    page.block("  ", f"checked: {checked or 'nothing was written yet'}", DIM)


def _command(found: Sequence[Verification]) -> str:
    damaged = [each for each in found if each.problems]
    if damaged:  # save what can be read
        return f"nanscope export {shlex.quote(damaged[0].name)} --rescue -o rescued.csv"
    names = " ".join(shlex.quote(each.name) for each in found)
    return f"nanscope {'diagnose' if len(found) == 1 else 'compare'} {names}"
