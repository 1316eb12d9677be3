"""Reporters: each writes a view to a stream; all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TextIO

from nanscope.reporters.about import render_about
from nanscope.reporters.comparison import render_comparison
from nanscope.reporters.json import (
    render_about_json,
    render_comparison_json,
    render_json,
    render_verifications_json,
)
from nanscope.reporters.text import render_text
from nanscope.reporters.verification import render_verifications
from nanscope.store.about import About
from nanscope.store.verification.verify import Verification
from nanscope.view import Comparison, View

Reporter = Callable[[View, TextIO], None]
"""Writes the answer for one run."""

ComparisonReporter = Callable[[Comparison, TextIO], None]
"""Writes several runs side by side."""

AboutReporter = Callable[[Sequence[About], TextIO], None]
"""Writes what is in run files."""

VerificationReporter = Callable[[Sequence[Verification], TextIO], None]
"""Writes whether run files are sound."""

REPORTERS: Mapping[str, Reporter] = MappingProxyType({"text": render_text, "json": render_json})
COMPARISON_REPORTERS: Mapping[str, ComparisonReporter] = MappingProxyType(
    {"text": render_comparison, "json": render_comparison_json}
)
ABOUT_REPORTERS: Mapping[str, AboutReporter] = MappingProxyType(
    {"text": render_about, "json": render_about_json}
)
VERIFICATION_REPORTERS: Mapping[str, VerificationReporter] = MappingProxyType(
    {"text": render_verifications, "json": render_verifications_json}
)
