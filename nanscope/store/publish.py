"""Put a new run file under its name: whole or not at all, and never over another file."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from nanscope.errors import RunFileExistsError, UsageError
from nanscope.store.image import Image
from nanscope.store.regions import write_all

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_HINTS = {
    errno.ENOSPC: "the disk is full: free space or record elsewhere",
    errno.EDQUOT: "the quota is used up: free space or record elsewhere",
    errno.EFBIG: "the file system or a limit (ulimit -f) refuses a file of this size",
    errno.EROFS: "the file system is read-only: record elsewhere",
    errno.EACCES: "the folder cannot be written: record elsewhere",
    errno.EPERM: "the folder cannot be written: record elsewhere",
    errno.ENOENT: "make its folder first",
    errno.ENOTDIR: "its folder is a file",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def publish(path: Path, image: Image, reserved: Iterable[tuple[int, int]]) -> int:
    """Write the file under a temporary name, sync it, give it its name.

    Args:
        path: the final name.
        image: what to write.
        reserved: offset and length of the regions that are filled with zeros now, so that the disk has
            room for them for good.

    Returns:
        The descriptor of the open file, which the caller closes.

    Raises:
        RunFileExistsError: the name is taken; the file there is untouched.
        UsageError: the file cannot be made there.
    """
    _refuse_existing(path)
    temporary = path.with_name(f".nanscope-{secrets.token_hex(8)}.tmp")
    try:
        return _publish(path, temporary, image, reserved)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "record elsewhere")
        raise UsageError(f"cannot record into {path} ({os.strerror(error.errno or 0)})", hint) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _publish(path: Path, temporary: Path, image: Image, reserved: Iterable[tuple[int, int]]) -> int:
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _fill(descriptor, image, reserved)
        _name(temporary, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _fill(descriptor: int, image: Image, reserved: Iterable[tuple[int, int]]) -> None:
    os.ftruncate(descriptor, image.size)
    for offset, length in reserved:
        write_all(descriptor, bytes(length), offset)
    for offset, piece in image.pieces:
        write_all(descriptor, piece, offset)
    os.fsync(descriptor)


def _name(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike a rename, refuses to overwrite
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # some network and FAT file systems have no hard links: take the name first, then rename over it
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise _taken(path)


def _taken(path: Path) -> RunFileExistsError:
    return RunFileExistsError(f"{path} exists and was left alone", "choose another name or remove the file")
