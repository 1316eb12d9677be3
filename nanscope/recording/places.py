"""Places: every site of a model, numbered once, so that a hook carries an integer and a row is a lookup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from nanscope.run import Column
from nanscope.values import Kind, Site

MAX_CLASSES = 100  # beyond that, a column per class and step would outweigh everything else
SPARE_SCALARS = 8  # columns for the user's own scalars
RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Hardsigmoid)  # never negative: a unit with a largest output of 0 is dead


def watched(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module that holds parameters itself or has no children, with its fqn."""
    for name, module in model.named_modules():
        holds = next(module.parameters(recurse=False), None) is not None
        if holds or next(module.children(), None) is None:
            yield plain(name), module


def plain(name: str) -> str:
    """An fqn without what torch.compile adds to it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


class Places:
    """The sites of one model.

    Attributes:
        keys: name and kind of every place; a place is an index into it.
        outputs, gradients: place of a watched module's output and of the gradient of that output, by fqn.
        received: the places of the latter.
        parameters: every parameter once; its places in the same order in `weights`, `grads` and `updates`.
        peaked: the places whose largest absolute value is taken when a step is looked at closely.
        rectified: the output places whose units can die.
        entry: the place of the root's input.
    """

    def __init__(self, model: nn.Module) -> None:
        self.keys: list[tuple[str, Kind]] = []
        self.modules: Mapping[str, nn.Module] = dict(watched(model))
        self.entry = self._add("", Kind.INPUT)
        self.outputs = {name: self._add(name, Kind.OUTPUT) for name in self.modules}
        self.gradients = {name: self._add(name, Kind.GRAD_OUTPUT) for name in self.modules}
        self.received = frozenset(self.gradients.values())
        named = {plain(name): parameter for name, parameter in model.named_parameters()}
        self.parameters: tuple[Tensor, ...] = tuple(named.values())
        self.weights = tuple(self._add(name, Kind.WEIGHT) for name in named)
        self.grads = tuple(self._add(name, Kind.GRAD) for name in named)
        self.updates = tuple(self._add(name, Kind.UPDATE) for name in named)
        self.peaked = frozenset(self.outputs.values())
        rectifiers = (name for name, module in self.modules.items() if isinstance(module, RECTIFIERS))
        self.rectified = frozenset(self.outputs[name] for name in rectifiers)

    def same_as(self, other: Places) -> bool:
        """Whether the other places are at the same modules and parameters."""
        mine, others = self.modules, other.modules
        return (
            list(mine) == list(others)
            and all(mine[name] is others[name] for name in mine)
            and self.keys == other.keys
            and all(a is b for a, b in zip(self.parameters, other.parameters, strict=True))
        )

    def _add(self, name: str, kind: Kind) -> int:
        self.keys.append((name, kind))
        return len(self.keys) - 1

    def sites(self, seen: Mapping[int, str]) -> tuple[Site, ...]:
        """The places as sites.

        Args:
            seen: the places met in the first step, in the order of execution, with their dtypes.
        """
        order = {place: number for number, place in enumerate(p for p in seen if p in self.peaked)}
        by_module = {self.keys[place][0]: number for place, number in order.items()}
        parameter = dict(zip((*self.weights, *self.grads, *self.updates), self.parameters * 3, strict=True))

        def site(place: int, name: str, kind: Kind) -> Site:
            tensor = parameter.get(place)
            owner = name if tensor is None else name.rpartition(".")[0]
            return Site(
                name,
                kind,
                type(self.modules[owner]).__name__ if owner in self.modules else "",
                by_module.get(owner, -1),
                seen.get(place, "") if tensor is None else str(tensor.dtype).removeprefix("torch."),
                0 if tensor is None else tensor.numel(),
            )

        return tuple(site(place, name, kind) for place, (name, kind) in enumerate(self.keys))


@dataclass(frozen=True)
class Layout:
    """Where each measured number of a step goes in its row: columns by stat, then the scalars.

    Attributes:
        columns: the meaning of each position.
        position: by stat, then by place; `l2` comes first in the row, in the order of the places.
        scalars: position by name.
    """

    columns: tuple[Column, ...]
    position: Mapping[str, Mapping[int, int]]
    scalars: Mapping[str, int]

    @classmethod
    def of(cls, places: Places, sites: tuple[Site, ...], scalars: tuple[str, ...]) -> Layout:
        """Lay out the row of a model's places and the given scalars; spare scalars are added at the end."""
        everywhere = range(len(sites))
        counted = [p for p in everywhere if sites[p].kind is not Kind.UPDATE]  # the weight's counts tell
        stats = {
            "l2": everywhere,
            "nan_count": counted,
            "inf_count": counted,
            "abs_max": [p for p in everywhere if sites[p].kind in (Kind.OUTPUT, Kind.WEIGHT)],
            "ratio": places.updates,
            "dead_fraction": sorted(places.rectified),
        }
        columns: list[Column] = []
        position: dict[str, dict[int, int]] = {}
        for stat, of in stats.items():
            position[stat] = {place: len(columns) + i for i, place in enumerate(of)}
            columns += [Column(sites[place], stat) for place in of]
        named = {name: len(columns) + i for i, name in enumerate(scalars)}
        columns += [Column(None, name) for name in (*scalars, *[""] * SPARE_SCALARS)]
        return cls(tuple(columns), position, named)
