"""Reporters: each writes a view to a stream; all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TextIO

from nanscope.reporters.comparison import render_comparison
from nanscope.reporters.json import render_comparison_json, render_json
from nanscope.reporters.text import render_text
from nanscope.view import Comparison, View

Reporter = Callable[[View, TextIO], None]
"""Writes the answer for one run."""

ComparisonReporter = Callable[[Comparison, TextIO], None]
"""Writes several runs side by side."""

REPORTERS: Mapping[str, Reporter] = MappingProxyType({"text": render_text, "json": render_json})
COMPARISON_REPORTERS: Mapping[str, ComparisonReporter] = MappingProxyType(
    {"text": render_comparison, "json": render_comparison_json}
)
