"""From the `origin` event to the value `Origin`, and to what it proves about the cause."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from nanscope.evidence.backward import of_gradient
from nanscope.evidence.claims import Claim
from nanscope.evidence.facts import Facts, Made, as_list, as_number, of_many
from nanscope.evidence.forward import by_operands
from nanscope.numbers import number
from nanscope.run import Run
from nanscope.samples import in_dataset
from nanscope.values import Element, Location, Operand, Origin, Phase, Result, Site

ABSURD_LR = 1e3
FEW = 8  # rows: a longer list names nobody


def origin_of(run: Run) -> Facts | None:
    """The watched operation; None if no step was executed again."""
    event = next(iter(run.events_of("origin")), None)
    return None if event is None else Facts(event)


def ended_by(facts: Facts | None, run: Run) -> bool:
    """Whether the run ended where the watched operation was noticed: it did not recover."""
    return facts is not None and not as_number(facts.data.get("noticed")) < (
        run.steps[-1] if len(run) else -1
    )


def as_origin(facts: Facts, site: Site | None) -> Origin | None:
    """The value; `site` is what the rows say. None where the event makes no sense."""
    step, phase = facts.data.get("step"), facts.phase
    if not isinstance(step, int) or phase not in set(Phase):
        return None
    dataset, dataset_rows = _drawn(facts)
    return Origin(
        step,
        Phase(phase),
        _text(facts.data, "module"),
        site,
        op=facts.op or None,
        location=_location(facts.data.get("location")),
        operands=tuple(map(_operand, facts.operands)),
        result=_result(facts.result) if facts.result.data else None,
        samples=_rows(facts),
        element=_element(facts),
        dataset=dataset,
        dataset_rows=dataset_rows,
    )


def claims(facts: Facts) -> tuple[Claim, ...]:
    """What it proves, the most direct first; empty where nothing is proved."""
    found = tuple(_claims(facts))
    blamed = _sample(facts)
    return tuple(Claim(c.cause, c.why, (*c.evidence, *blamed), c.rewrite) for c in found)


def _claims(facts: Facts) -> Iterator[Claim]:
    if facts.phase == "data" and facts.op == "input":
        yield _bad(facts, "bad-input", "the batch")
    elif facts.phase == "init":
        yield _bad(facts, "bad-parameter" if facts.op == "parameter" else "bad-buffer", "it")
    elif facts.data.get("hook"):
        found = next(by_operands(Facts({**facts.data, "op": _text(facts.data, "inner")})), Claim("", ""))
        why = f"the hook `{facts.op}` made a finite gradient non-finite{facts.where}"
        detail = (found.why, *found.evidence) if found.why else ()
        yield Claim("gradient-hook", why, detail, found.rewrite)
    elif facts.data.get("custom"):
        inner = Facts({**facts.data, "op": _text(facts.data, "inner")})
        yield Claim("custom-function", f"the user's function `{facts.op}` returned it{facts.where}")
        yield from by_operands(inner)
    elif (target := _broken_target(facts)) is not None:
        what = "the target" if target.text("role") != "weight" else "the weight of the classes"
        yield _bad(Facts({**facts.data, "operands": [dict(target.data)]}), "bad-target", what)
    elif facts.phase == "update" and facts.data.get("optimizer") and _in_optimizer(facts):
        yield from _update(facts)
    elif facts.phase == "backward":
        yield from of_gradient(facts)
    else:
        yield from by_operands(facts)


def is_absurd(lr: float) -> bool:
    """Whether a learning rate is none that anybody would choose: not finite, below zero, or huge."""
    return not 0 <= lr <= ABSURD_LR


def _in_optimizer(facts: Facts) -> bool:
    return (
        bool(facts.data.get("in_update_of"))
        or facts.data.get("location") is None
        or any(o.text("name").startswith("state:") for o in facts.operands)
    )


def _update(facts: Facts) -> Iterator[Claim]:
    lr = as_number(facts.data.get("lr"))
    raw = facts.data.get("lr")
    if raw is not None and is_absurd(lr):
        yield Claim("bad-learning-rate", f"the learning rate was {number(lr)}")
    state = next(
        (
            o
            for o in facts.operands
            if o.text("name").startswith("state:") and o.number("nan") + o.number("inf") > 0
        ),
        None,
    )
    inner = next(by_operands(facts), None)
    settings = facts.data.get("settings")
    eps = as_number(settings.get("eps")) if isinstance(settings, Mapping) else math.nan
    detail = (inner.why,) if inner else ()
    if state is not None:
        detail = (f"its {state.words} was already non-finite", *detail)
    if eps == 0:
        detail = ("its eps is 0", *detail)
    kind = _text(facts.data, "optimizer")
    yield Claim(
        "optimizer-update",
        f"`{facts.op}` in the update of {kind} made finite weights and gradients non-finite{facts.where}",
        detail,
        _safe_settings(settings, eps, inner),
    )


def _safe_settings(settings: Any, eps: float, inner: Claim | None) -> str:
    """Other settings of an optimizer, by what went wrong in it."""
    if eps == 0:
        return "leave eps at its default (1e-8)"
    centered = isinstance(settings, Mapping) and settings.get("centered") is True
    if centered and inner is not None and inner.cause == "domain-error":
        return "centered=False  # E[g^2] - E[g]^2 falls below zero by rounding"
    return ""


def _bad(facts: Facts, cause: str, what: str) -> Claim:
    operand = next(iter(facts.operands), Made({}))
    name = operand.text("name")
    held = (
        ", ".join(
            of_many(operand.number(key), operand.number("numel"), word)
            for key, word in (("nan", "NaN"), ("posinf", "+inf"), ("neginf", "-inf"))
            if operand.number(key) > 0
        )
        .replace("NaNs", "NaN")
        .replace("infs", "inf")
    )
    named = name if cause in ("bad-parameter", "bad-buffer") and name else what
    user = "the loss" if cause == "bad-target" else "the model"
    return Claim(cause, f"{named} already held {held or 'non-finite numbers'} before {user} used it")


def _broken_target(facts: Facts) -> Made | None:
    """A target that is not finite, or that its loss cannot take."""
    for operand in facts.operands:
        if operand.text("name") != "target":
            continue
        broken = operand.number("nan") + operand.number("inf") > 0
        if broken and facts.phase in ("loss", "forward"):
            return operand
    return None


def _sample(facts: Facts) -> tuple[str, ...]:
    samples = _rows(facts)
    if not samples or len(samples) > FEW:
        return ()
    rows = f"row{'s' if len(samples) > 1 else ''} {', '.join(map(str, samples))} of the batch"
    dataset, drawn = _drawn(facts)
    if drawn:
        rows += f" ({in_dataset(dataset, [drawn[row] for row in samples])})"
    if facts.data.get("samples_checked") is not True:
        return (f"broken in {rows}",)
    if len(samples) > 1:
        return (f"{rows} are to blame: with others in their place the step is finite",)
    return (f"{rows} is to blame: with another in its place the step is finite",)


def _rows(facts: Facts) -> tuple[int, ...]:
    """Rows of the batch that broke."""
    return tuple(row for row in as_list(facts.data.get("samples")) if isinstance(row, int))


def _drawn(facts: Facts) -> tuple[str, tuple[int, ...]]:
    """The data set, and which sample of it each row of the batch is; nothing where the rows do not fit it."""
    dataset, found = _text(facts.data, "dataset"), as_list(facts.data.get("dataset_rows"))
    rows = tuple(row for row in found if isinstance(row, int))
    fits = dataset and len(rows) == len(found) and all(0 <= row < len(rows) for row in _rows(facts))
    return (dataset, rows) if fits else ("", ())


def _location(value: Any) -> Location | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("line"), int):
        return None
    return Location(_text(value, "file"), value["line"], _text(value, "function"))


def _operand(made: Made) -> Operand:
    return Operand(
        made.text("role"),
        made.shape,
        made.text("dtype"),
        made.number("abs_max"),
        made.number("abs_min_nonzero"),
        _count(made, "nan"),
        _count(made, "inf"),
        _count(made, "zeros"),
    )


def _result(made: Made) -> Result:
    counts = _count(made, "nan"), _count(made, "posinf"), _count(made, "neginf")
    return Result(made.shape, made.text("dtype"), *counts)


def _element(facts: Facts) -> Element | None:
    if facts.element is None:
        return None
    index, held = facts.element
    return Element(index, tuple(value for value in held if value is not None))


def _count(made: Made, key: str) -> int:
    value = made.number(key)
    return int(value) if math.isfinite(value) else 0


def _text(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""
