"""What torch.compile, torch.func and tracers hide: calls of modules within them are not told.

A compiled graph calls no module, it runs what was traced once. Within a transform or a tracer modules are
called, but with tensors that stand for others: they hold no numbers, and a norm taken of them would become
part of what is traced. In both cases the gradients of the parameters are ordinary ones and are recorded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from nanscope.recording import calls
from nanscope.recording.calls import WRAPPER
from nanscope.recording.passes import Pass
from nanscope.recording.places import Places

NODES = 64  # of a graph, from the loss on: all of what was compiled is one node, and near it
NODE = "CompiledFunction"  # how its name begins

_FAKE, _PROXY = torch._C._TorchDispatchModeKey.FAKE, torch._C._TorchDispatchModeKey.PROXY


def unwrapped(model: nn.Module) -> nn.Module:
    """The module in the wrapper that `torch.compile(module)` returns; any other module itself."""
    return cast("nn.Module", model._orig_mod) if type(model).__name__ == WRAPPER else model


def is_transformed() -> bool:
    """Whether tensors stand for others now: within torch.func, a tracer, or among fake tensors."""
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._get_tracing_state() is not None
        or torch._C._get_dispatch_mode(_FAKE) is not None
        or torch._C._get_dispatch_mode(_PROXY) is not None
    )


class Hidden:
    """Finds out which modules are trained unseen.

    Args:
        tell: called with `compiled` or `transformed` and the names of such modules, once for each.
    """

    def __init__(self, model: nn.Module, places: Places, tell: Callable[[str, list[str]], None]) -> None:
        self._model = model
        self._places = places
        self._tell = tell
        self._parameters = {id(parameter): parameter for parameter in places.parameters}
        self._is_compiled = False  # by a function around the model, of which the model knows nothing
        self._seen: set[int] | None = None
        self._told: set[str] = set()

    def reaches(self, roots: Sequence[Tensor], *, transformed: bool) -> bool:
        """Whether a backward pass from `roots` went through the model, though no call of it was told.

        Args:
            roots: the tensors given to backward(); empty if the gradients came in another way.
            transformed: whether the root was called within a transform in this step.
        """
        nodes = list(_nodes(roots))
        compiled = any(node.name().startswith(NODE) for node in nodes)
        held = (
            (self._parameters.get(id(getattr(node, "variable", None))) for node in nodes)
            if roots
            else self._places.parameters
        )
        if not (compiled or transformed) or all(p is None or p.grad is None for p in held):
            return False
        self._is_compiled |= compiled
        if not compiled:
            self._tell_new("transformed", list(self._places.modules))
        return True

    def look(self, passes: Iterable[Pass]) -> None:
        """See which modules were not told of in passes that a backward pass went through."""
        passes = list(passes)
        seen = {call[0] for one in passes for call in one.calls}
        seen |= {measured.place for one in passes for measured in one.measured}
        if seen == self._seen:
            return
        self._seen, outputs = seen, self._places.outputs
        inside = self._inside()
        hidden = [n for n, m in self._places.modules.items() if id(m) in inside and outputs[n] not in seen]
        self._tell_new("compiled", hidden)

    def _inside(self) -> set[int]:
        """Modules that are called within a compiled graph, by id; also such as may be seen all the same."""
        if self._is_compiled or calls.was_wrapped(self._model):
            return set(map(id, self._model.modules()))
        compiled = [module for module in self._model.modules() if _is_compiled(module)]
        return {id(part) for module in compiled for part in module.modules()}

    def _tell_new(self, kind: str, names: list[str]) -> None:
        new = [name for name in names if name not in self._told]
        if new:
            self._told.update(new)
            self._tell(kind, new)


def _is_compiled(module: nn.Module) -> bool:
    return type(module).__name__ == WRAPPER or module._compiled_call_impl is not None


def _nodes(roots: Iterable[Tensor]) -> Iterator[Any]:
    """The first nodes of a graph, nearest first."""
    waiting = deque(root.grad_fn for root in roots if root.grad_fn is not None)
    met: set[Any] = set()
    while waiting and len(met) < NODES:
        node = waiting.popleft()
        if node in met:
            continue
        met.add(node)
        yield node
        waiting.extend(following for following, _ in node.next_functions if following is not None)
