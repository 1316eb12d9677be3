"""What a run file says about the job beside its numbers: versions, device, seed, command, model structure."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from nanscope import __version__


def environment(model: nn.Module) -> Mapping[str, Any]:
    """Versions, device, dtype, seed and command of this process, as JSON types."""
    first = next(model.parameters(), None)
    return {
        "nanscope": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": "cpu" if first is None else str(first.device),
        "dtype": "" if first is None else str(first.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seed": torch.initial_seed(),
        "pid": os.getpid(),
        "argv": list(sys.argv),
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """Commit of the working directory, None outside a repository or without git."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - the user's own git
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def structure(
    model: nn.Module, optimizers: Sequence[Optimizer] | None = None
) -> tuple[Mapping[str, Any], ...]:
    """One entry per module: fqn, type, shapes of its own parameters, and which of them are trained."""
    groups = [group for optimizer in optimizers or () for group in optimizer.param_groups]
    held = {id(p) for group in groups for p in group["params"]}
    return tuple(
        {
            "name": name,
            "type": type(module).__name__,
            "parameters": {key: list(p.shape) for key, p in module.named_parameters(recurse=False)},
        }
        | ({"learns": _learning(module, held)} if optimizers else {})
        for name, module in model.named_modules()
    )


def _learning(module: nn.Module, held: Collection[int]) -> list[str]:
    own = module.named_parameters(recurse=False)
    return [key for key, p in own if p.requires_grad and id(p) in held]
