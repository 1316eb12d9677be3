"""Where libhdf5 believes that the chunks of a file are: asked in a process of its own, within limits.

The reader finds chunks by the file's own list and never asks libhdf5; other programs do the opposite. Only a
file in which both say the same holds the same numbers for everybody.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from nanscope.errors import RunFileError

_ANSWER_BYTES = 512 << 20
_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from nanscope.store.guard.chunk_map import serve; serve()"

Map = dict[str, dict[tuple[int, ...], tuple[int, int]]]
"""By dataset: position of a chunk's first element -> offset in the file and size."""


def chunk_map(descriptor: int, name: str) -> tuple[Map, dict[str, int]]:
    """Ask libhdf5.

    Args:
        descriptor: of the open file.
        name: how messages call it.

    Returns:
        The chunks, and the bits of the fill value of each dataset of 32-bit floats.

    Raises:
        RunFileError: libhdf5 cannot say.
    """
    path = [str(Path(__file__).parents[3]), *(entry for entry in sys.path if Path(entry).is_absolute())]
    with subprocess.Popen(  # noqa: S603 - the interpreter that runs this, with its own search path
        [sys.executable, "-I", "-S", "-c", _PROGRAM, *path],
        stdin=descriptor,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"},
    ) as child:
        try:
            assert child.stdout is not None
            answer = child.stdout.read(_ANSWER_BYTES)
        finally:
            child.kill()
    try:
        told = json.loads(answer)
    except ValueError:
        raise RunFileError(f"libhdf5 cannot find the chunks of {name}", "do not trust this file") from None
    chunks: Map = {}
    for dataset, *position, offset, size in told["chunks"]:
        chunks.setdefault(dataset, {})[tuple(position)] = (offset, size)
    return chunks, told["fill"]


def serve() -> None:
    """What the child does: standard input is the file, standard output takes the answer."""
    import h5py  # noqa: PLC0415 - only the child needs it
    import numpy as np  # noqa: PLC0415 - the same

    from nanscope.store.guard.confine import confine  # noqa: PLC0415 - the same
    from nanscope.store.guard.watched import WatchedFile  # noqa: PLC0415 - the same

    confine()
    chunks: list[list[Any]] = []
    fill: dict[str, int] = {}

    def note(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or item.chunks is None:
            return
        item.id.chunk_iter(
            lambda chunk: chunks.append([name, *chunk.chunk_offset, chunk.byte_offset, chunk.size])
        )
        if item.dtype == np.dtype("<f4"):
            fill[name] = int(np.float32(item.fillvalue).view(np.uint32))

    with h5py.File(WatchedFile(0), "r") as file:
        file.visititems(note)
    sys.stdout.write(json.dumps({"chunks": chunks, "fill": fill}))
    sys.stdout.flush()
    os._exit(0)  # without libhdf5's own clearing up
