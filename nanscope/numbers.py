"""Numbers as people read them, the same way on every screen.

Counts have their thousands apart. The number of a step is a name that is typed into commands: it stands as
it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING_WORD = "-"


def count(value: int) -> str:
    """A whole number with its thousands apart: `43,110`."""
    return f"{value:,}"


def number(value: float | None) -> str:
    """A measured number in three significant digits: `0.254`, `1,653`, `1.4e26`, `nan`; `-` for None."""
    if value is None:
        return MISSING_WORD
    if not math.isfinite(value) or value == 0:
        return f"{value:.0f}"
    if 1e-3 <= abs(value) < 999.5:
        return f"{value:.3g}"
    if 999.5 <= abs(value) < 99999.5:
        return f"{value:,.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def listed(words: Sequence[str]) -> str:
    """Words one after the other: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def score(value: float | None) -> str:
    """A loss or a share in three decimals, so that a column lines up: `0.951`; a large one as `number`."""
    if value is None or not math.isfinite(value) or abs(value) >= 1000:
        return number(value)
    return f"{value:.3f}"


def size(nbytes: int) -> str:
    """Bytes in three significant digits and decimal units: `972 bytes`, `8.39 MB`."""
    if nbytes < 1000:
        return f"{nbytes} bytes"
    value, units = float(nbytes), iter(("kB", "MB", "GB", "TB", "PB", "EB"))
    unit = ""
    while value >= 999.5:
        value, unit = value / 1000, next(units)
    return f"{number(value)} {unit}"


def duration(seconds: float) -> str:
    """A time in one or two units: `8.2 us`, `7.1 ms`, `1.2 s`, `48 s`, `3 min 12 s`, `5 h 2 min`."""
    if not math.isfinite(seconds):
        return str(seconds)
    if 0 < seconds < 0.9995:
        return f"{number(1e3 * seconds)} ms" if seconds >= 0.9995e-3 else f"{number(1e6 * seconds)} us"
    if seconds < 9.95:
        return f"{number(seconds)} s"
    whole = round(seconds)
    for length, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part} {smaller}"
    return f"{whole} s"
