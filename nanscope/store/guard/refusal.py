"""Why a file is not read, in words that its user understands."""

from __future__ import annotations

from nanscope.errors import RunFileError
from nanscope.store.text import clean

_SHOWN = 80  # letters of a name that a sentence repeats
_DISTRUST = "do not trust this file; ask where it comes from for the one that was recorded"


class Refusal(Exception):  # noqa: N818 - not an error of the program: it is what the check found
    """The file holds what no run file holds; the text completes a sentence that begins with its name."""


def shown(name: bytes) -> str:
    """A name from the file as a sentence may repeat it: cleaned and cut."""
    text = clean(name.decode("utf-8", "replace"))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def check(condition: bool, reason: str) -> None:
    """Refuse unless the condition holds."""
    if not condition:
        raise Refusal(reason)


def refused(name: str, reason: str) -> RunFileError:
    """The error for a file that holds what no run file holds, or that could not be looked at."""
    return RunFileError(f"{name} was not opened: {reason}", _DISTRUST)


def damaged(name: str) -> RunFileError:
    """The error for a file that is not as it was written."""
    return RunFileError(f"{name} is damaged or cut short", "copy it again from where it was recorded")
