"""Run files that are made to do harm: each a sound one that plain HDF5 calls then changed.

A craft is `(file) -> None` on the open h5py file; `CRAFTS` names it and the words of the refusal.
Files that a run file must not lead to are named `SECRET`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from nanscope.run import Column, Header
from nanscope.store.layout import Layout
from nanscope.store.writer import RunWriter
from nanscope.values import Kind, Site

SECRET = "secret.h5"
BLOSC = 32001  # number of a filter that needs a plug-in

Craft = Callable[[Any], None]


def sound(path: Path, rows: int = 10) -> None:
    """A sound run file: two sites, two stats, a scalar, an event."""
    sites = [Site(f"fc{i}", Kind.OUTPUT, "Linear", i) for i in range(2)]
    columns = [Column(site, stat) for site in sites for stat in ("l2", "nan_count")]
    header = Header((*columns, Column(None, "loss")), {"lr": 0.1}, {"torch": "2"}, ({"name": "fc0"},), 1e9)
    writer = RunWriter.create(path, header, layout=Layout(5, 64, 128, 4, 4))
    for i in range(rows):
        writer.append(i, i / 8, np.full(5, i, np.float32))
    writer.event("note", 1, text="hello")
    writer.close()


def build(name: str, folder: Path) -> Path:
    """The crafted file of this name."""
    path = folder / f"{name.replace(' ', '-')}.h5"
    sound(path)
    with h5py.File(path, "r+") as file:
        CRAFTS[name][0](file)
    return path


def _replace(file: Any, name: str, **how: Any) -> None:
    """Store a dataset of the file in another way."""
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(name, shape, dtype, **how)


def _external_link(file: Any) -> None:
    file["extra"] = h5py.ExternalLink(SECRET, "/x")


def _external_config(file: Any) -> None:
    del file["config"]
    file["config"] = h5py.ExternalLink(SECRET, "/x")


def _soft_link(file: Any) -> None:
    file["series/extra"] = h5py.SoftLink("/config")


def _external_storage(file: Any) -> None:
    _replace(file, "series/blocks", external=[(SECRET, 0, h5py.h5f.UNLIMITED)])


def _virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource(SECRET, "x", (10,))
    file.create_virtual_dataset("extra", layout)


def _unknown_filter(file: Any) -> None:
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk((10,))
    plist.set_filter(BLOSC, h5py.h5z.FLAG_OPTIONAL)
    dataset = h5d.create(file.id, b"extra", h5t.IEEE_F32LE, h5s.create_simple((10,)), plist)
    dataset.write_direct_chunk((0,), bytes(40))


def _scale_offset(file: Any) -> None:
    file.create_dataset("extra", (10,), "i4", chunks=(10,), scaleoffset=4)


def _lzf(file: Any) -> None:
    file.create_dataset("extra", (10,), "f4", chunks=(10,), compression="lzf")


def _of_type(kind: Any) -> Craft:
    def craft(file: Any) -> None:
        h5d.create(file.id, b"extra", kind, h5s.create_simple((10,)))

    return craft


def _compound_config(file: Any) -> None:
    del file["config"]
    file["config"] = np.zeros(3, [("a", "f4"), ("b", "i4")])


def _named_type(file: Any) -> None:
    file["extra"] = np.dtype("f4")


def _attribute(name: str, value: Any) -> Craft:
    def craft(file: Any) -> None:
        file.attrs[name] = value

    return craft


def _thousand_attributes(file: Any) -> None:
    group = file.create_group("extra", track_order=False)
    for i in range(1000):
        group.attrs[f"a{i}"] = i


def _deep(file: Any) -> None:
    file.create_group("/".join("abcdefghijklmnop"))


def _cycle(file: Any) -> None:
    file.create_group("extra/inner")
    file["extra/inner/again"] = file["extra"]


def _root_again(file: Any) -> None:
    file["series/again"] = file["/"]


def _long_name(file: Any) -> None:
    file.create_group("n" * 10_000)


def _huge_dataset(file: Any) -> None:
    file.create_dataset("extra", (2**50,), "f4", chunks=(1024,))


def _overflowing(file: Any) -> None:
    file.create_dataset("extra", (2**31, 2**31, 2), "u1", chunks=(1, 1024, 1), maxshape=(None, None, None))


def _many_dimensions(file: Any) -> None:
    file.create_dataset("extra", (1,) * 7, "f4")


def _huge_chunk(file: Any) -> None:
    file.create_dataset("extra", (2**25,), "f4", chunks=(2**25,), compression="gzip")


def _text_bomb(file: Any) -> None:
    del file["config"]
    file.create_dataset("config", data=["x" * 10**6] * 4, chunks=(4,), compression="gzip")


def _many_lines(file: Any) -> None:
    file.create_dataset("extra", (2_000_000,), h5py.string_dtype(length=1))


def _long_text(file: Any) -> None:
    file.create_dataset("extra", (1000,), h5py.string_dtype(length=60_000))


def _markup_name(file: Any) -> None:
    file["\x1b[31m\u202e[bold]\x07"] = h5py.ExternalLink(SECRET, "/x")


def _wide(file: Any) -> None:
    _replace(file, "series/blocks", chunks=True)


_ENUM = h5t.enum_create(h5t.STD_I8LE)
_ENUM.enum_insert(b"a", 0)
_COMPOUND = h5t.py_create(np.dtype([("a", "f4")]))

CRAFTS: dict[str, tuple[Craft, str]] = {
    "external link": (_external_link, r"external link, which points to another file \(extra\)"),
    "external link as config": (_external_config, r"external link, .* \(config\)"),
    "soft link": (_soft_link, r"soft link, which can lead anywhere \(series/extra\)"),
    "external storage": (_external_storage, r"data is in another file \(series/blocks\)"),
    "virtual dataset": (_virtual, r"virtual dataset, which points to other files \(extra\)"),
    "unknown filter": (
        _unknown_filter,
        r"extra is compressed in a way that no run file is \(filter 32001\)",
    ),
    "lzf": (_lzf, r"is compressed in a way that no run file is \(filter 32000\)"),
    "scale offset": (_scale_offset, r"is compressed in a way that no run file is \(filter 6\)"),
    "compound": (_of_type(_COMPOUND), "extra holds compound values"),
    "compound config": (_compound_config, "config holds compound values"),
    "references": (_of_type(h5t.STD_REF_OBJ), "extra holds references"),
    "region references": (_of_type(h5t.STD_REF_DSETREG), "extra holds references"),
    "opaque": (_of_type(h5t.create(h5t.OPAQUE, 8)), "extra holds opaque data"),
    "enum": (_of_type(_ENUM), "extra holds enumerated values"),
    "sequences": (_of_type(h5t.vlen_create(h5t.STD_I32LE)), "extra holds sequences of variable length"),
    "arrays": (_of_type(h5t.array_create(h5t.IEEE_F32LE, (4,))), "extra holds arrays"),
    "bit fields": (_of_type(h5t.STD_B8LE), "extra holds bit fields"),
    "wide floats": (_of_type(h5t.IEEE_F128LE), "extra holds floats of an unusual form"),
    "named type": (_named_type, "holds extra, neither group nor dataset"),
    "long attribute": (_attribute("host", np.bytes_(b"x" * 60_000)), "attribute host is too long"),
    "long text attribute": (_attribute("host", "x" * 10**6), "attribute host is too long"),
    "array attribute": (
        _attribute("format", np.zeros(4000)),
        "attribute format is neither a text nor a number",
    ),
    "reference attribute": (_attribute("part", h5py.Reference()), "attribute part is neither a text nor"),
    "thousand attributes": (_thousand_attributes, "its extra has 1,000 attributes"),
    "deep groups": (_deep, "groups are nested more than 8 deep"),
    "cycle": (_cycle, "group extra/inner/again is a second name of another group"),
    "root again": (_root_again, "group series/again is a second name of another group"),
    "long name": (_long_name, r"name of 10,000 letters \(n{80}\.\.\.\)"),
    "huge dataset": (_huge_dataset, "extra claims 4,503,599,627,370,496 bytes"),
    "overflowing dataset": (_overflowing, "extra claims 9,223,372,036,854,775,808 bytes"),
    "many dimensions": (_many_dimensions, "extra has 7 dimensions"),
    "huge chunk": (_huge_chunk, "extra has chunks of 134,217,728 bytes"),
    "text bomb": (_text_bomb, "text config is in chunks"),
    "many lines": (_many_lines, "text extra claims 2,000,000 lines"),
    "long text": (_long_text, "text extra claims 60,000,000 bytes"),
    "markup in a name": (_markup_name, r"external link, .* \(\?\[31m\?\[bold\]\?\)"),
    "blocks in chunks": (_wide, "is damaged or cut short"),
}
