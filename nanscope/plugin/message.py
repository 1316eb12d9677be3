"""The text of a failure: like a good assert, at most 25 lines."""

from __future__ import annotations

import linecache
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from nanscope.numbers import count, number
from nanscope.plugin.failure import Failure
from nanscope.samples import in_dataset
from nanscope.values import Cause, Origin

MOST_LINES = 25
WIDTH = 100
MOST_OPERANDS = 4
MOST_EVIDENCE = 3
LABEL = 9  # letters of a label and the space behind it


def message_of(failures: Sequence[Failure], folder: Path) -> str:
    """The text for what failed in one phase of a test; the first failure in full.

    Args:
        folder: names of files are told relative to it where they are below it.
    """
    first, *others = failures
    tail = [f"nanscope: also {other.name}: {other.headline}"[:WIDTH] for other in others[:3]]
    tail += [f"nanscope: and {len(others) - 3} more"] if len(others) > 3 else []
    room = MOST_LINES - len(tail)
    end = list(_files(first, folder))
    body = [line for text in _lines(first, folder) for line in text]
    return "\n".join([*body[: room - len(end)], *end, *tail])


def place(failure: Failure, folder: Path) -> tuple[str, int] | None:
    """File and line of the user's code, None if they are not known."""
    if failure.location is None:
        return None
    return short(failure.location.file, folder), failure.location.line


def short(file: str | Path, folder: Path) -> str:
    """A path relative to the folder, where it is below it."""
    path = Path(file)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def _lines(failure: Failure, folder: Path) -> Iterator[list[str]]:
    yield _wrapped("nanscope: ", failure.headline)
    if failure.location is not None:
        file, line = short(failure.location.file, folder), failure.location.line
        yield [f"{'at':<{LABEL}}{file}:{line} in {failure.location.function}"]
        source = linecache.getline(failure.location.file, line).strip()
        yield [f"{'':<{LABEL}}> {source}"[:WIDTH]] if source else []
    if failure.name:
        yield [f"{'of':<{LABEL}}{failure.name}"]
    if failure.origin is not None:
        yield from _operands(failure.origin)
    if failure.cause is not None:
        yield from _cause(failure.cause)


def _operands(origin: Origin) -> Iterator[list[str]]:
    for operand in origin.operands[:MOST_OPERANDS]:
        told = f"{list(operand.shape)} {operand.dtype}, largest {number(operand.abs_max)}"
        extra = {"NaN": operand.nan, "inf": operand.inf, "zero": operand.zeros}
        told += "".join(f", {count(many)} {word}" for word, many in extra.items() if many)
        yield _wrapped(f"{operand.role[: LABEL - 1]:<{LABEL}}", told)
    if origin.result is not None:
        result = origin.result
        counts = {"NaN": result.nan, "+inf": result.posinf, "-inf": result.neginf}
        told = ", ".join(f"{count(many)} {word}" for word, many in counts.items() if many)
        yield [f"{'result':<{LABEL}}{list(result.shape)} {result.dtype}: {told}"]
    if origin.element is not None and origin.element.operands:
        values = ", ".join(map(number, origin.element.operands))
        yield [f"{'element':<{LABEL}}{list(origin.element.index)} from {values}"]
    if origin.samples:
        rows = ", ".join(map(str, origin.samples[:8])) + (", ..." if len(origin.samples) > 8 else "")
        drawn = origin.dataset_rows and [origin.dataset_rows[row] for row in origin.samples]
        where = f": {in_dataset(origin.dataset, drawn)}" if drawn else ""
        yield [f"{'sample':<{LABEL}}row {rows} of the batch{where}"[:WIDTH]]


def _cause(cause: Cause) -> Iterator[list[str]]:
    yield _wrapped(f"{'cause':<{LABEL}}", f"{cause.id}: {cause.why}")[:3]
    for line in cause.evidence[:MOST_EVIDENCE]:
        yield _wrapped(f"{'':<{LABEL}}- ", line)[:2]
    if cause.rewrite:
        yield _wrapped(f"{'safe':<{LABEL}}", cause.rewrite)[:2]


def _files(failure: Failure, folder: Path) -> Iterator[str]:
    if failure.path is not None:
        name = short(failure.path, folder)
        yield f"{'run':<{LABEL}}{name}"
        yield f"{'replay':<{LABEL}}nanscope replay {shlex.quote(name)}"
    if failure.kinds:
        words = ",".join(sorted(failure.kinds))
        yield f'{"allow":<{LABEL}}@pytest.mark.nanscope(allow="{words}") if it is meant'


def _wrapped(head: str, text: str) -> list[str]:
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return textwrap.wrap(printable, WIDTH, initial_indent=head, subsequent_indent=" " * len(head)) or [head]
