"""Warnings name a line of the user's, and never end a training."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import nanscope
from nanscope.warn import warn


def _record_twice(folder: Path) -> None:
    model = nn.Linear(2, 2)
    for _ in range(2):
        with nanscope.record(model, torch.optim.SGD(model.parameters(), lr=0.1), folder / "run.h5"):
            pass


def test_the_line_is_the_users(tmp_path: Path) -> None:
    """Though the warning is given deep in the store, while the block is left."""
    with pytest.warns(RuntimeWarning, match=r"recording into .*run-2\.h5") as heard:
        _record_twice(tmp_path)
    assert {warning.filename for warning in heard} == {__file__}


def test_a_hook_is_no_line_of_the_users() -> None:
    """Called by torch, on the way of the user's own call."""
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda *_: warn("from a hook"))
    with pytest.warns(RuntimeWarning, match="from a hook") as heard:
        layer(torch.ones(1, 2))
    assert heard[0].filename == __file__


def test_a_filter_that_makes_it_an_error() -> None:
    """It is dropped, not raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn("nobody hears this")
