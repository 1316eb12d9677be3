"""A training that only appends rows: `python -m tests.store.child FILE COUNTER COLUMNS PACE [real]`.

COUNTER is a small file, mapped into memory, with the number of rows whose `append` returned: it survives
the kill, so the test knows what had to be in the run file. PACE is seconds per row. Blocks and ring are
small unless `real` is given.
"""

import mmap
import os
import struct
import sys
import time
import zlib
from pathlib import Path

from nanscope.store.writer import RunWriter
from tests.store.files import header, layout, pattern

COUNT = struct.Struct("<Q")
WORK = bytes(100_000)


def main() -> None:
    """Append rows of the pattern until somebody kills this process."""
    path, counter, columns, pace = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    sizes = None if sys.argv[5:] == ["real"] else layout(columns)
    writer = RunWriter.create(path, header(columns), layout=sizes)
    shared = mmap.mmap(os.open(counter, os.O_RDWR), COUNT.size)
    start = time.monotonic()
    table = pattern(0, 4096, columns)
    row = 0
    while True:
        if row % len(table) == 0:
            table = pattern(row, row + len(table), columns)
        writer.append(3 * row, row / 8, table[row % len(table)])
        row += 1
        COUNT.pack_into(shared, 0, row)
        while pace and time.monotonic() - start < row * pace:
            zlib.crc32(WORK)  # like a kernel: busy, without Python's lock


if __name__ == "__main__":
    main()
