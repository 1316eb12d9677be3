"""Was something non-finite that did no lasting harm: masked away, skipped, or finite again?"""

from __future__ import annotations

from collections.abc import Iterable

from nanscope.detectors._births import Birth, Episode, birth_of, episodes
from nanscope.detectors._rows import step_of, value_at
from nanscope.detectors.first_nonfinite import counts
from nanscope.run import Run
from nanscope.values import Finding, Phase, Severity


def healed(run: Run) -> Iterable[Finding]:
    """NS103: a NaN or inf that was born and is gone again, or never reached loss, gradients and weights."""
    gone = [episode for episode in episodes(run) if not episode.stayed]
    if not gone:
        return
    first, birth = gone[0], birth_of(run, gone[0])
    steps = sum(episode.stop - episode.start for episode in gone)
    yield Finding(
        "NS103",
        "healed",
        Severity.NOTE if _skipped(run, first, birth) or _meant(run, first) else Severity.WARNING,
        birth.step,
        f"{birth.name} was non-finite in the {birth.phase} phase of step {birth.step}{counts(birth)}; "
        f"{_ending(run, first, birth)} ({len(gone)} such episodes, {steps} steps in all)",
        birth.site,
        birth.phase,
        {
            "episodes": len(gone),
            "steps": steps,
            "nan": birth.nan,
            "inf": birth.inf,
            "reached_loss_or_gradients": first.harmful,
            "skipped_update": _skipped(run, first, birth),
            "last_step": step_of(run, gone[-1].stop - 1),
        },
    )


def _ending(run: Run, episode: Episode, birth: Birth) -> str:
    if episode.protected:
        return "the gradient scaler skipped the update, and the weights stayed finite"
    if _skipped(run, episode, birth):
        return "the weights stayed finite, as when a gradient scaler skips the update"
    if not episode.harmful:
        return "loss, gradients and weights stayed finite: it was masked away"
    return f"all was finite again at step {step_of(run, episode.stop)}"


def _skipped(run: Run, episode: Episode, birth: Birth) -> bool:
    """Half-precision gradients that overflowed: what a loss scale does on purpose while it adapts.

    A guess, for runs that do not tell which updates were skipped; where they do it is no episode at all.
    """
    if run.has(None, "skipped"):
        return False
    half = any(site.dtype == "float16" for site in run.sites) or run.has(None, "loss_scale")
    return half and birth.phase is Phase.BACKWARD and episode.harmful


def _meant(run: Run, episode: Episode) -> bool:
    """Infinities without a NaN that harmed nothing: most likely written on purpose."""
    if episode.harmful:
        return False
    nans = (value_at(run, site, "nan_count", episode.start) for site in run.sites)
    return not any(nan for nan in nans if nan is not None)
