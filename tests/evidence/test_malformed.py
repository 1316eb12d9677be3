"""A run file may come from anybody: whatever stands in the events, nothing raises."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanscope.diagnosis import diagnose
from nanscope.evidence.facts import Facts
from nanscope.evidence.forward import RULES
from nanscope.evidence.origin import as_origin, claims
from nanscope.reporters import REPORTERS
from nanscope.values import Phase
from nanscope.view import build_view
from tests.builders import make_run

OPS = sorted({name for names in RULES for name in (names if isinstance(names, tuple) else (names,))})
WORDS = (
    "nan",
    "inf",
    "-inf",
    "input",
    "target",
    "state:exp_avg",
    "self",
    "other",
    "weight",
    "grad",
    "where",
    "",
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=3),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def _dicts(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the fields, each of its own kind or of any other."""
    return st.fixed_dictionaries({}, optional={name: kind | anything for name, kind in fields.items()})


OP = st.sampled_from(OPS)
NUMBERS = ("abs_max", "abs_min_nonzero", "min", "max", "nan", "posinf", "neginf", "inf", "zeros", "numel")
measured = dict.fromkeys(NUMBERS, scalars)


def _operand(made_by: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    words = st.sampled_from(WORDS)
    return _dicts(role=words, name=words, shape=st.lists(scalars, max_size=2), made_by=made_by, **measured)


def _operation(operands: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    named = _dicts(eps=scalars, exponent=scalars, other=scalars, correction=scalars, ignore_index=scalars)
    return _dicts(op=OP, operands=st.lists(operands, max_size=3), scalars=named)


operations = _operation(
    _operand(st.recursive(st.none(), lambda inner: _operation(_operand(inner)), max_leaves=2))
)
events = st.builds(
    lambda one, other: {**one, **other},
    operations,
    _dicts(
        step=st.integers(0, 9),
        phase=st.sampled_from(list(map(str, Phase))),
        module=st.text(max_size=3),
        custom=st.booleans(),
        hook=st.booleans(),
        inner=OP,
        optimizer=st.sampled_from(["Adam", ""]),
        lr=scalars,
        settings=_dicts(eps=scalars),
        location=_dicts(file=st.text(max_size=3), line=st.integers(), function=st.text(max_size=3)),
        forward=operations,
        result=_dicts(dtype=st.sampled_from(["float16", "float32"]), shape=st.lists(scalars), **measured),
        elements=st.lists(
            _dicts(index=st.lists(scalars), value=scalars, operands=st.lists(scalars)), max_size=2
        ),
        reduced=_dicts(row=_dicts(**measured)),
        samples=st.lists(scalars, max_size=3),
        samples_checked=st.booleans(),
        noticed=scalars,
    ),
)


@settings(max_examples=300, deadline=None)
@given(events)
@example({"op": "pow", "elements": [{"operands": [-1.0]}], "operands": [{"role": "self"}]})
@example({"op": "log", "operands": [{"role": "self", "min": 0, "numel": "inf", "zeros": "inf"}]})
@example(
    {"op": "nll_loss", "operands": [{"role": "target", "min": 1, "max": 1}], "scalars": {"ignore_index": 1}}
)
@example({"op": "softmax", "reduced": {"row": {"numel": "inf", "neginf": "inf"}}})
def test_an_origin_of_any_form(event: dict[str, Any]) -> None:
    """Claims are made of what can be read; each has a sentence."""
    assert all(claim.why and claim.cause for claim in claims(Facts(event)))
    as_origin(Facts(event), None)


kinds = st.sampled_from(["origin", "not-reproduced", "no-rewind", "sharpness", "remedies"])
others = st.fixed_dictionaries(
    {"kind": kinds, "step": st.integers(0, 9)},
    optional={
        "why": anything,
        "differs": anything,
        "sharpness": scalars,
        "threshold": scalars,
        "lr": scalars,
        "tried": st.lists(_dicts(id=scalars, change=scalars, outcome=scalars, steps=scalars), max_size=2)
        | anything,
    },
)


@settings(max_examples=60, deadline=None)
@given(st.lists(others, max_size=3), st.none() | events)
@example([{"kind": "remedies", "step": 1, "tried": "abc"}], None)
@example([{"kind": "remedies", "step": 1, "tried": [{"id": "warm-up", "outcome": "prevented"}, 3]}], None)
@example([{"kind": "not-reproduced", "step": 1, "differs": 3}], None)
@example([{"kind": "sharpness", "step": 1, "sharpness": 1e308, "threshold": "1e308", "lr": 1}], None)
def test_a_diagnosis_of_any_events(told: list[dict[str, Any]], event: dict[str, Any] | None) -> None:
    """Diagnosed and shown in every form, beside a run that broke after a growth."""
    birth = [] if event is None else [{"step": 3, **event, "kind": "origin"}]
    growing = np.concatenate([np.ones(20), 10.0 ** np.arange(20), [np.nan] * 3])
    run = make_run(
        outputs={"fc": growing},
        weights={"fc.weight": growing},
        loss=growing,
        lr=0.1,
        events=[*told, *birth],
    )
    diagnosis = diagnose(run)
    assert diagnosis.summary
    for render in REPORTERS.values():
        render(build_view(run, diagnosis), _Sink())


class _Sink:
    """Takes text and forgets it."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Length of the text."""
        return len(text)

    def flush(self) -> None:
        """Nothing was kept."""

    def isatty(self) -> bool:
        """Nobody looks."""
        return False
