"""The few facts of a run that stand beside its diagnosis: its settings, its state, the next command.

A run file may come from anywhere: every key of its settings may be absent or hold something unexpected.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from nanscope.run import Run

STATES: Mapping[str, str] = {
    "live": "still being written, this is how it stands now",
    "interrupted": "the training was interrupted, everything up to then is here",
    "failed": "the training ended with an exception",
    "killed": "its process is gone and did not close the file, what it had written is here",
    "continued": "goes on in another part, which is not here",
}
"""What to say of a run that did not simply finish, by `Run.state`."""


def facts_of(run: Run) -> dict[str, Any]:
    """What is known of the run itself: name, steps, state, config, environment, epochs, lost."""
    return {
        "name": run.name,
        "steps": len(run),
        "state": run.state,
        "config": run.header.config,
        "environment": run.header.environment,
        "epochs": [epoch.to_dict() for epoch in run.epochs],
        "lost": run.lost,
    }


def job_of(config: Mapping[str, Any]) -> str:
    """The settings in words, such as `digits, batch size 1, sgd, lr 0.1`; empty when none is there."""
    words = (
        word_of(config, "dataset"),
        batch_of(config),
        word_of(config, "optimizer"),
        word_of(config, "lr", "lr "),
        word_of(config, "momentum", "momentum ") if config.get("momentum") else "",
        word_of(config, "seed", "seed "),
    )
    return ", ".join(filter(None, words))


def batch_of(config: Mapping[str, Any]) -> str:
    """`batch size 32`, `full batch` (an explicit null), or nothing."""
    if "batch_size" in config and config["batch_size"] is None:
        return "full batch"
    return word_of(config, "batch_size", "batch size ")


def word_of(config: Mapping[str, Any], key: str, before: str = "") -> str:
    """One plain setting in words; nothing when it is absent or no plain value."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return f"{before}{value}"


def updates_per_epoch(config: Mapping[str, Any]) -> int | None:
    """Updates of a whole epoch, where the settings tell it."""
    given, size = _count(config, "updates_per_epoch"), _count(config, "train_size")
    if given or not size or "batch_size" not in config:
        return given
    if config["batch_size"] is None:
        return 1
    batch = _count(config, "batch_size")
    return -(-size // batch) if batch else None


def _count(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def notices_of(run: Run, told: Iterable[str] = ()) -> tuple[str, ...]:
    """How the run ended, unless it simply finished, and what was lost, unless it is told elsewhere."""
    state = STATES.get(run.state)
    known = set(told)
    return (
        *((f"{run.state}: {state}",) if state else ()),
        *(() if len(run) else ("this run holds no steps",)),
        *(loss for loss in run.lost if loss not in known),
    )


def replay_command(names: Iterable[str]) -> str:
    """The command that opens the runs on the screen, ready for a shell."""
    return " ".join(["nanscope replay", *(shlex.quote(name) for name in names)])
