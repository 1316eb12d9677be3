"""Colours and glyphs: one place for both, chosen by what the terminal can show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Graph(StrEnum):
    """What plots are drawn with."""

    BRAILLE = "braille"
    BLOCK = "block"
    ASCII = "ascii"


BAD_FORE, BAD_BACK = 0xFFFFFF, 0xB00040
DIM, TEXT, STRONG, RULE = 0x8A8F98, 0xC9CDD4, 0xFFFFFF, 0x4A4F58
HEAD_BACK, FOCUS_BACK = 0x1B2230, 0x26324A
CASES = (0x56B4E9, 0xE69F00, 0xD55E9B, 0x009E73, 0xF0E442, 0x0072B2)
"""After Okabe and Ito: told apart by people who see few colours, too."""
WARN = 0xE69F00

# Dark blue to yellow with rising lightness, after cividis.
_SEQUENTIAL = np.array(
    [
        [18, 26, 52],
        [32, 52, 96],
        [70, 78, 108],
        [107, 108, 113],
        [146, 138, 112],
        [190, 174, 94],
        [253, 231, 55],
    ],
    float,
)
_BELOW = np.array([[14, 16, 22], [40, 110, 190]], float)
"""What lies under the usual: near-black to blue."""
DECADES = 8
"""How many decades above the usual the colours tell apart; a digit tells nine."""


@dataclass(frozen=True, slots=True)
class Glyphs:
    """Marks for what is meant, by what can be shown."""

    bad: str
    here: str
    error: str
    warning: str
    note: str
    dot: str
    rule: str
    bar: str
    ramp: str
    shades: str
    up: str
    down: str

    def severity(self, level: int) -> str:
        """0 note, 1 warning, 2 error."""
        return (self.note, self.warning, self.error)[level]


UNICODE = Glyphs("\N{MULTIPLICATION SIGN}", "▸", "✖", "▲", "●", "·", "━", "│", " ▏▎▍▌▋▊▉█", "░▒▓█", "▲", "▼")
PLAIN_GLYPHS = Glyphs("X", ">", "X", "^", "o", ".", "-", "|", " .:-=+*#%@", ".:+#", "^", "v")


def glyphs_of(graph: Graph) -> Glyphs:
    """The marks that go with a way of drawing."""
    return PLAIN_GLYPHS if graph is Graph.ASCII else UNICODE


def choose(wanted: str, environ: Mapping[str, str], encoding: str) -> Graph:
    """How to draw: as wanted, else by the encoding and the terminal's type."""
    if wanted != "auto":
        return Graph(wanted)
    if "utf" not in encoding.lower():
        return Graph.ASCII
    return Graph.BLOCK if environ.get("TERM") == "linux" else Graph.BRAILLE


def decades(values: NDArray[np.float64]) -> NDArray[np.int32]:
    """Colours of decades above the usual (below: negative), shape as given; NaN is the plain background."""
    above = _ramp(np.clip(np.nan_to_num(values) / DECADES, 0, 1), _SEQUENTIAL)
    below = _ramp(np.clip(-np.nan_to_num(values) / 4, 0, 1), _BELOW)
    return np.where(np.isnan(values), -1, np.where(values < 0, below, above)).astype(np.int32)


def shares(values: NDArray[np.float64]) -> NDArray[np.int32]:
    """Colours of shares from 0 to 1."""
    return _ramp(np.clip(np.nan_to_num(values), 0, 1), _SEQUENTIAL)


def mix(colour: int, other: int, share: float) -> int:
    """A colour between two."""
    parts = [
        round(((colour >> shift) & 255) * (1 - share) + ((other >> shift) & 255) * share)
        for shift in (16, 8, 0)
    ]
    return parts[0] << 16 | parts[1] << 8 | parts[2]


def _ramp(share: NDArray[np.float64], stops: NDArray[np.float64]) -> NDArray[np.int32]:
    at = share * (len(stops) - 1)
    parts = [np.interp(at, np.arange(len(stops)), stops[:, i]).round().astype(np.int32) for i in range(3)]
    return np.asarray(parts[0] << 16 | parts[1] << 8 | parts[2], np.int32)
