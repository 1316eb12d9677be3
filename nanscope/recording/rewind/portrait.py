"""A portrait of a birth: operands, result, and what made the operands, taken while it happens again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from nanscope.recording.rewind.batch import Batch
from nanscope.recording.rewind.chains import Start
from nanscope.recording.rewind.frames import Frame
from nanscope.recording.rewind.names import INPUT, TARGET, Names
from nanscope.recording.rewind.operands import describe, elements, matrix, newly, number, reduced, result_of
from nanscope.recording.rewind.operations import VIEWS, Operation, Seen
from nanscope.recording.rewind.surroundings import Surroundings

DEEPEST = 4
LARGEST = 10_000_000  # elements of an operand that is kept to be looked up element by element
MOST_ROWS = 64
CARRIERS = ("where", "scalar_tensor", "fill", "masked_fill", "copy", "index_put", "full_like", "new_full")
"""Operations that only put numbers in place; within a larger function it is that function which gave them."""

OF_MATRICES = ("linalg_", "inverse", "cholesky", "logdet", "slogdet", "det", "lu_", "triangular_solve")
"""Operations that work on whole matrices."""

Data = dict[str, Any]


class Portrait:
    """Of one birth.

    Args:
        made: the operations of the step, as they went the first time.
        start: the birth.
        names: of the tensors from outside.
        batch: the samples.

    Attributes:
        wanted: numbers of the operations to look at.
    """

    def __init__(self, made: Sequence[Operation], start: Start, names: Names, batch: Batch) -> None:
        self._made, self._start, self._names, self._batch = made, start, names, batch
        self._birth = made[start.index]
        self._seen: dict[int, Data] = {}
        self._arounds: dict[int, Surroundings] = {}
        self._operands: list[Tensor | None] = []
        self._result: Data = {}
        self._of_outside: Data = {}
        roots = [start.index] + ([self._birth.forward] if self._birth.forward is not None else [])
        self.wanted = frozenset(number for root in roots for number in self._cone(root, DEEPEST))

    def before(self, seen: Seen) -> None:
        """An operation is about to run: it may write over its operands."""
        read = self._chosen(seen)
        index = seen.operation.index
        self._seen[index] = {
            "operands": [describe(tensor, role, self._names.of(tensor)) for role, tensor in read],
            "scalars": {name: _plain(value) for name, value in seen.scalars.items()},
        }
        if index == self._start.index:
            self._outside_samples(seen.read)
            self._operands = [t.detach().clone() if t.numel() <= LARGEST else None for _, t in read]

    def after(self, seen: Seen) -> None:
        """It ran."""
        index = seen.operation.index
        self._arounds[index] = seen.around()
        if index != self._start.index or not seen.operation.broken:
            return
        which = seen.operation.broken[0]
        result = seen.written[which]
        found = elements(result, self._operands)
        self._result = {
            "result": result_of(result, which),
            "elements": found,
            "samples": self._samples(newly(result, self._operands)),
        }
        first = next((t for t in self._operands if t is not None), None)
        if first is None or not found:
            return
        part = reduced(first, result, seen.scalars, found[0]["index"])
        self._result |= {} if part is None else {"reduced": part}
        if seen.operation.name.startswith(OF_MATRICES):
            part = matrix(first, found[0]["index"])
            self._result |= {} if part is None else {"matrix": part}

    def data(self) -> Data:
        """Fields of the event `origin`."""
        birth = self._birth
        told = self._told(birth.index, DEEPEST)
        around = self._arounds.get(birth.index, birth.around)
        assert around is not None
        forward = birth.forward if birth.phase == "backward" else None
        home = told if forward is None else self._told(forward, DEEPEST)
        data = (
            told
            | self._result
            | self._of_outside
            | {
                "phase": birth.phase,
                "node": birth.node or None,
                "custom": bool(around.custom),
                "hook": bool(around.hook),
                "module": home["module"],
                "location": told["location"] if around.custom or around.hook else home["location"],
                "stack": told["stack"] if around.custom or around.hook else home["stack"],
                "call": home["call"],
                "optimizer": around.optimizer or None,
                "in_update_of": around.optimizer or None,
            }
        )
        if forward is not None:
            data["forward"], data["inner"] = home, told["op"]
            data["op"] = _forward_name(birth, home["op"])
        if around.custom or around.hook:
            data |= {"op": around.custom or around.hook, "inner": told["op"]}
        if data["op"] == "reciprocal" and str(data["call"]).endswith(("__rtruediv__", "__rdiv__")):
            data["op"] = "div"  # as it was written
        elif data["op"] in CARRIERS and birth.phase != "backward":
            data["op"] = _as_called(str(data["call"] or "")) or data["op"]
        return data | self._outside()

    def _outside(self) -> Data:
        """What differs if an operand came broken from outside."""
        outside = self._start.outside
        operands = self._seen.get(self._start.index, {}).get("operands", [])
        operand = operands[outside] if outside is not None and outside < len(operands) else None
        name = None if operand is None else operand["name"]
        if name == INPUT:
            return {"phase": "data", "op": "input", "module": "", "operands": [operand]}
        if self._names.is_parameter(name):
            return {"phase": "init", "op": "parameter", "samples": [], "operands": [operand]}
        if self._names.is_buffer(name):
            return {"phase": "init", "op": "buffer", "samples": [], "operands": [operand]}
        return {}

    def _cone(self, index: int, depth: int) -> Iterator[int]:
        """An operation and what made its operands, passing through views."""
        yield index
        if depth:
            for source in self._made[index].sources:
                if source is not None and source < index:
                    inner = self._through(source)
                    yield from self._cone(inner, depth - 1)

    def _through(self, index: int) -> int:
        while self._made[index].name in VIEWS and self._made[index].sources[:1] not in ((), (None,)):
            source = self._made[index].sources[0]
            assert source is not None
            if source >= index:
                break
            index = source
        return index

    def _told(self, index: int, depth: int) -> Data:
        """An operation, and nested in its operands what made them."""
        operation, seen = self._made[index], self._seen.get(index, {})
        around = self._arounds.get(index, operation.around)
        operands = [dict(operand) for operand in seen.get("operands", [])]
        makers = self._makers(index, len(operands))
        for operand, maker in zip(operands, makers, strict=True):
            operand["made_by"] = self._told(maker, depth - 1) if maker is not None and depth else None
        frames = () if around is None else around.frames
        of = operation.forward if operation.phase == "backward" else None
        return {
            "op": operation.name,
            "of": None if of is None else self._made[of].name,
            "call": None if around is None else around.call,
            "module": "" if around is None else around.module,
            "phase": operation.phase,
            "location": _location(frames[0]) if frames else None,
            "stack": [_location(frame) for frame in frames],
            "operands": operands,
            "scalars": seen.get("scalars", {}),
        }

    def _makers(self, index: int, count: int) -> list[int | None]:
        """Who made each operand that was described; of a list only some are."""
        sources = self._made[index].sources
        if len(sources) != count:
            return [None] * count
        found = [None if s is None or s >= index else self._through(s) for s in sources]
        return [None if s is not None and s not in self.wanted else s for s in found]

    def _chosen(self, seen: Seen) -> list[tuple[str, Tensor]]:
        """The operands; of one that works on lists those that belong to its first broken result."""
        if len({role for role, _ in seen.read}) == len(seen.read):
            return seen.read
        which = self._made[seen.operation.index].broken
        groups: dict[str, list[Tensor]] = {}
        for role, tensor in seen.read:
            groups.setdefault(role, []).append(tensor)
        if "foreach" not in seen.operation.name and "fused" not in seen.operation.name:
            return seen.read[:8]
        first = which[0] if which else 0
        longest = max(map(len, groups.values()))
        return [(role, ts[first % len(ts)] if len(ts) == longest else ts[0]) for role, ts in groups.items()]

    def _outside_samples(self, read: Sequence[tuple[str, Tensor]]) -> None:
        """Rows of what came broken from outside, if that is the batch."""
        outside = self._start.outside
        if outside is not None and outside < len(read):
            tensor = read[outside][1]
            if self._names.of(tensor) in (INPUT, TARGET):
                self._of_outside = {"samples": self._samples(tensor)}

    def _samples(self, result: Tensor) -> list[int]:
        """Rows of the batch that hold something non-finite, where the result has such rows."""
        if self._batch.rows < 2:
            return []
        late = self._birth.phase in ("backward", "update")
        if self._birth.phase == "update" or (late and self._names.has_parameter_of(result.shape)):
            return []
        return self._batch.broken(result)[:MOST_ROWS]


def _location(frame: Frame) -> Data:
    file, line, function = frame
    return {"file": file, "line": line, "function": function}


def _forward_name(birth: Operation, forward: str) -> str:
    """The function whose gradient it was: by its autograd node, which is named after it."""
    name = birth.node.removesuffix("0").removesuffix("Backward") or forward
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).strip("_")
    return forward if forward.replace("_", "") in snake.replace("_", "") or not snake else snake


def _as_called(call: str) -> str:
    """Last word of the function that was called; empty for one with underscores, such as `__setitem__`."""
    word = call.rpartition(".")[2]
    return "" if word.startswith("_") else word.rstrip("_")


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)
