"""What is fixed in a run file: its header, its sizes, where everything is. Checked before it is believed."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from nanscope import __version__
from nanscope.errors import RunFileError
from nanscope.run import Header
from nanscope.store.guard.refusal import Refusal, damaged, refused
from nanscope.store.guard.sandbox import take_inventory
from nanscope.store.guard.survey import is_ours
from nanscope.store.guard.watched import read_at
from nanscope.store.headers import read_header
from nanscope.store.inventory import Attribute, Inventory
from nanscope.store.layout import Layout
from nanscope.store.schema import FORMAT, MAJOR
from nanscope.store.sizes import check_compact, live_layout, offsets_of
from nanscope.store.text import clean

PARTS = 1_000_000

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
# what numpy, json and look-ups raise on contents that are not as the schema says
_UNSOUND = (KeyError, IndexError, ValueError, TypeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Contents:
    """What is fixed in one file of a run.

    Attributes:
        header: as in `Run`.
        layout: sizes of a live file; None where the file is compacted.
        offsets: of every dataset of a live file, by name.
        inventory: everything that is in the file; its texts are not cleaned.
        host: the machine that recorded.
        run_id: 32 hex digits, the same in all parts of a run.
        part: number of this part, from 1.
        parts: how many of them the file holds, this one and those after it.
    """

    header: Header
    layout: Layout | None
    offsets: dict[str, int]
    inventory: Inventory
    host: str
    run_id: str
    part: int = 1
    parts: int = 1


def open_contents(path: Path, name: str) -> tuple[Contents, int]:
    """Check the file and read what is fixed in it.

    Args:
        path: the file.
        name: how messages call it.

    Returns:
        The contents, and a descriptor of the file that the caller closes.

    Raises:
        RunFileError: no such file, or not a run file that this version reads, or one made to do harm.
    """
    descriptor = _open(path, name)
    try:
        _check_kind(descriptor, name)
        inventory = take_inventory(descriptor, name)
        _check_format(inventory, name)
        try:
            return _contents(descriptor, inventory), descriptor
        except Refusal as refusal:
            raise refused(name, str(refusal)) from refusal
        except _UNSOUND as error:
            raise damaged(name) from error
    except BaseException:
        os.close(descriptor)
        raise


def _open(path: Path, name: str) -> int:
    # a FIFO would block until somebody writes to it; Windows would change line ends
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise RunFileError(f"{name} cannot be read ({reason})", "check the name") from error


def _check_kind(descriptor: int, name: str) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise RunFileError(f"{name} is {what}", "give the name of a run file")
    if status.st_size == 0:
        raise RunFileError(f"{name} is empty, so it is not an HDF5 file", "give the name of a run file")
    if read_at(descriptor, len(_SIGNATURE), 0) != _SIGNATURE:
        raise RunFileError(f"{name} is not an HDF5 file", "give the name of a run file, such as run.h5")


def _check_format(inventory: Inventory, name: str) -> None:
    attributes = inventory.attributes
    if attributes.get("format") != FORMAT:
        raise RunFileError(f"{name} is an HDF5 file but no nanscope run file", "give the name of a run file")
    if not is_ours(attributes):
        version, writer = (
            clean(str(attributes.get(key, "unknown"))) for key in ("format_version", "nanscope_version")
        )
        raise RunFileError(
            f"{name} was written by nanscope {writer} in format {version}, "
            f"this is nanscope {__version__}, which reads format {MAJOR}",
            "pip install -U nanscope",
        )


def _contents(descriptor: int, inventory: Inventory) -> Contents:
    attributes = inventory.attributes
    header = read_header(descriptor, inventory)
    live = {"live": True, "compact": False}[str(attributes["layout"])]
    layout = live_layout(inventory.arrays) if live else None
    if layout is None:
        check_compact(inventory.arrays, os.fstat(descriptor).st_size)
    elif len(header.columns) != layout.columns:
        raise ValueError("columns that do not fit the rows")
    return Contents(
        header=header,
        layout=layout,
        offsets=offsets_of(layout, inventory.arrays, os.fstat(descriptor).st_size) if layout else {},
        inventory=inventory,
        host=clean(str(attributes["host"])),
        run_id=_run_id(attributes["run_id"]),
        part=_number(attributes["part"]),
        parts=_number(attributes.get("parts", 1)),
    )


def _run_id(value: Attribute) -> str:
    # it becomes part of the name of a file that is looked for
    if not isinstance(value, str) or not _RUN_ID.fullmatch(value):
        raise ValueError("no run id")
    return value


def _number(value: Attribute) -> int:
    if not isinstance(value, int) or not 1 <= value <= PARTS:
        raise ValueError("no number of a part")
    return value
