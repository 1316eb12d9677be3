"""Nested values as JSON with their tensors beside it, and back: no pickle, so that nothing is ever executed.

Numbers, strings and None stand for themselves; everything else is an object with one word for what it is:

    {"tuple": [...]}  {"list": [...]}  {"dict": [[key, value], ...]}  {"complex": [real, imaginary]}
    {"tensor": name of the entry, "device": "cpu", "grad": false}
    {"array": name of the entry}  {"scalar": name of the entry}        of numpy
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanscope.errors import RunFileError, UsageError
from nanscope.recording.bits import distinct, dtype_name, piece_of, place, tensor_of, write_bits
from nanscope.store.snapshots.reader import Snapshot
from nanscope.store.snapshots.slots import Piece

_DEEPEST = 50
_LONGEST_NAME = 900  # letters of an entry's name, before a number makes it unique


class Packer:
    """Collects the tensors of nested values, each tensor once however often it occurs.

    Attributes:
        pieces: what to store, by the entries' names.
    """

    def __init__(self) -> None:
        self.pieces: dict[str, Piece] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._held: list[Tensor] = []  # or the place of one could become that of another

    def name_of(self, tensor: Tensor) -> str | None:
        """Name of the entry of a tensor that was packed."""
        return self._names.get(place(tensor))

    def tensor(self, tensor: Tensor, name: str, *, whole: bool = False) -> dict[str, Any]:
        """A tensor; of an expanded one each place in memory once, unless `whole`.

        Raises:
            UsageError: it is of a kind that cannot be stored.
        """
        piece = piece_of(tensor, name)  # refuses what has no strides before anything asks for them
        entry = self.name_of(tensor)
        if entry is None:
            entry = self._add(piece if whole else piece_of(distinct(tensor), name), name)
            self._names[place(tensor)] = entry
            self._held.append(tensor)
        return {"tensor": entry, "device": str(tensor.device), "grad": tensor.requires_grad}

    def pack(self, value: Any, name: str, *, whole: bool = False, depth: int = 0) -> Any:
        """Nested value as JSON types; `name` says in messages and entries what it is.

        Raises:
            UsageError: it holds an object of another kind, or is nested too deep.
        """
        if depth > _DEEPEST:
            raise UsageError(f"{name} is nested more than {_DEEPEST} deep, and a snapshot cannot hold that")

        def inner(item: Any, key: Any) -> Any:
            return self.pack(item, f"{name}.{key}", whole=whole, depth=depth + 1)

        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if kind in (tuple, list):
            return {kind.__name__: [inner(item, i) for i, item in enumerate(value)]}
        if kind is dict:
            return {"dict": [[inner(key, "key"), inner(item, key)] for key, item in value.items()]}
        return self._leaf(value, name, whole)

    def _leaf(self, value: Any, name: str, whole: bool) -> dict[str, Any]:
        if isinstance(value, Tensor):
            return self.tensor(value, name, whole=whole)
        if isinstance(value, np.ndarray | np.generic):
            word = "scalar" if isinstance(value, np.generic) else "array"
            try:
                return {word: self._add(Piece.of(np.asarray(value)), name)}
            except ValueError as error:
                raise UsageError(f"{name}: {error}") from None
        raise UsageError(f"{name} is a {type(value).__name__}, and a snapshot cannot hold that")

    def _add(self, piece: Piece, name: str) -> str:
        # escaped, for a reader shows names on a screen and refuses those that could do harm there
        short = name.encode("unicode_escape").decode("ascii")[:_LONGEST_NAME]
        entry = short if short not in self.pieces else f"{short}#{len(self.pieces)}"
        self.pieces[entry] = piece
        return entry


class Unpacker:
    """Makes values of a snapshot's JSON. What is to be written into live tensors waits for `apply`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._copies: list[tuple[Tensor, NDArray[Any]]] = []
        self._made: dict[str, Tensor] = {}
        self._claimed: set[tuple[Any, ...]] = set()

    def into(self, target: Tensor, node: Any, name: str) -> None:
        """Write a stored tensor into a live one later, which must be alike.

        Raises:
            UsageError: it is not, or cannot be written to.
            RunFileError: the file is damaged.
        """
        entry_name = _word(node, "tensor")
        if not self._fits(target, entry_name):
            entry = self._snapshot.entries[entry_name]
            raise UsageError(
                f"the snapshot does not fit: {name} is {dtype_name(target.dtype)} {list(target.shape)}, "
                f"stored is {entry.dtype} {list(entry.shape)}"
            )
        made = self._made.get(entry_name)
        if made is not None and place(made) == place(target):
            return
        if made is not None or not self._claim(target):
            raise UsageError(f"the snapshot does not fit: {name} is tied to other parameters than it was")
        self._write(target, entry_name)

    def unpack(self, node: Any, live: Any = None) -> Any:  # noqa: PLR0911 - one return per kind is a table
        """The value; where `live`, the present one, has a tensor that is alike, that one, written to later.

        Raises:
            UsageError: it needs a device that is not here.
            RunFileError: the file is damaged.
        """
        match node:
            case None | bool() | int() | float() | str():
                return node
            case {"complex": [float(real), float(imaginary)]}:
                return complex(real, imaginary)
            case {"tuple": list(items)}:
                return tuple(self._items(items, live))
            case {"list": list(items)}:
                return self._items(items, live)
            case {"dict": list(items)}:
                lives = live if isinstance(live, dict) else {}
                pairs = [(self.unpack(key), item) for key, item in items]
                return {key: self.unpack(item, lives.get(key)) for key, item in pairs}
            case {"tensor": str(name)}:
                return self._tensor(name, node, live)
            case {"array": str(name)}:
                return self._array(name)
            case {"scalar": str(name)}:
                return self._array(name)[()]
        raise malformed("a value of an unknown kind")

    def apply(self) -> None:
        """Write into the live tensors."""
        with torch.no_grad():
            for tensor, elements in self._copies:
                write_bits(tensor, elements)

    def _items(self, items: list[Any], live: Any) -> list[Any]:
        lives = list(live) if isinstance(live, list | tuple) else []
        lives += [None] * (len(items) - len(lives))
        return [self.unpack(item, present) for item, present in zip(items, lives, strict=False)]

    def _array(self, name: str) -> NDArray[Any]:
        if name not in self._snapshot.entries:
            raise malformed(f"no array {name[:80]!a}")
        return self._snapshot.array(name)

    def _tensor(self, name: str, node: Mapping[str, Any], live: Any) -> Tensor:
        if name not in self._made:
            if isinstance(live, Tensor) and self._fits(live, name) and self._claim(live):
                self._write(live, name)
            else:
                self._made[name] = self._new(name, node)
        return self._made[name]

    def _new(self, name: str, node: Mapping[str, Any]) -> Tensor:
        elements = self._array(name)
        dtype = getattr(torch, self._snapshot.entries[name].dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise UsageError(f"{name} has a dtype that this version of torch does not know")
        try:
            made = tensor_of(elements, dtype, torch.device(_word(node, "device")))
            return made.requires_grad_(node.get("grad") is True)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise UsageError(f"{name} cannot be made on its device: {str(error).splitlines()[0]}") from error

    def _fits(self, live: Tensor, name: str) -> bool:
        entry = self._snapshot.entries.get(name)
        if entry is None:
            raise malformed(f"no array {name[:80]!a}")
        if live.layout != torch.strided or live.is_meta or live.is_inference():
            return False
        return (dtype_name(live.dtype), tuple(distinct(live).shape)) == (entry.dtype, entry.shape)

    def _claim(self, live: Tensor) -> bool:
        """Whether no other entry goes to the same place: two that were apart must not become one."""
        if place(live) in self._claimed:
            return False
        self._claimed.add(place(live))
        return True

    def _write(self, live: Tensor, name: str) -> None:
        self._made[name] = live
        self._copies.append((distinct(live), self._array(name)))


def malformed(what: str) -> RunFileError:
    """The error of a snapshot whose meta does not make sense."""
    return RunFileError(f"the snapshot is malformed: it holds {what}", "do not use this file")


def _word(node: Any, key: str) -> str:
    match node:
        case dict() if isinstance(node.get(key), str):
            return str(node[key])
    raise malformed(f"a value without {key}")
