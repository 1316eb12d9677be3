"""The answer as JSON: the diagnosis (schema 1) and the facts of the run beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from nanscope.store.about import About
from nanscope.store.verification.verify import Verification
from nanscope.values import DIAGNOSIS_SCHEMA, plain
from nanscope.view import Compared, Comparison, View

FILES_SCHEMA = 1  # of what `info` and `verify` say


def render_json(view: View, out: TextIO) -> None:
    """Write the diagnosis with one more key, `run`. Strict JSON: NaN and inf are strings."""
    _write({**view.diagnosis.to_dict(), "run": plain(view.facts)}, out)


def render_comparison_json(comparison: Comparison, out: TextIO) -> None:
    """Write all cases in the order given, each with its diagnosis and its run."""
    cases = [_case(case) for case in comparison.cases]
    _write({"schema": DIAGNOSIS_SCHEMA, "difference": comparison.difference, "cases": cases}, out)


def render_about_json(runs: Sequence[About], out: TextIO) -> None:
    """Write what is in each run file."""
    _write({"schema": FILES_SCHEMA, "runs": [plain(about.to_dict()) for about in runs]}, out)


def render_verifications_json(found: Sequence[Verification], out: TextIO) -> None:
    """Write what was found in each run file; `sound` sums it up."""
    runs = [{**plain(verification), "sound": not verification.problems} for verification in found]
    _write({"schema": FILES_SCHEMA, "runs": runs}, out)


def _case(case: Compared) -> dict[str, Any]:
    own = {
        "label": case.label,
        "verdict": case.diagnosis.verdict,
        "first_nonfinite": case.first_nonfinite,
        "test": case.score,
        "seconds_per_epoch": case.seconds,
        "seconds_estimated": case.estimated,
        "updates_per_epoch": case.updates,
        "reading": case.reading,
        "run": case.facts,
    }
    return {**plain(own), "diagnosis": case.diagnosis.to_dict()}


def _write(answer: Mapping[str, Any], out: TextIO) -> None:
    # ASCII escapes keep control characters out of the terminal and suit a stream of any encoding.
    json.dump(answer, out, indent=2, allow_nan=False)
    out.write("\n")
