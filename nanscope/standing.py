"""The one word that a person reads first: the verdict, but health only of a run that was seen to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nanscope.values import Severity, Verdict

SEVERITY_OF: Mapping[Verdict, Severity] = {
    Verdict.DIVERGED: Severity.ERROR,
    Verdict.COLLAPSED: Severity.ERROR,
    Verdict.SUSPICIOUS: Severity.WARNING,
    Verdict.HEALTHY: Severity.NOTE,
}
SO_FAR: Mapping[str, str] = {
    "live": "so far",
    "interrupted": "until it was interrupted",
    "failed": "until it failed",
    "killed": "until it was killed",
    "continued": "in the parts that are here",
}
"""How far a run was seen that did not simply finish, by `Run.state`."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands.

    Attributes:
        word: the verdict; `live`, `killed` and so on of a run that is healthy as far as it goes.
        severity: how loud it is.
        so_far: how far it was seen, where its health is claimed only so far; else empty.
    """

    word: str
    severity: Severity
    so_far: str = ""


def standing_of(verdict: Verdict, state: str) -> Standing:
    """How a run stands by its verdict and its state; trouble is trouble, however the run ended."""
    if verdict is not Verdict.HEALTHY or state not in SO_FAR:
        return Standing(str(verdict), SEVERITY_OF[verdict])
    # A training that still goes on is as it should be; one that ended early is something to know of.
    return Standing(state, Severity.NOTE if state == "live" else Severity.WARNING, SO_FAR[state])
