"""Names and texts in a run file are data: cleaned once, and never followed, interpreted or executed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from nanscope.errors import RunFileError
from nanscope.run import Column, Header, Run
from nanscope.store.layout import Layout
from nanscope.store.reader import open_run
from nanscope.store.writer import RunWriter
from nanscope.values import Kind, Site
from tests.store.crafts import sound

pytestmark = pytest.mark.real_child

NAMES = {
    "\x1b[31mred\x1b]0;title\x07": "?[31mred?]0;title?",
    "\u202egnol\u2066": "?gnol?",
    "[bold]x[/bold]": "[bold]x[/bold]",
    "[/nothing]": "[/nothing]",
    "<script>alert(1)</script>": "<script>alert(1)</script>",
    "../../etc/passwd": "../../etc/passwd",
    "{0} %s $(ls) `ls`": "{0} %s $(ls) `ls`",
    "a\0b\nc\r": "a?b?c?",
    "\ud800": "?",
    "n" * 10_000: "n" * 10_000,
}
SITES = [Site(name, Kind.OUTPUT, name, i, name) for i, name in enumerate(NAMES)]


def write(path: Path) -> None:
    """A run that diverges, with such names wherever a name can be."""
    columns = [Column(site, stat) for site in SITES for stat in ("l2", "nan_count")]
    scalars = [Column(None, name) for name in ("loss", *NAMES, "")]
    texts = {name: [name, {name: name}] for name in NAMES}
    width = len(columns) + len(scalars)
    header = Header((*columns, *scalars), texts, texts, ({"name": "fc", "type": "\x1b[2J"},), 1e9)
    writer = RunWriter.create(path, header, layout=Layout(width, 64, 128, 4, 4))
    for i in range(20):
        writer.append(i, i / 8, np.full(width, 1.0 if i < 15 else np.nan, np.float32))
    writer.name_scalar("\x1b[2Jlogged")
    for name in NAMES:
        writer.event(name, 3, text=name)
    writer.event("error", 19, message="\x1b[2Jgone [red]")
    writer.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run, read back."""
    path = tmp_path_factory.mktemp("names") / "run.h5"
    write(path)
    return open_run(path)


def strings(value: Any) -> list[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in strings(item)]
    return [text for item in value for text in strings(item)] if isinstance(value, list | tuple) else []


def test_every_name_is_cleaned(run: Run) -> None:
    """Sites, their types and dtypes, scalars, those that were logged, too: printable, the rest as it was."""
    cleaned = list(NAMES.values())
    assert [site.name for site in run.sites] == cleaned
    assert [site.module_type for site in run.sites] == cleaned
    assert [site.dtype for site in run.sites] == cleaned
    assert run.scalars == ("loss", *cleaned, "?[2Jlogged")


def test_every_text_is_cleaned(run: Run) -> None:
    """Settings, environment, modules, events: values and keys."""
    header = run.header
    found = strings([dict(header.config), dict(header.environment), list(header.model), list(run.events)])
    assert len(found) > 100
    assert all(text.replace("\n", "").replace("\t", "").isprintable() for text in found)
    assert "?[2Jgone [red]" in found


@pytest.mark.parametrize(
    "command", [["diagnose"], ["info"], ["replay", "--once"], ["diagnose", "--format", "json"]]
)
def test_the_screen_shows_them_as_they_are(tmp_path: Path, command: list[str]) -> None:
    """No command of nanscope sends a control character to the terminal or takes markup for its own."""
    write(tmp_path / "run.h5")
    program = [sys.executable, "-m", "nanscope", *command, str(tmp_path / "run.h5")]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1)
    assert done.stderr.replace("\n", "").isprintable()
    assert done.stdout.replace("\n", "").replace("\t", "").isprintable()
    assert "Traceback" not in done.stderr


def test_markup_in_the_name_of_the_file(tmp_path: Path) -> None:
    """It is part of every message, and cleaned in all of them."""
    path = tmp_path / "[bold]\x1b[31m\u202e.h5"
    path.write_text("no run")
    with pytest.raises(RunFileError, match=r"\[bold\]\?\[31m\?\.h5 is not an HDF5 file"):
        open_run(path)


def test_objects_with_such_names_are_no_concern(tmp_path: Path) -> None:
    """Groups, datasets and attributes of any name that the format does not know: the file opens as before."""
    path = tmp_path / "run.h5"
    sound(path)
    before = open_run(path)
    with h5py.File(path, "r+") as file:
        for name in NAMES:
            plain = name.encode("utf-8", "replace").decode().replace("\0", "").replace("/", "")[:500]
            group = file.create_group(f"extra/{plain}")
            group[plain or "x"] = np.arange(3)
            group.attrs[plain or "x"] = plain
        file.attrs["format_version"] = "1.99"
        file.attrs["of a later version"] = np.zeros(4000)
    after = open_run(path)
    assert after.header == before.header
    np.testing.assert_array_equal(after.source.block(0, 10), before.source.block(0, 10))
