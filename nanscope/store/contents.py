"""What is fixed in a run file: its header, its sizes, where everything is. Checked before it is believed."""

from __future__ import annotations

import io
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np

from nanscope import __version__
from nanscope.errors import RunFileError
from nanscope.run import Column, Header
from nanscope.store.layout import Layout, row_words
from nanscope.store.schema import FORMAT, MAJOR, arrays
from nanscope.store.text import clean, clean_json
from nanscope.values import Kind, Site

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# what h5py, numpy and json raise on a file that is not as the schema says
_DAMAGE = (OSError, KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError)


@dataclass(frozen=True)
class Contents:
    """Header, sizes and the offset of every dataset by name; `host` is the machine that recorded.

    `part` counts from 1; a compacted file holds `parts` of them.
    """

    header: Header
    layout: Layout
    offsets: dict[str, int]
    host: str
    run_id: str
    part: int = 1
    parts: int = 1


def open_contents(path: Path, name: str) -> tuple[Contents, int]:
    """Check the file and read what is fixed in it.

    Args:
        path: the file.
        name: how messages call it.

    Returns:
        The contents, and a descriptor of the file that the caller closes.

    Raises:
        RunFileError: no such file, or not a run file that this version reads.
    """
    descriptor = _open(path, name)
    try:
        _check_kind(descriptor, name)
        return _read_contents(descriptor, name), descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _open(path: Path, name: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO would block until somebody writes to it
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise RunFileError(f"{name} cannot be read ({reason})", "check the name") from error


def _check_kind(descriptor: int, name: str) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise RunFileError(f"{name} is not a regular file", "give the name of a run file")
    if os.pread(descriptor, len(_SIGNATURE), 0) != _SIGNATURE:
        raise RunFileError(f"{name} is not an HDF5 file", "give the name of a run file, such as run.h5")


def _read_contents(descriptor: int, name: str) -> Contents:
    # through a Python file: the file that was checked, no lock, nothing shared with other users of libhdf5
    plain = io.FileIO(descriptor, closefd=False)
    try:
        with h5py.File(plain, "r") as file:
            _check_format(file, name)
            layout = _layout(file)
            offsets = {spec.name: _offset(file[spec.name], spec.shape, spec.dtype) for spec in arrays(layout)}
            header = _header(file)
            host, run_id = str(file.attrs["host"]), str(file.attrs["run_id"])
            part, parts = int(file.attrs["part"]), int(file.attrs.get("parts", 1))
    except _DAMAGE as error:
        _refuse_damaged(name, error)
    if len(header.columns) != layout.columns:
        _refuse_damaged(name, None)
    size = os.fstat(descriptor).st_size
    if any(offsets[spec.name] + spec.nbytes > size for spec in arrays(layout)):
        _refuse_damaged(name, None)
    return Contents(header, layout, offsets, host, run_id, part, parts)


def _refuse_damaged(name: str, error: Exception | None) -> NoReturn:
    raise RunFileError(
        f"{name} is damaged or cut short", "copy it again from where it was recorded"
    ) from error


def _check_format(file: Any, name: str) -> None:
    if str(file.attrs.get("format", "")) != FORMAT:
        raise RunFileError(f"{name} is an HDF5 file but no nanscope run file", "give the name of a run file")
    version = str(file.attrs["format_version"])
    if int(version.partition(".")[0]) != MAJOR:
        writer = clean(str(file.attrs.get("nanscope_version", "unknown")))
        raise RunFileError(
            f"{name} was written by nanscope {writer} in format {clean(version)}, this is {__version__}",
            "pip install -U nanscope",
        )


def _layout(file: Any) -> Layout:
    """The sizes, from the shapes; `_offset` then holds every dataset against them."""
    slots, columns, block = file["series/blocks"].shape
    blocks = file["live/index"].shape[0]
    ring, words = file["live/ring"].shape
    if min(slots, blocks, columns, block, ring) < 1 or ring % block or words != row_words(columns):
        raise ValueError("shapes that do not fit together")
    finest = next((rows for rows in (64, 512) if f"pyramid/x{rows}" in file), block)
    return Layout(columns, block, ring, blocks, slots, finest)


def _offset(dataset: Any, shape: tuple[int, ...], dtype: str) -> int:
    offset = dataset.id.get_offset()
    # only a contiguous dataset within this file has an offset
    if offset is None or dataset.shape != shape or dataset.dtype != np.dtype(dtype):
        raise ValueError(f"{dataset.name} is not as the schema says")
    return int(offset)


def _header(file: Any) -> Header:
    config, environment, model = (
        clean_json(json.loads(file[name].asstr()[()])) for name in ("config", "env", "model")
    )
    created = float(file.attrs["created"])
    return Header(_columns(file), config, environment, tuple(model), created)


def _columns(file: Any) -> tuple[Column, ...]:
    series, columns = file["series"], file["columns"]
    sites, stats, scalars = _sites(series), _strings(series["stat"]), _strings(series["scalar"])
    pairs = zip(columns["site"][:].tolist(), columns["stat"][:].tolist(), strict=True)
    return tuple(
        Column(None, scalars[stat]) if site == -1 else Column(sites[site], stats[stat])
        for site, stat in pairs
    )


def _sites(series: Any) -> list[Site]:
    fields = zip(
        _strings(series["site_module"]),
        _strings(series["site_kind"]),
        _strings(series["site_module_type"]),
        series["site_order"][:].tolist(),
        _strings(series["site_dtype"]),
        series["site_numel"][:].tolist(),
        strict=True,
    )
    return [Site(name, Kind(kind), *rest) for name, kind, *rest in fields]


def _strings(dataset: Any) -> list[str]:
    return [clean(text) for text in dataset.asstr(errors="replace")[:]]
