"""A file that a command writes: there is all of it or nothing, and never in the place of another file."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nanscope.errors import UsageError


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream; the file gets its name when the block ends well.

    Raises:
        UsageError: the name is taken, or the file cannot be written.
    """
    if os.path.lexists(path):
        raise _taken(path)
    temporary = path.with_name(f".nanscope-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as out:
            yield out
        _name(temporary, path)
    except FileExistsError:
        raise _taken(path) from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UsageError(f"cannot write {path} ({reason})", "choose another place with -o") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _name(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # unlike a rename, refuses to overwrite
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system: take the name first, then rename over it
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        temporary.replace(path)


def _taken(path: Path) -> UsageError:
    return UsageError(f"{path} exists and was left alone", "choose another name or remove the file")
