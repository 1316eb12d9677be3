"""`nanscope replay --web` without what it needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nanscope.cli import cli
from nanscope.errors import UsageError


def test_without_textual_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the command that helps."""
    (tmp_path / "run.h5").touch()
    monkeypatch.delitem(sys.modules, "nanscope.web.server", raising=False)
    for name in ("textual_serve", "textual_serve.server"):  # a part that is loaded is found without the whole
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"pip install 'nanscope\[web\]'"):
        cli(["replay", "--web", str(tmp_path / "run.h5")], standalone_mode=False)
