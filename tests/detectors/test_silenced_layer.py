"""NS206: zeros that come from an infinity which nobody sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nanscope.detectors.silenced_layer import silenced_layer
from nanscope.run import Run
from tests.builders import collapsed_run, make_run

ZEROS, ONES = np.zeros(40), np.ones(40)


def typed(run: Run, kind: str) -> Run:
    """The same with modules of another type."""
    columns = (
        column if column.site is None else replace(column, site=replace(column.site, module_type=kind))
        for column in run.header.columns
    )
    return replace(run, header=replace(run.header, columns=tuple(columns)))


def test_squares_beyond_the_dtype() -> None:
    """The layer, and what went into it."""
    run = make_run(inputs=1e25 * ONES, outputs={"norm": ZEROS, "fc": ONES}, loss=ONES)
    (found,) = silenced_layer(run)
    assert (str(found.site), found.evidence["before"]) == ("norm.output", "model.input")


@pytest.mark.parametrize(
    ("given", "outputs"),
    [
        (1e15 * ONES, {"norm": ZEROS, "fc": ONES}),
        (1e25 * ONES, {"norm": ONES, "fc": ZEROS}),
        (1e25 * ONES, {"norm": np.append(ZEROS[1:], 1e-30), "fc": ONES}),
        (1e25 * ONES[:10], {"norm": ZEROS[:10], "fc": ONES[:10]}),
    ],
    ids=["squares are finite", "another layer", "not always", "too few steps"],
)
def test_zeros_of_another_kind(given: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
    """Near misses."""
    assert not list(silenced_layer(make_run(inputs=given, outputs=outputs)))


def test_what_cuts_off() -> None:
    """Near miss: a ReLU gives zeros for reasons of its own."""
    run = make_run(inputs=1e25 * ONES, outputs={"act": ZEROS, "fc": ONES})
    assert not list(silenced_layer(typed(run, "ReLU")))
    assert list(silenced_layer(typed(run, "RMSNorm")))


def test_a_dead_layer() -> None:
    """Near miss: the story of a collapse."""
    assert not list(silenced_layer(collapsed_run()))
