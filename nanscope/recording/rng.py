"""Every random number generator that a training may draw from: its state as integers, and back.

Reading a state draws nothing, and starts no device that was not in use.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from nanscope.errors import UsageError
from nanscope.recording.tree import Packer, Unpacker, malformed


def pack_rng(packer: Packer) -> dict[str, Any]:
    """States of torch (CPU, each CUDA device in use, MPS), Python's `random` and numpy's global generator."""
    version, words, gauss = random.getstate()
    states = {
        "torch": torch.default_generator.get_state(),
        "cuda": _cuda_states(),
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        "python": [version, np.array(words, np.uint32), gauss],
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - the one that programs draw from
    }
    return {name: packer.pack(state, f"rng.{name}") for name, state in states.items()}


class RngRestorer:
    """States of a snapshot, tried on generators that nobody uses; `apply` sets the real ones.

    Raises:
        UsageError: a state does not fit the generators here.
        RunFileError: the file is damaged.
    """

    def __init__(self, packed: Any, unpacker: Unpacker) -> None:
        if not isinstance(packed, Mapping):
            raise malformed("no random states")
        self._states = {name: unpacker.unpack(packed.get(name)) for name in _SETTERS}
        if len(self._states["cuda"] or []) > _cuda_devices():
            raise UsageError("the snapshot holds random states of more CUDA devices than there are here")
        try:
            _try(self._states)
        except (RuntimeError, TypeError, ValueError, KeyError, OverflowError) as error:
            raise UsageError(f"a random state does not fit this program: {error}") from error

    def apply(self) -> None:
        """Set the generators."""
        for name, setter in _SETTERS.items():
            if self._states[name] is not None:
                setter(self._states[name])


def _cuda_devices() -> int:
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.device_count() if in_use else 0


def _cuda_states() -> list[torch.Tensor]:
    return [torch.cuda.default_generators[i].get_state() for i in range(_cuda_devices())]


def _set_cuda(states: list[torch.Tensor]) -> None:
    for generator, state in zip(torch.cuda.default_generators, states, strict=False):
        generator.set_state(state)


def _python_state(state: list[Any]) -> tuple[Any, ...]:
    version, words, gauss = state
    return version, tuple(words.tolist()), gauss


def _try(states: Mapping[str, Any]) -> None:
    torch.Generator().set_state(states["torch"])
    random.Random().setstate(_python_state(states["python"]))  # noqa: S311 - not for secrets
    current = np.random.get_state(legacy=False)["bit_generator"]  # noqa: NPY002 - as above
    np.random.RandomState(getattr(np.random, current)()).set_state(states["numpy"])
    for i, state in enumerate(states["cuda"]):
        torch.Generator(f"cuda:{i}").set_state(state)


_SETTERS: Mapping[str, Any] = {
    "torch": torch.default_generator.set_state,
    "cuda": _set_cuda,
    "mps": torch.mps.set_rng_state,
    "python": lambda state: random.setstate(_python_state(state)),
    "numpy": np.random.set_state,
}
