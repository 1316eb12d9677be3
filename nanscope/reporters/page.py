"""The answer for one run as one web page: no script, nothing from outside, readable in light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from importlib.resources import files
from pathlib import Path

from nanscope.numbers import count, number, score
from nanscope.replay.cases import Case
from nanscope.replay.columns import edges_of
from nanscope.replay.heat import heat_of, usual_of
from nanscope.replay.place import Place
from nanscope.replay.stats import STATS, recorded, sites_of
from nanscope.reporters import svg
from nanscope.samples import told_samples
from nanscope.values import Link, Origin, Severity

COLUMNS = 240
MOST_SITES = 60
STATS_SHOWN = ("output norm", "grad norm")
CSS = (files("nanscope.reporters") / "page.css").read_text(encoding="utf-8")
LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "calm"}


def write_page(case: Case, place: Place | None, path: Path) -> None:
    """Write the report of a run, with charts of the window of a place, or of the whole run.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_text(page_of(case, place), encoding="utf-8")


def page_of(case: Case, place: Place | None = None) -> str:
    """The report as text; its charts show the window of a place, or the whole run."""
    return "\n".join(_page(case, place))


def _page(case: Case, place: Place | None) -> Iterator[str]:
    title = escape(f"{case.run.name}: {case.view.standing.word}")
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{CSS}</style></head><body>'
    yield from _verdict(case)
    yield from _charts(case, place)
    yield from _where(case.diagnosis.origin)
    yield from _why(case)
    yield from _trail(case)
    yield from _try(case)
    yield from _findings(case)
    yield from _facts(case)
    yield "</body></html>"


def _verdict(case: Case) -> Iterator[str]:
    standing = case.view.standing
    word = f'<span class="badge {LEVELS[standing.severity]}">{escape(standing.word.upper())}</span>'
    yield f"<h1>{word} {escape(case.view.headline)}</h1><p>{escape(case.diagnosis.summary)}</p>"


def _charts(case: Case, place: Place | None) -> Iterator[str]:
    if not case.rows:
        return
    start, stop = (place.start, place.stop) if place is not None else (0, case.rows)
    edges = edges_of(start, stop, min(COLUMNS, max(1, stop - start)))
    first, last = f"step {count(case.step(start))}", f"step {count(case.step(stop - 1))}"
    if case.run.has(None, "loss"):
        yield f"<h2>Loss</h2>{svg.lane(case.reader.columns(None, 'loss', edges), first, last)}"
    for stat in (name for name in STATS_SHOWN if name in recorded(case)):
        sites = sites_of(case, stat)[:MOST_SITES]
        found = heat_of(case, sites, stat, edges, usual_of(case, stat)[: len(sites)])
        names = [site.name or "model" for site in sites]
        note = "decades above what was usual in the first tenth; the brightest is NaN or infinite"
        yield f'<h2>{escape(STATS[stat].name)} <span class="dim">{note}</span></h2>'
        yield svg.heat(names, found, first, last)


def _where(origin: Origin | None) -> Iterator[str]:
    if origin is None:
        return
    place = f"step {count(origin.step)}, {origin.phase}, {origin.module or 'model'}"
    at = f" at {origin.location} in {origin.location.function}" if origin.location else ""
    op = escape(origin.op or "operation not known")
    yield f"<h2>Where</h2><p>{escape(place)}<br><code>{op}{escape(at)}</code></p>"
    rows = [
        (operand.role, f"{list(operand.shape)} {operand.dtype}", f"largest {number(operand.abs_max)}")
        for operand in origin.operands
    ]
    if origin.result:
        made = origin.result
        told = f"{count(made.nan)} nan, {count(made.posinf)} inf, {count(made.neginf)} -inf"
        rows.append(("result", f"{list(made.shape)} {made.dtype}", told))
    if origin.element and origin.element.operands:
        values = ", ".join(map(number, origin.element.operands))
        rows.append(("element", str(list(origin.element.index)), f"from {values}"))
    label, samples = told_samples(origin)
    if label:
        rows.append((label, samples, ""))
    yield _table(rows)


def _why(case: Case) -> Iterator[str]:
    if not case.view.causes:
        return
    yield "<h2>Why</h2>"
    for cause, evidence in case.view.causes:
        yield f"<p><b>{cause.rank} {escape(cause.id)}</b><br>{escape(cause.why)}</p>"
        if evidence:
            yield f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in evidence)}</ul>"
        if cause.rewrite:
            yield f"<p>safe: <code>{escape(cause.rewrite)}</code></p>"


def _trail(case: Case) -> Iterator[str]:
    if case.diagnosis.trail:
        rows = [(count(link.step), str(link.phase or ""), _told(link)) for link in case.diagnosis.trail]
        yield f"<h2>Trail</h2>{_table(rows)}"


def _told(link: Link) -> str:
    """A sentence that names its place already is not told the place twice."""
    return f"{link.site}: {link.what}" if link.site and str(link.site) not in link.what else link.what


def _try(case: Case) -> Iterator[str]:
    remedies = case.diagnosis.remedies
    if not remedies:
        return
    items = "".join(
        f'<li>{escape(remedy.change)} <span class="dim">{escape(remedy.outcome)}</span></li>'
        for remedy in remedies
    )
    yield f"<h2>What to try</h2><ol>{items}</ol>"


def _findings(case: Case) -> Iterator[str]:
    found = sorted(case.diagnosis.findings, key=lambda finding: (-finding.severity, finding.step))
    if found:
        yield "<h2>Findings</h2><table>"
        for finding in found:
            level = {Severity.ERROR: "error", Severity.WARNING: "warning"}.get(finding.severity, "dim")
            word = f'<span class="badge {level}">{finding.severity}</span>'
            told = escape(f"{finding.message} ({finding.rule})")
            yield f"<tr><td>{word}</td><td>{count(finding.step)}</td><td>{told}</td></tr>"
        yield "</table>"


def _facts(case: Case) -> Iterator[str]:
    view = case.view
    rows = [("run", case.run.name, ""), ("steps", count(case.rows), ""), ("job", view.job, "")]
    if view.loss:
        rows.append(("loss", f"{number(view.loss[0])} at the start", f"{number(view.loss[1])} at the end"))
    if view.score:
        scores = f"loss {score(view.score.loss)}, accuracy {score(view.score.accuracy)}"
        rows.append(("test", scores, f"macro F1 {score(view.score.f1)}"))
    rows += [("notice", notice, "") for notice in view.notices]
    rows += [("not known", unknown, "") for unknown in case.diagnosis.unknowns]
    yield f"<h2>Run</h2>{_table(rows)}<pre>{escape(view.command)}</pre>"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
