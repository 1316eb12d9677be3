"""Operations on whole matrices: singular ones, those that are not positive definite, equal eigenvalues."""

from __future__ import annotations

from collections.abc import Iterator

from nanscope.evidence.claims import Claim
from nanscope.evidence.facts import Facts, whole
from nanscope.evidence.overflow import overflow
from nanscope.numbers import number

DETERMINANTS = ("logdet", "slogdet", "linalg_slogdet")
INVERSES = (
    "linalg_inv",
    "inverse",
    "linalg_solve",
    "linalg_lu_solve",
    "linalg_ldl_solve",
    "triangular_solve",
    "cholesky_solve",
    "cholesky_inverse",
)
CHOLESKY = ("cholesky", "linalg_cholesky")
SPECTRA = ("linalg_eig", "linalg_svd", "svd", "eig", "symeig")
"""Functions whose gradient divides by the differences of eigenvalues or singular values."""


def determinant(facts: Facts) -> Iterator[Claim]:
    """The logarithm of a determinant that is negative, or zero."""
    if facts.op != "logdet" and not _is_singular(facts):
        yield from overflow(facts)
        return
    kind, sign = ("domain-error", "negative") if facts.is_nan else ("log-of-zero", "zero: it is singular")
    yield Claim(
        kind,
        f"`{facts.op}` received a matrix whose determinant is {sign}{facts.where}",
        _spread(facts),
        "torch.linalg.slogdet(x)  # sign, and logarithm of the size"
        if facts.is_nan
        else "torch.linalg.slogdet(x + eps * torch.eye(n))",
    )


def inverse(facts: Facts) -> Iterator[Claim]:
    """Of a matrix whose rank is too low: elimination divides by zero."""
    if not _is_singular(facts):
        yield from overflow(facts)
        return
    rank, size = whole(facts.matrix.number("rank")), whole(facts.matrix.number("size"))
    yield Claim(
        "division-by-zero",
        f"`{facts.op}` received a singular matrix, of rank {rank} and size {size}{facts.where}: "
        "elimination divides by zero",
        _spread(facts),
        "torch.linalg.pinv(x)  # or x + eps * torch.eye(n)",
    )


def cholesky(facts: Facts) -> Iterator[Claim]:
    """Of a matrix that is not positive definite."""
    lowest = facts.matrix.number("lowest")
    if not lowest <= 0:
        yield from overflow(facts)
        return
    yield Claim(
        "domain-error",
        f"`{facts.op}` received a matrix that is not positive definite: its smallest eigenvalue is "
        f"{number(lowest)}{facts.where}",
        rewrite="torch.linalg.cholesky(x + eps * torch.eye(n))",
    )


def _is_singular(facts: Facts) -> bool:
    return facts.matrix.number("rank") < facts.matrix.number("size")


def _spread(facts: Facts) -> tuple[str, ...]:
    smallest, largest = facts.matrix.number("smallest"), facts.matrix.number("largest")
    if not smallest <= largest:
        return ()
    return (f"its singular values range from {number(smallest)} to {number(largest)}",)
