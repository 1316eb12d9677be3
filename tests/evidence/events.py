"""`origin` events by hand, as the recording side writes them; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nanscope.evidence.claims import Claim
from nanscope.evidence.facts import Facts
from nanscope.evidence.origin import claims

Data = dict[str, Any]

NAN, INF = math.nan, math.inf
MAX = 3.4e38  # of float32, nearly


def words(value: Any) -> Any:
    """A value as JSON has it: numbers that are not finite are words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: words(item) for key, item in value.items()}
    return [words(item) for item in value] if isinstance(value, list | tuple) else value


def operand(role: str = "self", low: float = 0.5, high: float = 2.0, **fields: Any) -> Data:
    """An operand of 60 numbers from `low` to `high`, none of them zero."""
    data = {
        "role": role,
        "shape": [20, 3],
        "dtype": "float32",
        "numel": 60,
        "min": low,
        "max": high,
        "abs_max": max(abs(low), abs(high)),
        "abs_min_nonzero": min((abs(v) for v in (low, high) if v), default=NAN),
        "zeros": 0,
        "nan": 0,
        "posinf": 0,
        "neginf": 0,
        "inf": 0,
        "name": None,
    }
    data |= fields
    return words(data | {"inf": fields.get("inf", data["posinf"] + data["neginf"])})


def maker(op: str, *operands: Data, **fields: Any) -> Data:
    """The operation that made an operand."""
    return {"op": op, "operands": list(operands), "scalars": {}} | words(fields)


def origin(
    op: str, *operands: Data, value: float = NAN, held: Sequence[float | None] = (), **fields: Any
) -> Data:
    """The event of an operation whose element [2, 0] came out as `value`.

    Args:
        held: what each operand had at that element.
        fields: others of the event; `result`, `row` add to their parts of it.
    """
    counts = {"nan": int(math.isnan(value)), "posinf": int(value == INF), "neginf": int(value == -INF)}
    result = {"shape": [20, 3], "dtype": "float32", "numel": 60, "which": 0} | counts
    data = {
        "kind": "origin",
        "step": 4,
        "phase": "forward",
        "module": "",
        "op": op,
        "custom": False,
        "hook": False,
        "operands": list(operands),
        "scalars": {},
        "result": result | fields.pop("result", {}),
        "elements": [{"index": [2, 0], "value": value, "operands": list(held)}],
        "samples": [],
        "noticed": 4,
    }
    if "row" in fields:
        data["reduced"] = {"dim": [1], "row": fields.pop("row")}
    return words(data | fields)


def backward(
    op: str, *operands: Data, grad: Data | None = None, held: Sequence[float | None] = (1.0,), **fields: Any
) -> Data:
    """The event of a gradient; `operands` are those of the function in the forward pass."""
    forward = maker(op, *operands, scalars=fields.pop("forward_scalars", {}))
    node = f"{op.title()}Backward0"
    more = {"phase": "backward", "node": node, "forward": forward} | fields
    return origin(op, grad or operand("grad", 1.0, 1.0), held=held, **more)


def claimed(event: Data) -> list[str]:
    """Ids of the causes, the most direct first."""
    return [claim.cause for claim in claims(Facts(event))]


def first(event: Data) -> Claim:
    """The most direct cause."""
    return claims(Facts(event))[0]
