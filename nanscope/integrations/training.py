"""A training that a framework runs: recorded from its first step to its last, with what there is to say."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from nanscope.diagnosis import diagnose
from nanscope.errors import NanscopeError, NonFiniteError
from nanscope.recording.base import OnNonfinite
from nanscope.recording.ledger import Trouble
from nanscope.recording.record import record
from nanscope.store.reader import open_run
from nanscope.values import Verdict

FILE = "nanscope.h5"
SETTING = (bool, int, float, str, type(None))


class Training:
    """One training of a model.

    Args:
        path: the run file; a taken name gets a number.
        settings: of the job; those that are no numbers or texts are left out.
        options: of `nanscope.record`.

    Attributes:
        recorder: hears every optimizer that holds one of the model's parameters.
    """

    def __init__(
        self, model: nn.Module, path: Path, settings: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        config = {name: value for name, value in settings.items() if isinstance(value, SETTING)}
        self.recorder = record(model, None, path, **{"config": config, **options})
        self.recorder.__enter__()
        self._told = False

    @property
    def is_in_trouble(self) -> bool:
        """Whether a non-finite value reached a loss, a gradient or a parameter."""
        return self.recorder.trouble is not None

    def news(self) -> str | None:
        """Where the first non-finite value was met, once, when it is known."""
        trouble = self.recorder.trouble
        if self._told or trouble is None:
            return None
        self._told = True
        return f"nanscope: {_where(trouble)}: nanscope diagnose {self.recorder.path}"

    def error(self) -> NonFiniteError | None:
        """What is raised where the user asked for it."""
        trouble = self.recorder.trouble
        if trouble is None:
            return None
        return NonFiniteError(_where(trouble), f"see nanscope diagnose {self.recorder.path}")

    def end(self, error: BaseException | None = None) -> str:
        """Finish the run file.

        Args:
            error: what ended the training, if it did not end well.

        Returns:
            What happened in it, and the command to type next.
        """
        self.recorder.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
        path = self.recorder.path
        if path is None:
            return "nanscope: the run could not be recorded"
        try:
            diagnosis = diagnose(open_run(path))
        except NanscopeError as unreadable:  # moved or removed meanwhile: the training must not end by it
            return f"nanscope: {unreadable}"
        command = "replay" if diagnosis.verdict is Verdict.HEALTHY else "diagnose"
        return f"nanscope: {diagnosis.summary}\nnanscope {command} {path}"


def framework(extra: str, *names: str) -> Any:
    """The first module of these that can be imported; one that is loaded already goes first.

    Raises:
        ImportError: none can be; one line with the command that helps.
    """
    for name in sorted(names, key=lambda name: name not in sys.modules):
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    package = names[0].partition(".")[0]
    raise ImportError(f"{package} is not installed: pip install 'nanscope[{extra}]'")


def checked(on_nonfinite: OnNonfinite, options: Mapping[str, Any]) -> None:
    """Complain of wrong options where they are written, before anything is trained.

    Raises:
        UsageError: `record` would refuse them.
    """
    record(nn.Module(), None, on_nonfinite=on_nonfinite, **options)


def _where(trouble: Trouble) -> str:
    site = "the loss" if trouble.site is None else str(trouble.site)
    return f"non-finite value in step {trouble.step}, {trouble.phase} phase, first at {site}"
