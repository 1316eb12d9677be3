"""Divergence diagnosis for PyTorch: which step, which tensor, and why.

The names below are loaded on first use (PEP 562), so that `import nanscope` costs neither torch nor h5py.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanscope.diagnosis import diagnose
    from nanscope.errors import NanscopeError, NonFiniteError
    from nanscope.recording.record import record
    from nanscope.recording.recorder import Recorder
    from nanscope.store.reader import open_run

__version__ = "0.1.0"

_HOMES = {
    "NanscopeError": "nanscope.errors",
    "NonFiniteError": "nanscope.errors",
    "Recorder": "nanscope.recording.recorder",
    "diagnose": "nanscope.diagnosis",
    "open_run": "nanscope.store.reader",
    "record": "nanscope.recording.record",
}

__all__ = ["NanscopeError", "NonFiniteError", "Recorder", "__version__", "diagnose", "open_run", "record"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
