"""`info`, `verify`, `compact`, `export` as a user meets them: files, exit codes, pipes, terminals."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest

import nanscope
import nanscope.cli
from nanscope.cli import files
from nanscope.export import WRITERS
from nanscope.run import Column, Header
from nanscope.store.layout import Layout
from nanscope.store.writer import RunWriter
from nanscope.values import Kind, Site
from tests.test_cli import run

ROWS = 5000
EVIL = "\x1b[31mred[/red][bold]\u202eevil"
HEADER = Header(
    columns=(Column(Site("fc1", Kind.OUTPUT, "Linear"), "l2"), Column(None, "loss"), Column(None, EVIL)),
    config={"batch_size": 1, "note": EVIL, "lr": float("inf")},
    environment={"torch": "2.9", "seed": 3, "argv": ["train.py", "a b"], "git_commit": "abc"},
    model=({"name": "fc1", "type": "Linear", "parameters": {"weight": [10, 20]}},),
    created=1_700_000_000.0,
)


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with several blocks, an event, odd names."""
    path = tmp_path_factory.mktemp("files") / "run.h5"
    writer = RunWriter.create(path, HEADER, layout=Layout(3, 64, 256, 128, 128))
    for i in range(ROWS):
        writer.append(i, i / 100, np.array([i, np.nan, np.inf], np.float32))
    writer.event("note", 7, text="hello")
    writer.close()
    return path


@pytest.fixture
def folder(master: Path, tmp_path: Path) -> Path:
    """A folder with a copy of the run."""
    shutil.copy(master, tmp_path / "run.h5")
    return tmp_path


