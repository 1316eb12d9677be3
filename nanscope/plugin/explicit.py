"""The fixture `nanscope`: watch by hand, expect what is meant, and assert on what was found."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from nanscope.errors import UsageError
from nanscope.values import Diagnosis, Finding

if TYPE_CHECKING:  # importing them for real would load torch
    from torch import nn
    from torch.optim import Optimizer

    from nanscope.plugin.failure import Failure
    from nanscope.plugin.session import Session
    from nanscope.recording.recorder import Recorder


class Explicit:
    """Of one test.

    Attributes:
        diagnoses: of the blocks of `record` that were left, in order.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.diagnoses: list[Diagnosis] = []

    @property
    def findings(self) -> list[Finding]:
        """Every finding of these diagnoses."""
        return [finding for diagnosis in self.diagnoses for finding in diagnosis.findings]

    @contextmanager
    def record(
        self, model: nn.Module, optimizer: Optimizer | Iterable[Optimizer] | None = None, **options: Any
    ) -> Iterator[Recorder]:
        """Record a training as `nanscope.record` does; what it finds is no failure, but told in `diagnoses`.

        The run file is removed with the block, unless `path` says where to keep it.
        """
        from nanscope.diagnosis import diagnose  # noqa: PLC0415 - loads numpy
        from nanscope.recording.record import record  # noqa: PLC0415 - loads torch

        path = options.pop("path", None)
        with record(model, optimizer, path or self._session.run_file, **options) as recorder:
            yield recorder
        made = recorder.path
        if made is not None and made.exists():
            self.diagnoses.append(diagnose(made))
            if path is None:
                made.unlink()

    @contextmanager
    def expect_nonfinite(self, cause: str | None = None) -> Iterator[None]:
        """A block in which something turns non-finite, and is meant to; the test fails if nothing does.

        Args:
            cause: id of the cause that it must have, such as `log-of-zero`.

        Raises:
            UsageError: there is no such cause.
        """
        session = self._session
        _check_cause(cause)
        session.settle()
        yield
        failures = session.taken()
        if not failures:
            pytest.fail("nanscope: everything in the block was finite", pytrace=False)
        causes = {failure.cause.id for failure in failures if failure.cause is not None}
        if cause is not None and cause not in causes:
            found = ", ".join(sorted(causes)) or "no known cause"
            pytest.fail(f"nanscope: expected {cause}, found {found}: {_first(failures)}", pytrace=False)


def _check_cause(cause: str | None) -> None:
    from nanscope.causes import CATALOGUE  # noqa: PLC0415 - only who expects a cause

    if cause is not None and cause not in CATALOGUE:
        near = difflib.get_close_matches(cause, CATALOGUE, 3) or sorted(CATALOGUE)
        raise UsageError(f"there is no cause {cause}", f"did you mean {' or '.join(near)}?")


def _first(failures: list[Failure]) -> str:
    return failures[0].headline
