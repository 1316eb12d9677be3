"""The commands on the run file itself: `info`, `verify`, `compact`, `export`."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NoReturn, TypeVar

import click

from nanscope.cli.options import complain, format_option, run_argument, runs_argument
from nanscope.cli.output import force_option, new_file
from nanscope.errors import NanscopeError, RunFileError, UsageError

if TYPE_CHECKING:  # importing it for real would load h5py
    from nanscope.store.compaction.compact import Compaction

T = TypeVar("T")

DAMAGED = 3  # exit code
TABLES = ("csv", "parquet", "tensorboard")
_DIGITS = 18  # of the largest step; int() itself refuses thousands of digits, with a traceback


def _steps(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int | None, int | None]:
    first, colon, end = text.partition(":")
    if colon != ":" or not all(
        not word or (word.isdecimal() and len(word) <= _DIGITS) for word in (first, end)
    ):
        raise UsageError(f"{text!r} is no range of steps", "write it like --steps 100:200, 100: or :200")
    return int(first) if first else None, int(end) if end else None


@click.command()
@runs_argument
@format_option
def info(runs: tuple[Path, ...], form: str) -> NoReturn:
    """Say what is in each of RUNS: settings, steps, sites, files, sizes, health."""
    from nanscope.reporters import ABOUT_REPORTERS  # noqa: PLC0415 - loads rich
    from nanscope.store.about import about  # noqa: PLC0415 - loads numpy

    found, code = _each(runs, about)
    if found:
        ABOUT_REPORTERS[form](found, sys.stdout)
    sys.exit(code)


@click.command()
@runs_argument
@format_option
def verify(runs: tuple[Path, ...], form: str) -> NoReturn:
    """Check every checksum, count and summary in RUNS; exit with 0 where all is sound, else with 3."""
    from nanscope.reporters import VERIFICATION_REPORTERS  # noqa: PLC0415 - loads rich
    from nanscope.reporters.bar import Bar  # noqa: PLC0415 - loads rich
    from nanscope.store.verification.verify import Verification  # noqa: PLC0415 - loads numpy
    from nanscope.store.verification.verify import verify as verify_run  # noqa: PLC0415 - the same

    def check(path: Path) -> Verification:
        with Bar(str(path), sys.stderr) as show:
            return verify_run(path, show)

    found, code = _each(runs, check)
    if found:
        VERIFICATION_REPORTERS[form](found, sys.stdout)
    sys.exit(DAMAGED if any(each.problems for each in found) else code)


@click.command()
@runs_argument
@click.option(
    "--precision", type=click.Choice(("12bit",)),
    help="Round norms to 12 bits of mantissa, which is said in the file; without it every bit is kept.",
)  # fmt: skip
def compact(runs: tuple[Path, ...], precision: Literal["12bit"] | None) -> NoReturn:
    """Compress RUNS in place, once nobody writes them; each is checked before it replaces the original."""
    from nanscope.reporters.bar import Bar  # noqa: PLC0415 - loads rich
    from nanscope.store.compaction.compact import compact as compact_run  # noqa: PLC0415 - the same

    def shrink(path: Path) -> Compaction:
        with Bar(str(path), sys.stderr) as show:
            done = compact_run(path, precision=precision, progress=show)
        click.echo(_sizes(done))
        return done

    found, code = _each(runs, shrink)
    if found:
        names = " ".join(shlex.quote(str(done.path)) for done in found)
        click.echo(f"\nnanscope {'compare' if len(found) > 1 else 'diagnose'} {names}")
    sys.exit(code)


def _sizes(done: Compaction) -> str:
    from nanscope.numbers import count, duration, size  # noqa: PLC0415 - with what needs it

    if not done.done:
        return f"{_shown(done.path)} is compacted already and was left alone"
    share = f" ({done.after_bytes / done.before_bytes:.0%})" if done.before_bytes else ""
    pace = (
        f"{count(done.rows)} steps, {size(round(done.after_bytes / done.rows))} each"
        if done.rows
        else "no steps"
    )
    sizes = f"{size(done.before_bytes)} -> {size(done.after_bytes)}{share}"
    return f"{_shown(done.path)}: {sizes}, {pace}, in {duration(done.seconds)}"


def _shown(path: Path) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(path))


def _each(runs: Sequence[Path], look: Callable[[Path], T]) -> tuple[list[T], int]:
    """What came of each run, and an exit code; one that cannot be read does not keep the others waiting."""
    found, code = [], 0
    for run in runs:
        try:
            found.append(look(run))
        except NanscopeError as error:
            complain(str(error))
            code = max(code, error.exit_code)
    return found, code


@click.command()
@run_argument
@click.option("--to", "form", type=click.Choice(TABLES), default="csv", show_default=True, help="The format.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="A new file; for tensorboard the log folder.  [default for csv: standard output]",
)  # fmt: skip
@click.option(
    "--sites", "patterns", multiple=True, metavar="PATTERN",
    help="Only these sites, series or scalars, such as 'fc2.*', '*.l2' or loss; may be repeated.",
)  # fmt: skip
@click.option(
    "--steps", default=":", metavar="A:B", callback=_steps,
    help="Only the steps from A on and before B; either may be left out.",
)  # fmt: skip
@force_option
@click.option(
    "--rescue", is_flag=True,
    help="Of a damaged run whatever can be read; what cannot be is left empty, and counted.",
)  # fmt: skip
def export(
    run: Path,
    *,
    form: str,
    output: Path | None,
    patterns: tuple[str, ...],
    steps: tuple[int | None, int | None],
    force: bool,
    rescue: bool,
) -> None:
    """Write RUN as a table: a row per step, a column per series; what was not measured is left empty.

    For TensorBoard it becomes a run of the log folder that -o names.
    """
    from nanscope.export import WRITERS, event_file, select  # noqa: PLC0415 - loads numpy
    from nanscope.numbers import count, size  # noqa: PLC0415
    from nanscope.reporters.bar import Bar  # noqa: PLC0415 - loads rich
    from nanscope.store.reader import open_run  # noqa: PLC0415 - loads h5py

    if output is None and form != "csv":
        place = "FOLDER" if form == "tensorboard" else "FILE"
        raise UsageError(
            f"{form} goes into a {place.lower()}", f"name it: nanscope export {run} --to {form} -o {place}"
        )
    recorded, folder = open_run(run), output
    if form == "tensorboard" and output is not None:
        output = event_file(recorded, output)
    with _readable(run, rescue=rescue):
        selection = select(recorded, patterns, steps)
        with _destination(output, form, force=force) as out, Bar(recorded.name, sys.stderr) as show:
            WRITERS[form](recorded, selection, out, show)
    if output is not None:
        table = (
            f"{count(selection.stop - selection.start)} steps, {count(2 + len(selection.columns))} columns"
        )
        click.echo(f"{table}, {size(output.stat().st_size)}: {output}")
        click.echo(f"\n{_next(form, run, folder)}")


@contextlib.contextmanager
def _readable(run: Path, *, rescue: bool) -> Iterator[None]:
    """What is damaged is passed over and told, if that is asked for; else the error says how."""
    from nanscope.numbers import count  # noqa: PLC0415 - with what needs it
    from nanscope.store.compaction.chunks import rescued  # noqa: PLC0415 - loads numpy

    if not rescue:
        try:
            yield
        except RunFileError as error:
            raise RunFileError(error.message, f"nanscope export {shlex.quote(str(run))} --rescue") from error
        return
    with rescued() as damaged:
        yield
    if damaged:
        many = f"{count(len(damaged))} damaged piece{'s' * (len(damaged) > 1)}"
        complain(f"{many} of {run} could not be read: what they held is left empty")


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder to write into; what had to be made for it is removed if nothing was written."""
    missing = list(itertools.takewhile(lambda each: not each.exists(), (folder, *folder.parents)))
    try:
        _make_folder(folder)
        yield
    except BaseException:
        for made in missing:
            with contextlib.suppress(OSError):  # it was not made, or somebody has put something there
                made.rmdir()
        raise


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {folder} ({error.strerror})", "name another folder with -o") from error


def _next(form: str, run: Path, folder: Path | None) -> str:
    """The command to type after an export."""
    if form != "tensorboard":
        return f"nanscope diagnose {shlex.quote(str(run))}"
    every_point = "--samples_per_plugin scalars=0"  # by default it shows 1,000 of them, drawn by chance
    return f"tensorboard --logdir {shlex.quote(str(folder))} {every_point}"


@contextlib.contextmanager
def _destination(path: Path | None, form: str, *, force: bool) -> Iterator[IO[bytes]]:
    if path is not None:
        folder = _made(path.parent) if form == "tensorboard" else contextlib.nullcontext()
        with folder, new_file(path, force=force) as out:
            yield out
        return
    try:
        with open(sys.stdout.fileno(), "wb", closefd=False) as out:
            yield out
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"cannot write to standard output ({reason})", "write a file with -o") from error
