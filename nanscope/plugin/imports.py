"""Tell when torch has been imported, so that tests without it pay nothing."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def is_imported() -> bool:
    """Whether torch is there, and complete."""
    module = sys.modules.get("torch")
    return module is not None and not getattr(module.__spec__, "_initializing", False)


class TorchImport(MetaPathFinder):
    """Calls `imported` once, right after the import of torch by whomever; put on `sys.meta_path`."""

    def __init__(self, imported: Callable[[], None]) -> None:
        self._imported = imported

    def arm(self) -> None:
        """Wait for it."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def disarm(self) -> None:
        """Wait no more."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Torch's own spec, with a loader that tells."""
        if fullname != "torch":
            return None
        self.disarm()
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Telling(spec.loader, self._imported)
        return spec


class _Telling(Loader):
    def __init__(self, loader: Loader, imported: Callable[[], None]) -> None:
        self._loader, self._imported = loader, imported

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader  # torch shall find its own one
        self._loader.exec_module(module)
        self._imported()
