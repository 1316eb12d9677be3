"""The types of elements that a run file may hold: integers, floats and strings, of the usual sizes.

h5py crashes or misreads on some of the others, so a type is looked at before it is turned into numpy's.
"""

from __future__ import annotations

from h5py import h5t

NUMBERS = {
    f"{order}{kind}{size}": getattr(h5t, f"{name}{8 * size}{'LE' if order == '<' else 'BE'}")
    for kind, name, sizes in (
        ("i", "STD_I", (1, 2, 4, 8)),
        ("u", "STD_U", (1, 2, 4, 8)),
        ("f", "IEEE_F", (2, 4, 8)),
    )
    for size in sizes
    for order in "<>"
}
"""Every type of number that a run file may hold, by its name in numpy."""

_WORDS = {
    h5t.INTEGER: "integers of an unusual form",
    h5t.FLOAT: "floats of an unusual form",
    h5t.TIME: "times",
    h5t.BITFIELD: "bit fields",
    h5t.OPAQUE: "opaque data",
    h5t.COMPOUND: "compound values",
    h5t.REFERENCE: "references",
    h5t.ENUM: "enumerated values",
    h5t.VLEN: "sequences of variable length",
    h5t.ARRAY: "arrays",
}


def number_type(kind: h5t.TypeID) -> str | None:
    """As numpy spells it, such as `<f4`; None where it is no number of a usual form."""
    if kind.get_class() not in (h5t.INTEGER, h5t.FLOAT):
        return None
    return next((name for name, known in NUMBERS.items() if kind.equal(known)), None)


def is_string(kind: h5t.TypeID) -> bool:
    """Whether it is text, of fixed or of variable length."""
    return bool(kind.get_class() == h5t.STRING)


def in_words(kind: h5t.TypeID) -> str:
    """What elements of a type that no run file has are called."""
    return _WORDS.get(kind.get_class(), "values of an unknown type")
