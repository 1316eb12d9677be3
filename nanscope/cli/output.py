"""A file that a command writes: there is all of it or nothing, in the place of another one only if asked."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from nanscope.errors import UsageError

HDF5 = b"\x89HDF\r\n\x1a\n"
"""What an HDF5 file, and so every run file, begins with."""

force_option = click.option("--force", is_flag=True, help="Replace the file that has this name already.")


@contextlib.contextmanager
def new_file(path: Path, *, force: bool = False) -> Iterator[IO[bytes]]:
    """A binary stream; the file gets its name when the block ends well.

    Args:
        path: the name.
        force: a regular file of this name is replaced, at the end and in one go; of a link, what it points
            to. A run file is not: no command makes one over, and one mistyped name would cost a training.

    Raises:
        UsageError: the name is taken, or the file cannot be written.
    """
    target = _replaceable(path, force=force) if os.path.lexists(path) else path
    temporary = target.with_name(f".nanscope-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as out:
            yield out
        _name(temporary, target, force=force)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UsageError(f"cannot write {path} ({reason})", "choose another place with -o") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _replaceable(path: Path, *, force: bool) -> Path:
    """What is to be replaced; refused before any work is done, and not after it."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "name a file with -o")
    if not force:
        raise _taken(path)
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise UsageError(f"{path} is no regular file and was left alone", "choose another name with -o")
    if _is_hdf5(target):
        raise UsageError(f"{path} may be a run and was left alone", "choose another name with -o")
    return target


def _is_hdf5(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(HDF5)) == HDF5
    except OSError:  # cannot be read, which is no reason not to replace it
        return False


def _name(temporary: Path, path: Path, *, force: bool) -> None:
    if force:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)  # unlike a rename, refuses to overwrite
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system: take the name first, then rename over it
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        temporary.replace(path)


def _taken(path: Path) -> UsageError:
    advice = "replace it with --force, or choose another name with -o"
    return UsageError(f"{path} exists and was left alone", advice)
