"""A claim: a cause that the operands prove, with the numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """One cause.

    Attributes:
        cause: id in the catalogue.
        why: one sentence with the measured numbers.
        evidence: more numbers: where the operands come from, what did not happen.
        rewrite: a safe form of this very code; empty for that of the catalogue.
    """

    cause: str
    why: str
    evidence: tuple[str, ...] = ()
    rewrite: str = ""
