"""What can go wrong, with a way out.

    NanscopeError            base: a message, a hint, an exit code
    ├── UsageError           2  the command or call cannot be carried out as written
    │   ├── RunFileExistsError    the name is taken, nothing was overwritten
    │   └── DatasetError          the data set is not here and cannot be fetched
    ├── RunFileError         3  the file is not a readable run file
    ├── NotRecordedError     2  the run holds no such site, stat or scalar
    └── NonFiniteError       1  raised into the training, only where `on_nonfinite="raise"` asks for it

The CLI prints message and hint as one line on stderr and leaves with the exit code.
"""

from __future__ import annotations


class NanscopeError(Exception):
    """Base of every error that nanscope raises on purpose.

    Args:
        message: what happened, one line.
        hint: what to do about it, one line; may be empty.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message


class UsageError(NanscopeError):
    """The command or call cannot be carried out as written."""


class RunFileExistsError(UsageError):
    """The name is taken; nothing was overwritten."""


class DatasetError(UsageError):
    """The data set is not here and cannot be fetched."""


class RunFileError(NanscopeError):
    """The file is not a readable run file."""

    exit_code = 3


class NotRecordedError(NanscopeError):
    """The run holds no such site, stat or scalar."""


class NonFiniteError(NanscopeError):
    """A non-finite value was recorded and `on_nonfinite="raise"` asked to stop there."""

    exit_code = 1