@pytest.fixture
def command(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command line in that folder, in this process: a process of its own takes a while to start."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["nanscope", *words])
        with pytest.raises(SystemExit) as left:
            nanscope.cli.main()
        told = capfd.readouterr()
        return Done(int(left.value.code or 0), told.out, told.err)

    return call


def test_info_tells_what_is_in_a_run(command: Command) -> None:
    """Within 80 columns, names as data, the next command last."""
    done = command("info", "run.h5")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("5,000, from 0 to 4999", "in 50 s (10 ms each)", "2023-11-14 22:13:20 UTC", "batch_size 1"):
        assert words in done.stdout
    for words in (
        "torch 2.9",
        "train.py 'a b'",
        "abc",
        "1 modules, 200 parameters",
        "1: 1 output",
        "1: 1 note",
    ):
        assert words in done.stdout
    assert "?[31mred[/red][bold]?evil" in done.stdout
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert done.stdout.splitlines()[-1] == "nanscope diagnose run.h5"
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_info_as_json(folder: Path, command: Command) -> None:
    """Strict JSON with stable keys; the next program finds what it needs."""
    done = command("info", "run.h5", "--format", "json")
    told = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    (found,) = told["runs"]
    assert told["schema"] == 1
    assert (found["name"], found["state"], found["steps"]) == ("run.h5", "finished", ROWS)
    assert (found["first_step"], found["last_step"], found["seconds"]) == (0, ROWS - 1, (ROWS - 1) / 100)
    assert found["config"]["lr"] == "inf"
    assert found["sites"] == {"output": 1}
    assert found["files"][0]["bytes"] == (folder / "run.h5").stat().st_size
    assert found["files"][0]["layout"] == "live"
    assert found["lost"] == found["thinned"] == []


def test_info_needs_no_torch(folder: Path) -> None:
    """Nor anything else that is slow to load; so it is as quick as the reader."""
    code = (
        "import sys; sys.argv = ['nanscope', 'info', 'run.h5']\n"
        "import atexit; from nanscope.cli import main\n"
        "heavy = ('torch', 'sklearn', 'textual', 'pyarrow', 'torchvision')\n"
        "atexit.register(lambda: print('heavy', [name for name in heavy if name in sys.modules]))\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "heavy []"


def test_several_runs_and_one_that_is_none(folder: Path, command: Command) -> None:
    """The others are told all the same; exit code 3, one line on stderr for the bad one."""
    (folder / "bad.h5").write_text("nothing")
    for word in ("info", "verify"):
        done = command(word, "run.h5", "bad.h5", "run.h5")
        assert done.returncode == 3
        assert done.stderr.count("\n") == 1
        assert "bad.h5 is not an HDF5 file" in done.stderr
        assert done.stdout.count("run.h5  ") >= 2


def test_verify_says_sound_and_damaged(folder: Path, command: Command) -> None:
    """Exit code 0, then 3 with the place; as JSON the same."""
    done = command("verify", "run.h5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "sound" in done.stdout.splitlines()[0]
    with (folder / "run.h5").open("r+b") as file:
        place = file.read().index(np.arange(640, 650, dtype="<f4").tobytes())
        file.seek(place)
        file.write(b"\xff")
    done = command("verify", "run.h5")
    assert (done.returncode, done.stderr) == (3, "")
    assert "steps 640 to 703: the checksum of their values is wrong" in done.stdout
    assert done.stdout.splitlines()[-1] == "nanscope export run.h5 --rescue -o rescued.csv"
    done = command("verify", "run.h5", "--format", "json")
    (found,) = json.loads(done.stdout)["runs"]
    assert (done.returncode, found["sound"], found["state"]) == (3, False, "finished")
    assert found["checked"]["steps"] == ROWS


@pytest.mark.parametrize("what", ["step", "time", "columns"])
def test_what_is_left_of_a_damaged_compacted_run(folder: Path, command: Command, what: str) -> None:
    """The command that `verify` prints works: one damaged chunk costs its own cells, and that is said."""
    assert command("compact", "run.h5").returncode == 0
    whole = list(csv.reader(io.StringIO(command("export", "run.h5").stdout)))
    with h5py.File(folder / "run.h5") as file:
        offset, size, _ = file[f"chunks/{what}"][0, 0].tolist()
    with (folder / "run.h5").open("r+b") as file:
        file.seek(offset + size // 2)
        file.write(b"\x55" * 8)
    found = command("verify", "run.h5")
    assert found.returncode == 3
    assert command("export", "run.h5", "-o", "x.csv").returncode == 3
    words = found.stdout.splitlines()[-1].split()
    done = command(*words[1:])
    assert done.returncode == 0
    assert "1 damaged piece of run.h5 could not be read" in done.stderr
    rescued = list(csv.reader(io.StringIO((folder / "rescued.csv").read_text(encoding="utf-8"))))
    column = ["step", "time", "columns"].index(what)
    gone = [row[column] == "" != was[column] for row, was in zip(rescued, whole, strict=True)]
    assert 0 < sum(gone) < len(whole)
    for row, was, is_gone in zip(rescued, whole, gone, strict=True):
        assert row == ([*was[:column], "", *was[column + 1 :]] if is_gone else was)


def test_a_sound_run_is_rescued_as_it_is(command: Command) -> None:
    """With nothing damaged there is nothing to be said."""
    assert command("export", "run.h5", "--rescue") == command("export", "run.h5")


def test_compact_makes_it_smaller_and_keeps_it(command: Command) -> None:
    """One line per run, the same rows afterwards; a second time nothing happens; a missing file is told."""
    before = command("export", "run.h5").stdout
    done = command("compact", "run.h5")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run.h5: ")
    assert "%" in done.stdout
    assert command("export", "run.h5").stdout == before
    again = command("compact", "run.h5", "none.h5")
    assert again.returncode == 3
    assert "run.h5 is compacted already and was left alone" in again.stdout
    assert again.stderr.startswith("nanscope: none.h5")
    assert "compact layout" in command("info", "run.h5").stdout


def test_rounding_is_said(command: Command) -> None:
    """A lossy file says so for good."""
    assert command("compact", "run.h5", "--precision", "12bit").returncode == 0
    assert "rounded to 12bit" in " ".join(command("info", "run.h5").stdout.split())


def test_export_to_standard_output_and_files(folder: Path, command: Command) -> None:
    """The same bytes either way; an existing file is left alone; the next command comes with a file only."""
    done = command("export", "run.h5", "--steps", "10:20", "--sites", "fc1.*")
    names, *rows = csv.reader(io.StringIO(done.stdout))
    assert names == ["step", "time", "fc1.output.l2"]
    assert [float(row[2]) for row in rows] == list(range(10, 20))
    into = command("export", "run.h5", "--steps", "10:20", "--sites", "fc1.*", "-o", "x.csv")
    assert (folder / "x.csv").read_text() == done.stdout
    assert into.stdout.splitlines()[-1] == "nanscope diagnose run.h5"
    again = command("export", "run.h5", "-o", "x.csv")
    assert (again.returncode, again.stdout) == (2, "")
    assert "x.csv exists and was left alone: replace it with --force" in again.stderr
    assert (folder / "x.csv").read_text() == done.stdout


def test_an_export_replaces_what_it_is_told_to(folder: Path, command: Command) -> None:
    """With --force: the file, or what a link points to, in one go; a table that fails leaves the old one."""
    (folder / "x.csv").write_text("old")
    (folder / "link.csv").symlink_to("x.csv")
    words = ("export", "run.h5", "--sites", "loss", "--force", "-o")
    assert command(*words, "link.csv").returncode == 0
    assert (folder / "link.csv").is_symlink()
    table = (folder / "x.csv").read_text()
    assert table.splitlines()[0] == "step,time,loss"
    limited = f"ulimit -f 1; exec {sys.executable} -m nanscope export run.h5 -o x.csv --force"
    done = subprocess.run(["bash", "-c", limited], cwd=folder, capture_output=True, text=True, check=False)
    assert "cannot write x.csv" in done.stderr
    assert (folder / "x.csv").read_text() == table
    assert command(*words, "new.csv").returncode == 0
    assert sorted(path.name for path in folder.iterdir()) == ["link.csv", "new.csv", "run.h5", "x.csv"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("run.h5", "may be a run"),
        ("/dev/null", "no regular file"),
        (".", "is a folder"),
        ("pipe", "no regular"),
    ],
)
def test_what_is_not_replaced(folder: Path, command: Command, name: str, told: str) -> None:
    """Not even with --force: runs, devices, folders, pipes."""
    os.mkfifo(folder / "pipe")
    before = (folder / "run.h5").read_bytes()
    done = command("export", "run.h5", "-o", name, "--force")
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert (folder / "run.h5").read_bytes() == before


def test_export_to_parquet(folder: Path, command: Command) -> None:
    """A file that pyarrow reads, with NaN as it was."""
    parquet = pytest.importorskip("pyarrow.parquet")
    assert command("export", "run.h5", "--to", "parquet", "-o", "x.parquet").returncode == 0
    table = parquet.read_table(folder / "x.parquet")
    assert table.num_rows == ROWS
    assert np.isnan(table.column("loss").to_numpy()).all()
    assert table.column("loss").null_count == 0


def test_a_disk_that_is_full(folder: Path) -> None:
    """One line, and nothing is left behind; the same for standard output."""
    limited = f"ulimit -f 20; exec {sys.executable} -m nanscope export run.h5"
    done = subprocess.run(
        ["bash", "-c", f"{limited} -o x.csv"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot write x.csv (File too large)" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["run.h5"]
    with Path("/dev/full").open("wb") as full:
        words = [sys.executable, "-m", "nanscope", "export", "run.h5"]
        done = subprocess.run(words, cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot write to standard output (No space left on device)" in done.stderr


def test_a_pipe_that_is_closed_early(folder: Path) -> None:
    """`| head -1` gets its line, and no complaint."""
    command = f"set -o pipefail; {sys.executable} -m nanscope export run.h5 | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("step,time,fc1.output.l2,loss,")


def test_live_and_killed_runs_are_told(tmp_path: Path) -> None:
    """While it is written and after its writer is gone: info, verify and export work; compact waits."""
    code = (
        "import sys, signal; from pathlib import Path; from tests.store.files import *\n"
        "writer = RunWriter.create(Path(sys.argv[1]), header(2), layout=layout(2))\n"
        "append_pattern(writer, 0, 500, 2); print('ready', flush=True); signal.pause()\n"
    )
    path = tmp_path / "run.h5"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            live = run(tmp_path, "info", "run.h5")
            refused = run(tmp_path, "compact", "run.h5")
        finally:
            child.kill()
    assert "live: still being written" in live.stdout
    assert "last sign of life" in live.stdout
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "still being written" in refused.stderr
    killed = run(tmp_path, "info", "run.h5")
    assert "killed: its process is gone" in " ".join(killed.stdout.split())
    assert run(tmp_path, "verify", "run.h5").returncode == 0
    assert run(tmp_path, "export", "run.h5").stdout.count("\n") == 501
    assert nanscope.open_run(path).state == "killed"


WRONG = {
    "no range": (["export", "run.h5", "--steps", "5"], 2, "--steps 100:200"),
    "a huge step": (["export", "run.h5", "--steps", "9" * 5000 + ":"], 2, "is no range of steps"),
    "empty range": (["export", "run.h5", "--steps", "5:5"], 2, "--steps FIRST:END"),
    "no such site": (["export", "run.h5", "--sites", "fc9"], 2, "nanscope info run.h5"),
    "parquet into a pipe": (["export", "run.h5", "--to", "parquet"], 2, "-o FILE"),
    "missing file": (["export", "none.h5"], 3, "none.h5"),
    "missing folder": (["export", "run.h5", "-o", "none/x.csv"], 2, "No such file or directory"),
    "unknown precision": (["compact", "run.h5", "--precision", "8bit"], 2, "12bit"),
    "no run": (["verify"], 2, "See nanscope verify --help"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_line(name: str, folder: Path, command: Command) -> None:
    """Every mistake: its exit code, one line that says what to do, nothing on stdout, no file."""
    words, code, said = WRONG[name]
    done = command(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["run.h5"]


def test_every_option_is_explained() -> None:
    """Each has a description, each command names the exit codes, the formats are those there are."""
    for command in nanscope.cli.COMMANDS:
        assert command.help
        assert "Exit codes" in (command.epilog or "")
        assert all(option.help for option in command.params if option.param_type_name == "option")
    assert set(files.TABLES) == set(WRITERS)


def test_the_bar_is_for_terminals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn on stderr while it takes long, and wiped out; with its patience at 0, here it always does."""
    monkeypatch.delenv("TERM", raising=False)
    code = (
        "import nanscope.reporters.bar as bar; bar.PATIENCE = bar.EVERY = 0; import sys\n"
        "sys.argv = ['nanscope', 'verify', 'run.h5']; from nanscope.cli import main; main()"
    )
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    drawn = b""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, stderr=follower, env=environment
    ) as child:
        os.close(follower)
        with contextlib.suppress(OSError):  # what Linux says when the last one has closed a terminal
            while piece := os.read(leader, 4096):
                drawn += piece
        assert child.stdout is not None
        told = child.stdout.read()
    os.close(leader)
    assert b"sound" in told
    assert b"\x1b" not in told
    assert b"100%" in drawn
    assert b"\x1b[2K" in drawn.rpartition(b"100%")[2]
