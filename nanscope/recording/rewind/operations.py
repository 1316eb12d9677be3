"""Watch every operation of a step below autograd: what it read, what it wrote, and whether that is finite.

A tensor is known by the place of its numbers, not by its object: what autograd saved for the backward pass
comes back as another object. An operation that only looks at a tensor in another shape is passed through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nanscope.recording.finite import is_finite
from nanscope.recording.rewind.names import INPUT, TARGET, Names, Place, memory_of, place_of
from nanscope.recording.rewind.operands import counts
from nanscope.recording.rewind.surroundings import Scene, Surroundings

# what only gives the same numbers in another form
VIEWS = frozenset(
    [
        "view",
        "reshape",
        "t",
        "transpose",
        "permute",
        "expand",
        "select",
        "slice",
        "unsqueeze",
        "squeeze",
        "detach",
        "alias",
        "as_strided",
        "split",
        "split_with_sizes",
        "unbind",
        "unsafe_view",
        "clone",
        "contiguous",
        "diagonal",
        "unfold",
        "view_as_real",
        "view_as_complex",
        "lift_fresh",
        "flatten",
        "movedim",
        "chunk",
        "narrow",
    ]
)
EMPTY = frozenset(
    ["empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted", "resize"]
)
GIVEN = "given"  # what the user's code hands to autograd without an operation
# what writes a number that the program names: an infinity there is meant
CONSTANT = frozenset(
    [
        "fill",
        "masked_fill",
        "full",
        "full_like",
        "new_full",
        "scalar_tensor",
        "constant_pad_nd",
        "where",
        "lift_fresh",
    ]
)


@dataclass(slots=True, eq=False)
class Operation:
    """One operation of a step.

    Attributes:
        index: its number in the step.
        name: such as `log`; of a kernel without its prefixes and underscores.
        sources: for each tensor that it read the operation that made it, None if that came from outside.
        bad_sources: the same for those that held something non-finite, with their place among the operands.
        broken: which of its results hold something non-finite.
        counts: of the first of those, its NaN, +inf and -inf.
        outside: those that came broken from outside: place among the operands, and whether that is meant.
        constant: whether what is non-finite in it was named by the program: `masked_fill(mask, -inf)`.
        around: where it happened; known of those that broke.
        phase: of the step.
        forward: the operation whose gradient this computes, or computed with.
        node: name of the autograd node under way.
    """

    index: int
    name: str
    sources: tuple[int | None, ...]
    bad_sources: tuple[tuple[int, int | None], ...] = ()
    broken: tuple[int, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    outside: dict[int, bool] = field(default_factory=dict)
    constant: bool = False
    around: Surroundings | None = None
    phase: str = ""
    forward: int | None = None
    node: str = ""


@dataclass(slots=True)
class Seen:
    """An operation while it runs: what a second look may examine.

    Attributes:
        read: operands with the names of their arguments.
        scalars: other arguments by name.
        written: results, also those that it wrote into.
    """

    operation: Operation
    read: list[tuple[str, Tensor]]
    scalars: dict[str, Any]
    scene: Scene
    written: list[Tensor] = field(default_factory=list)

    def around(self) -> Surroundings:
        """Where it happens."""
        return self.scene.look(self.operation.phase)


Look = Callable[[Seen], Any]


class EnoughError(Exception):
    """All that was wanted of a step has been seen."""


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations of a step, in order.

    Args:
        scene: knows where they happen.
        names: of the tensors from outside.
        before, after: called around those of interest with what they read and wrote.
        wanted: numbers of those, after the last of which the step ends; everything that breaks is of
            interest if it is None.

    Attributes:
        made: the operations.
    """

    def __init__(
        self,
        scene: Scene,
        names: Names,
        *,
        wanted: frozenset[int] | None = None,
        before: Look | None = None,
        after: Look | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: list[Operation] = []
        self._scene, self._names = scene, names
        self._wanted, self._before, self._after = wanted, before, after
        self._writers: dict[Place, int] = {}
        self._last_writers: dict[int, int] = {}
        self._suspicious: set[int] = set()  # memory in which something non-finite was seen
        self._outside: dict[int, bool] = {}  # memory from outside: whether it is finite
        self._forwards: dict[int, int] = {}
        self._held: list[Tensor] = []  # of what was read from outside: no other tensor gets its memory

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        seen = self._begin(func, args, kwargs)
        self._show(seen, self._before)
        result = func(*args, **kwargs)
        seen.written = list({id(t): t for t in (*_floats(result), *_written(func, args, kwargs))}.values())
        self._end(seen)
        self._show(seen, self._after)
        if self._wanted is not None and seen.operation.index >= max(self._wanted):
            raise EnoughError
        return result

    def maker(self, tensor: Tensor) -> int | None:
        """Number of the operation that made a tensor, None if it came from outside."""
        found, last = self._writers.get(place_of(tensor)), self._last_writers.get(memory_of(tensor))
        if found is None or last is None:
            return last if found is None else found
        # what was written since, through a view or under one, broke it
        return last if last > found and self.made[last].broken and not self.made[found].broken else found

    def see_given(self, tensor: Tensor) -> None:
        """The user's code hands a tensor to autograd; one that no operation made counts as made there."""
        maker = self.maker(tensor)
        is_known = (maker is not None and self.made[maker].broken) or self._names.of(tensor) is not None
        if is_known or is_finite(tensor):
            return
        operation = Operation(len(self.made), GIVEN, (), phase=self._scene.phase(differentiable=True))
        self.made.append(operation)
        self._held.append(tensor)
        self._note_node(operation)
        seen = Seen(operation, [], {}, self._scene, [tensor])
        self._end(seen)
        self._show(seen, self._before)
        self._show(seen, self._after)

    def _show(self, seen: Seen, look: Look | None) -> None:
        if look is not None and self._wanted is not None and seen.operation.index in self._wanted:
            look(seen)

    def _begin(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Seen:
        read, scalars = _arguments(func, args, kwargs)
        name = canonical(func)
        differentiable = torch.is_grad_enabled() and any(t.requires_grad for _, t in read)
        phase = self._scene.phase(differentiable=differentiable)
        operation = Operation(len(self.made), name, tuple([self.maker(t) for _, t in read]), phase=phase)
        self.made.append(operation)
        operation.bad_sources = (
            tuple([(i, self.maker(t)) for i, (_, t) in enumerate(read) if self._is_bad(t)])
            if name not in EMPTY
            else ()
        )
        operation.outside = {
            i: self._is_meant(read[i][1]) for i, made in operation.bad_sources if made is None
        }
        infinite = any(isinstance(v, float) and not math.isfinite(v) for v in _flat(scalars.values()))
        operation.constant = name in CONSTANT and (infinite or name == "where")
        self._note_node(operation)
        return Seen(operation, read, scalars, self._scene)

    def _is_meant(self, tensor: Tensor) -> bool:
        """Whether a broken tensor from outside is a mask: infinities alone, and nobody's state or data.

        One that is a buffer or goes into the model is 0 where it is not -inf.
        """
        name = self._names.of(tensor)
        if bool(torch.isnan(tensor).any()):
            return False
        if name == INPUT or self._names.is_buffer(name):
            return bool(((tensor == 0) | (tensor == -math.inf)).all())
        return name in (None, TARGET)

    def _is_made(self, tensor: Tensor) -> bool:
        """Whether somebody wrote its numbers: those of fresh memory are of no meaning."""
        maker = self.maker(tensor)
        return maker is None or self.made[maker].name not in EMPTY

    def _note_node(self, operation: Operation) -> None:
        """Which forward operation a node of the backward pass belongs to: they count alike."""
        node = torch._C._current_autograd_node()
        if node is None:
            if operation.phase != "backward":
                self._forwards.setdefault(torch.autograd._get_sequence_nr() - 1, operation.index)
            return
        operation.node = node.name()
        operation.forward = self._forwards.get(node._sequence_nr())

    def _end(self, seen: Seen) -> None:
        operation = seen.operation
        looked_at = {memory_of(tensor) for _, tensor in seen.read} if operation.name in VIEWS else ()
        for tensor in seen.written:
            self._writers[place_of(tensor)] = operation.index
            if memory_of(tensor) not in looked_at:
                self._last_writers[memory_of(tensor)] = operation.index
        if operation.name in EMPTY:
            return
        operation.broken = tuple([i for i, tensor in enumerate(seen.written) if not is_finite(tensor)])
        if operation.broken:
            operation.around = self._scene.look(operation.phase)
            operation.counts = counts(seen.written[operation.broken[0]])
            self._suspicious |= {memory_of(seen.written[i]) for i in operation.broken}

    def _is_bad(self, tensor: Tensor) -> bool:
        return self._is_broken(tensor) and self._is_made(tensor)

    def _is_broken(self, tensor: Tensor) -> bool:
        memory = memory_of(tensor)
        if memory in self._suspicious:
            return not is_finite(tensor)
        if memory in self._last_writers:
            return False
        if memory not in self._outside:
            self._held.append(tensor)
            self._outside[memory] = is_finite(tensor)
        return not self._outside[memory] and not is_finite(tensor)


def canonical(func: Any) -> str:
    """An operator's name as a person knows it: `aten::_log_softmax_backward_data` is `log_softmax`."""
    name = str(func._schema.name).partition("::")[2].strip("_")
    for prefix in ("native_", "thnn_", "cudnn_", "mkldnn_", "special_", "linalg_vector_"):
        name = name.removeprefix(prefix)
    for suffix in ("_backward_data", "_backward", "_forward", "_default", "_for_cpu"):
        name = name.removesuffix(suffix)
    return {"convolution_overrideable": "convolution", "to_copy": "to"}.get(name, name)


def _arguments(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[tuple[str, Tensor]], dict[str, Any]]:
    """Tensors with the names of the arguments they are given as, lists in order; and all else by name."""
    names = [argument.name for argument in func._schema.arguments]
    read, scalars = [], {}
    for name, value in (*zip(names, args, strict=False), *kwargs.items()):
        tensors = [t for t in _flat([value]) if isinstance(t, Tensor)]
        if tensors:
            read += [(name, t) for t in tensors]
        elif isinstance(value, bool | int | float | str | list | tuple):
            scalars[name] = value
    return read, scalars


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Arguments that an operation writes into."""
    given = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | dict(kwargs)
    arguments = func._schema.arguments
    written = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    if "batch_norm" in func._schema.name:  # its schema does not tell
        written += ["running_mean", "running_var"]
    return [t for name in written if name in given for t in _floats(given[name])]


def _floats(value: Any) -> list[Tensor]:
    return [t for t in _flat([value]) if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex())]


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value
