"""The stable names: they may grow, none may go or change its meaning."""

from __future__ import annotations

import inspect

import pytest

import nanscope
from nanscope.values import Diagnosis, Origin, Verdict


def test_every_public_name_is_there() -> None:
    """All names of `__all__` can be had, and an unknown one is refused as Python does."""
    assert set(nanscope.__all__) >= {"NonFiniteError", "diagnose", "open_run", "record"}
    assert all(getattr(nanscope, name) for name in nanscope.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nanscope.nothing  # noqa: B018 - the access is the test


def test_the_signature_of_record() -> None:
    """Model, optimizer and path by position, the rest by name."""
    parameters = inspect.signature(nanscope.record).parameters
    assert list(parameters)[:4] == ["model", "optimizer", "path", "on_nonfinite"]
    assert parameters["optimizer"].default is None
    assert parameters["on_nonfinite"].default == "record"
    assert parameters["on_nonfinite"].kind is inspect.Parameter.KEYWORD_ONLY


def test_the_shape_of_a_diagnosis_in_json() -> None:
    """Schema 1 has these keys, and a healthy run has a null origin."""
    shape = Diagnosis(Verdict.HEALTHY, "fine").to_dict()
    keys = {"verdict", "origin", "causes", "findings", "remedies", "trail", "unknowns"}
    assert shape["schema"] == 1
    assert keys <= set(shape)
    assert shape["origin"] is None
    fields = {"step", "phase", "module", "op", "location", "operands", "result", "samples", "element"}
    assert fields <= set(Origin.__dataclass_fields__)
