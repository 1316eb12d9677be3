"""The answer for one run, in the order in which people ask: what, where and when, why, what to try."""

from __future__ import annotations

from typing import TextIO

from rich.text import Text

from nanscope.growth import Growth
from nanscope.numbers import count, number, score
from nanscope.reporters._page import BAD, DIM, SEVERITY_WORDS, STRONG, STYLE_OF, Page, fit
from nanscope.samples import told_samples
from nanscope.values import Link, Origin, Remedy, Verdict
from nanscope.view import LOSS_ROWS, Overview, View

NAME_CELLS = 24


def render_text(view: View, out: TextIO) -> None:
    """Write the answer as text in 80 columns; the last line is the next command to type.

    Colour and glyphs follow the stream: no escape sequence where it is no terminal.
    """
    page = Page(out)
    _verdict(page, view)
    _trail(page, view)
    _growth(page, view.growth)
    _overview(page, view.overview)
    _findings(page, view)
    _causes(page, view)
    _remedies(page, view.diagnosis.remedies)
    _unknowns(page, view)
    _facts(page, view)
    page.line()
    page.line(Text(page.literal(view.command), STRONG))


def _verdict(page: Page, view: View) -> None:
    standing = page.standing(view.standing)
    label = Text(standing.plain.upper(), standing.style)
    page.block(Text.assemble(label, "  "), view.headline, STRONG)
    if view.diagnosis.verdict is not Verdict.HEALTHY and view.headline != view.diagnosis.summary:
        page.line()
        page.block("", view.diagnosis.summary)


def _trail(page: Page, view: View) -> None:
    origin, trail = view.diagnosis.origin, view.diagnosis.trail
    if not trail and (origin is None or origin.op is None):
        return
    page.heading("Where and when")
    if origin is not None and origin.op is not None:
        _operation(page, origin)
    digits = max((len(str(link.step)) for link in trail), default=0)
    for link in trail:
        _link(page, link, origin, max(digits, len("step")))


def _link(page: Page, link: Link, origin: Origin | None, digits: int) -> None:
    born = origin is not None and (link.step, link.phase, link.site) == (
        origin.step,
        origin.phase,
        origin.site,
    )
    mark = page.glyphs.here if born else " "
    head = Text.assemble(
        (mark, BAD if born else ""), f" {link.step:>{digits}}", (f"  {link.phase or '':<8}  ", DIM)
    )
    # A sentence that names its place already is not told the place twice.
    site = f"{link.site}: " if link.site and str(link.site) not in link.what else ""
    page.block(head, page.words(site + link.what), STRONG if born else "")


def _operation(page: Page, origin: Origin) -> None:
    place = ""
    if origin.location:
        place = f" at {origin.location} in {origin.location.function}"
    page.block("  ", f"{origin.op}{place}", STRONG)
    for operand in origin.operands:
        told = f"{list(operand.shape)} {operand.dtype}, largest {number(operand.abs_max)}"
        extra = {"NaN": operand.nan, "inf": operand.inf, "zero": operand.zeros}
        told += "".join(f", {count(many)} {word}" for word, many in extra.items() if many)
        page.block(f"    {fit(page.words(operand.role), 10)} ", told)
    if origin.result:
        result = origin.result
        made = f"{list(result.shape)} {result.dtype}: {count(result.nan)} nan, {count(result.posinf)} inf, "
        page.block(f"    {'result':<10} ", f"{made}{count(result.neginf)} -inf")
    if origin.element and origin.element.operands:
        values = ", ".join(number(value) for value in origin.element.operands)
        page.block(f"    {'element':<10} ", f"{list(origin.element.index)} from {values}")
    label, samples = told_samples(origin)
    if label:
        page.block(f"    {label:<10} ", samples)


def _growth(page: Page, growth: Growth | None) -> None:
    if growth is None:
        return
    every = "a step" if growth.bucket == 1 else f"{growth.bucket} steps"
    digit = "decades" if growth.decades == 1 else f"a digit is {growth.decades} decades"
    aside = f"{digit} above usual; a column is {every}, from {growth.first}"
    page.heading("What grew", aside)
    for strip in growth.strips:
        marks = strip.marks.replace(".", page.glyphs.usual).replace("x", page.glyphs.bad)
        text = Text(marks)
        text.highlight_regex(page.glyphs.bad, BAD)
        numbers = f"  {number(strip.usual)} to {number(strip.last)}"
        page.line(Text.assemble("  ", fit(page.words(strip.name), NAME_CELLS), "  ", text, numbers))


def _overview(page: Page, overview: Overview | None) -> None:
    if overview is None:
        return
    page.heading(f"The whole run: {overview.stat}", overview.aside)
    for name, digits in overview.rows:
        text = Text(digits.replace(".", page.glyphs.usual).replace("x", page.glyphs.bad))
        text.highlight_regex(page.glyphs.bad, BAD)
        page.line(Text.assemble("  ", fit(page.words(name), NAME_CELLS), "  ", text))


def _findings(page: Page, view: View) -> None:
    if not view.findings:
        return
    page.heading("Also found")
    for finding, more in view.findings:
        shape = f"{page.glyph(finding.severity)} {SEVERITY_WORDS[finding.severity]:<4}"
        tail = f" (and {count(more)} more like it)" if more else ""
        head = Text.assemble("  ", (shape, STYLE_OF[finding.severity]), f" {finding.rule}  ")
        page.block(head, finding.message + tail)


def _causes(page: Page, view: View) -> None:
    if not view.causes:
        return
    page.heading("Why")
    for cause, evidence in view.causes:
        page.block(f"  {cause.rank}  ", cause.id, STRONG)
        page.block("     ", cause.why)
        for line in evidence:
            page.block(f"     {page.glyphs.bullet} ", line)
        if cause.rewrite:
            page.block("     safe: ", cause.rewrite)


def _remedies(page: Page, remedies: tuple[Remedy, ...]) -> None:
    if not remedies:
        return
    untried = all(remedy.outcome == "untried" for remedy in remedies)
    page.heading("What to try", "none of it has been tried on this run" if untried else "")
    for rank, remedy in enumerate(remedies, 1):
        over = f" over {count(remedy.steps)} steps" if remedy.steps is not None else ""
        outcome = "" if untried else f" ({remedy.outcome}{over})"
        page.block(f"  {rank}  ", remedy.change + outcome)


def _unknowns(page: Page, view: View) -> None:
    if not view.diagnosis.unknowns:
        return
    page.heading("Not known")
    for unknown in view.diagnosis.unknowns:
        page.block(f"  {page.glyphs.bullet} ", unknown)


def _facts(page: Page, view: View) -> None:
    page.line()
    if view.loss:
        rows = max(1, min(LOSS_ROWS, int(view.facts["steps"]) // 10))
        mean = f" (means of up to {rows} steps)" if rows > 1 else ""
        page.block("Loss  ", f"{number(view.loss[0])} at the start, {number(view.loss[1])} at the end{mean}")
    if view.score:
        result = view.score
        scores = f"loss {score(result.loss)}, accuracy {score(result.accuracy)}, macro F1 {score(result.f1)}"
        page.block("Test  ", f"{scores} (epoch {result.epoch}, {count(result.step)} steps)")
    steps = f"{count(int(view.facts['steps']))} steps"
    page.block("Run   ", Text(page.literal(str(view.facts["name"]))))
    page.block("      ", ", ".join(filter(None, (view.job, steps))), DIM)
    for notice in view.notices:
        page.block(f"{page.glyphs.warning}     ", notice)
