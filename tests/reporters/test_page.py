"""The page: one file, nothing from outside, everything of the diagnosis in it, hostile names as text."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from nanscope.cli import cli
from nanscope.diagnosis import diagnose
from nanscope.replay.cases import Case
from nanscope.replay.place import Place
from nanscope.reporters.page import page_of, write_page
from nanscope.run import Run
from nanscope.store.writer import RunWriter
from tests.builders import collapsed_run, diverged_run, healthy_run, make_run

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
)  # fmt: skip


class _Reader(HTMLParser):
    """Text and tags of a page; a tag that is closed wrongly is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def case_of(run: Run) -> Case:
    """A run in memory with its diagnosis."""
    return Case(Path(run.name), run, diagnose(run))


@pytest.mark.parametrize("run", [diverged_run(), collapsed_run(), healthy_run()], ids=["nan", "flat", "well"])
def test_everything_of_the_diagnosis_is_told(run: Run) -> None:
    """Verdict, headline, causes, trail, remedies and findings can be read without a script."""
    case = case_of(run)
    text = " ".join("".join(_Reader(page_of(case)).words).split())
    told = [case.diagnosis.verdict.upper(), case.view.headline, case.diagnosis.summary]
    told += [cause.why for cause in case.diagnosis.causes]
    told += [link.what for link in case.diagnosis.trail]
    told += [remedy.change for remedy in case.diagnosis.remedies]
    told += [finding.message for finding in case.diagnosis.findings]
    assert [each for each in told if " ".join(each.split()) not in text] == []


def test_nothing_comes_from_outside() -> None:
    """No script, no link, no address but the name of SVG itself; small enough to attach."""
    page = page_of(case_of(diverged_run()))
    reader = _Reader(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(reader.tags)
    assert {name for name, _ in reader.attributes}.isdisjoint({"src", "href", "onload", "onclick", "style"})
    assert set(re.findall(r"https?://[^\"' ]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in page
    assert len(page) < 1_500_000


def test_hostile_names_are_text() -> None:
    """A layer, a file and an event that look like markup."""
    name = "</script><script>alert(1)</script>"
    run = make_run(outputs={name: np.ones(60), "b": np.full(60, np.nan)}, loss=[1.0] * 30 + [np.nan] * 30)
    reader = _Reader(page_of(case_of(dataclasses.replace(run, name=f"{name}.h5"))))
    assert "script" not in reader.tags
    assert name in "".join(reader.words)


def test_bad_columns_are_marked_in_their_places() -> None:
    """One NaN in a long loss is one mark, where it is."""
    loss = np.ones(10_000)
    loss[2_500] = np.nan
    page = page_of(case_of(make_run(loss=loss, outputs={"a": np.ones(10_000)})))
    marks = re.findall(r'<rect x="([\d.]+)" y="\d+" width="[\d.]+" height="\d+" class="bad"/>', page)
    assert [round((float(x) - 190) / (956 - 190), 2) for x in marks] == [0.25]


def test_the_window_of_a_place() -> None:
    """Charts show what the screen showed."""
    case = case_of(diverged_run())
    place = Place(rows=case.rows, start=1_400, stop=1_450)
    assert "step 1,400" in page_of(case, place)
    assert "step 1,449" in page_of(case, place)


def test_a_run_without_steps() -> None:
    """There is nothing to draw, and that is said."""
    text = "".join(_Reader(page_of(case_of(make_run(loss=[], outputs={})))).words)
    assert "no step was recorded" in text


def test_the_command(tmp_path: Path) -> None:
    """It writes beside the run, and refuses to overwrite."""
    run = diverged_run(200, birth=150)
    writer = RunWriter.create(tmp_path / "run.h5", run.header)
    for number, row in enumerate(run.source.block(0, len(run))):
        writer.append(number, number / 10, row)
    writer.close("finished")
    words = ["report", str(tmp_path / "run.h5")]
    done = CliRunner().invoke(cli, words)
    assert (done.exit_code, done.output) == (0, f"wrote {tmp_path / 'run.html'}\n")
    assert "DIVERGED" in (tmp_path / "run.html").read_text(encoding="utf-8")
    again = CliRunner().invoke(cli, words)
    assert "exists and was left alone: replace it with --force" in str(again.exception)
    (tmp_path / "run.html").write_text("old")
    assert CliRunner().invoke(cli, [*words, "--force"]).exit_code == 0
    assert "DIVERGED" in (tmp_path / "run.html").read_text(encoding="utf-8")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_in_a_browser(tmp_path: Path) -> None:
    """It is drawn from a file, and the console stays empty."""
    path = tmp_path / "page.html"
    write_page(case_of(diverged_run()), None, path)
    words = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert "CONSOLE" not in done.stderr
    assert done.stdout.count("<svg") == 3
    assert "DIVERGED" in done.stdout
