"""A fault: a small training program with a planted mistake, and the truth about it.

A program is a function of one argument, `watch`. It trains as anybody would, and says only where its loop is:

    @fault("loss", step=4, phase="loss", op="log", sample=2, cause="log-of-zero", source="https://...")
    def log_of_softmax(watch: Watch) -> None:
        '''One sentence: what is wrong in this program.'''
        torch.manual_seed(0)
        model, optimizer = ...
        with watch(model, optimizer):
            for x, y in batches:
                ...

`watch` is `nanscope.record` with a path, or a rival, or the oracle: the program cannot tell. Programs are
seeded, run on the CPU, take less than a second, and go on for some steps after the fault, as trainings do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

Watch = Callable[..., AbstractContextManager[Any]]
"""Called as `watch(model, optimizer)` (or with several optimizers in a tuple), used in a `with`."""

Program = Callable[[Watch], None]

Names = str | tuple[str, ...]
"""One name, or several which are equally fair, the best first."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What a perfect diagnosis says. None: the program has no such thing, and it is not scored.

    Attributes:
        step: where the first fatal non-finite value is born, 0-based.
        phase: data, init, forward, loss, backward or update.
        module: fqn of the innermost module that was running; `""` is outside of every module, or the root's
            own forward.
        op: canonical name of the operation; in a backward pass that of the forward operation, for a custom
            function its class name, for a hook its function's name, for data `input`, for init `parameter` or
            `buffer`.
        sample: row of the batch that is to blame; None when no single one is.
        cause: id in the catalogue of causes.
        verdict: diverged, collapsed or suspicious.
        rule: slug of a finding that must be there; for faults without a non-finite value.
    """

    step: int | None
    phase: Names | None
    module: Names | None
    op: Names | None
    sample: int | None
    cause: Names | None
    verdict: Names
    rule: Names | None


@dataclass(frozen=True, slots=True)
class Fault:
    """One program; `truth` is None for a healthy one.

    Attributes:
        name: the program's function name, unique.
        family: the kind of mistake, such as `loss`; for a healthy program what makes it look dangerous.
        source: where the mistake was reported, or `"own"`.
    """

    name: str
    family: str
    program: Program
    truth: Truth | None
    source: str

    @property
    def healthy(self) -> bool:
        """Whether a finding of divergence or collapse would be a false alarm."""
        return self.truth is None

    @property
    def summary(self) -> str:
        """The program's docstring: what is wrong, or only looks wrong."""
        return (self.program.__doc__ or "").strip()


def fault(
    family: str,
    *,
    cause: Names | None,
    source: str,
    step: int | None = None,
    phase: Names | None = None,
    module: Names | None = None,
    op: Names | None = None,
    sample: int | None = None,
    verdict: Names = "diverged",
    rule: Names | None = None,
) -> Callable[[Program], Fault]:
    """Decorator: the program with its truth (the arguments are those of `Truth`)."""
    truth = Truth(step, phase, module, op, sample, cause, verdict, rule)

    def made(program: Program) -> Fault:
        return Fault(program.__name__, family, program, truth, source)

    return made


def healthy(family: str, *, source: str = "own") -> Callable[[Program], Fault]:
    """Decorator: a program that looks dangerous and is not."""

    def made(program: Program) -> Fault:
        return Fault(program.__name__, family, program, None, source)

    return made


def fair(names: Names | None) -> tuple[str, ...]:
    """Every fair name as a tuple; empty when none is asked for."""
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else names
