"""The catalogue of causes: complete, and consistent with itself."""

from __future__ import annotations

import numpy as np
import pytest

from nanscope.causes import CATALOGUE, COLLAPSE_REMEDIES, REMEDIES, Entry

IDS = [
    "learning-rate-divergence",
    "activation-explosion",
    "gradient-explosion",
    "dtype-overflow",
    "exp-overflow",
    "log-of-zero",
    "domain-error",
    "division-by-zero",
    "inf-minus-inf",
    "zero-times-inf",
    "sqrt-at-zero",
    "pow-at-zero",
    "domain-boundary-gradient",
    "masked-branch-gradient",
    "fully-masked-softmax",
    "empty-reduction",
    "degenerate-reduction",
    "bad-input",
    "bad-target",
    "bad-parameter",
    "bad-buffer",
    "optimizer-update",
    "bad-learning-rate",
    "custom-function",
    "gradient-hook",
    "loss-scale-overflow",
    "not-reproducible",
]


def test_the_public_ids() -> None:
    """The 27 ids that users and files rely on, each once and under its own name."""
    assert sorted(CATALOGUE) == sorted(IDS)
    assert len(IDS) == 27
    assert all(name == entry.id for name, entry in CATALOGUE.items())


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda entry: entry.id)
def test_an_entry_is_whole(entry: Entry) -> None:
    """Explained, with evidence on both sides, and remedies that exist; a rewrite is one short line."""
    assert entry.explanation.endswith(".")
    assert entry.required
    assert entry.excluded_by
    assert entry.remedies
    assert set(entry.remedies) <= set(REMEDIES)
    assert len(entry.rewrite) < 80
    assert "\n" not in entry.rewrite


def test_every_remedy_is_used() -> None:
    """No remedy without a cause or a collapse that names it."""
    used = {name for entry in CATALOGUE.values() for name in entry.remedies}
    used |= {name for names in COLLAPSE_REMEDIES.values() for name in names}
    assert used == set(REMEDIES)


def test_overflow_numbers_are_right() -> None:
    """The limits that the explanations quote, against numpy."""
    assert f"{np.finfo(np.float16).max:.0f}" in CATALOGUE["dtype-overflow"].explanation
    logs = [f"{np.log(float(np.finfo(dtype).max)):.1f}" for dtype in (np.float32, np.float16)]
    assert logs == ["88.7", "11.1"]
    assert all(number in CATALOGUE["exp-overflow"].explanation for number in logs)
