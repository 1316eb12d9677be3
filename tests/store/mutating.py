"""Damage to a run file, at random and on purpose: `python -m tests.store.mutating FILE COUNT SEED`.

A mutant is a list of patches on the sound file. They are made in place and taken back, because most of a
run file is holes: a copy for each mutant would write them all. The program says as JSON lines what became of
each mutant; that it gets to the end says that nothing reached it but `RunFileError`.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nanscope.errors import RunFileError
from nanscope.run import Run
from nanscope.store.guard.survey import survey
from nanscope.store.guard.watched import WatchedFile
from nanscope.store.reader import open_run
from tests.store.sealing import seal, sealed_blocks

Patch = tuple[int, bytes]
Damage = Callable[[random.Random, "Original"], list[Patch]]

MEMORY = 1 << 30  # bytes that reading mutants may take beyond what the program has
_PAGE = 4096
_NUMBERS = (0, 1, 7, 255, 2**16, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 8, 2**64 - 1)
_VARYING = {
    r"\b(dataset|text|attribute|group|checksum for|chunk of) \S+": r"\1 X",
    r"holds \S+, neither": "holds X, neither",
    r"\(.*/.*\)": "(X)",
    r"(?<!HDF)\d[\d,]*": "N",
}


@dataclass(frozen=True)
class Original:
    """A sound run file.

    Attributes:
        data: its bytes.
        metadata: offset and length of each piece that libhdf5 reads of it.
        written: offset and length of each piece of it that is not zero.
        sealed: first byte and place of the checksum of each block that has one.
    """

    data: bytes
    metadata: list[tuple[int, int]]
    written: list[tuple[int, int]]
    sealed: list[tuple[int, int]]

    @classmethod
    def of(cls, path: Path) -> Original:
        """The file under this name."""
        data = path.read_bytes()
        descriptor = os.open(path, os.O_RDONLY)
        watched = WatchedFile(descriptor)
        survey(watched)
        os.close(descriptor)
        pieces = [(offset, len(read)) for offset, read in watched.pieces or ()]
        return cls(data, pieces, list(_written(data)), list(sealed_blocks(data)))


def _written(data: bytes) -> Iterator[tuple[int, int]]:
    for start in range(0, len(data), _PAGE):
        page = data[start : start + _PAGE]
        if page.strip(b"\0"):
            yield start, len(page)


def _flips(dice: random.Random, original: Original, places: list[tuple[int, int]]) -> list[Patch]:
    patches = []
    for _ in range(dice.choice((1, 1, 1, 2, 8))):
        start, length = dice.choice(places)
        at = min(start + dice.randrange(max(1, length)), len(original.data) - 1)
        patches.append((at, bytes([original.data[at] ^ (1 << dice.randrange(8))])))
    return patches


def flipped_metadata(dice: random.Random, original: Original) -> list[Patch]:
    """A few bits of what libhdf5 reads."""
    return _flips(dice, original, original.metadata)


def flipped_data(dice: random.Random, original: Original) -> list[Patch]:
    """A few bits of anything that was written."""
    return _flips(dice, original, original.written)


def run_of_one_byte(dice: random.Random, original: Original) -> list[Patch]:
    """Zeros or ones where something was."""
    start, length = dice.choice(original.metadata + original.written)
    at = start + dice.randrange(max(1, length))
    size = min(dice.choice((1, 4, 16, 512, _PAGE)), len(original.data) - at)
    return [(at, dice.choice((b"\0", b"\xff")) * size)]


def swapped(dice: random.Random, original: Original) -> list[Patch]:
    """Two pieces of the same size, each in the place of the other."""
    size = dice.choice((16, 64, 512, _PAGE))
    (a, _), (b, _) = dice.choice(original.written), dice.choice(original.metadata)
    first, second = original.data[a : a + size], original.data[b : b + size]
    return [(a, second), (b, first)]


def doubled(dice: random.Random, original: Original) -> list[Patch]:
    """A piece of the file a second time, over another."""
    (a, length), (b, _) = dice.choice(original.metadata), dice.choice(original.metadata)
    return [(b, original.data[a : a + min(length, dice.choice((8, 48, _PAGE)))])]


def resealed_number(dice: random.Random, original: Original) -> list[Patch]:
    """A number in the metadata replaced, with HDF5's checksum made right again: the damage is believed."""
    start, place = dice.choice(original.sealed)
    block = bytearray(original.data[start : place + 4])
    size = dice.choice((1, 2, 4, 8))
    at = dice.randrange(max(1, len(block) - 4 - size))
    old = int.from_bytes(block[at : at + size], "little")
    number = dice.choice((*_NUMBERS, old + 1, old - 1, old * 2, len(original.data) + old))
    block[at : at + size] = struct.pack("<Q", number % 2**64)[:size]
    seal(block, 0, place - start)
    return [(start, bytes(block))]


def resealed_flips(dice: random.Random, original: Original) -> list[Patch]:
    """A few bits of a sealed block, with its checksum made right again."""
    start, place = dice.choice(original.sealed)
    block = bytearray(original.data[start : place + 4])
    for _ in range(dice.choice((1, 2, 5))):
        block[dice.randrange(len(block) - 4)] ^= 1 << dice.randrange(8)
    seal(block, 0, place - start)
    return [(start, bytes(block))]


def cut(dice: random.Random, original: Original) -> list[Patch]:
    """The file ends early: at the beginning, in the middle or at the end of a piece."""
    start, length = dice.choice(original.metadata + original.written)
    return [(min(start + dice.choice((0, length // 2, length)), len(original.data) - 1), b"")]


DAMAGES: dict[Damage, int] = {
    flipped_metadata: 3,
    flipped_data: 3,
    run_of_one_byte: 2,
    swapped: 1,
    doubled: 1,
    resealed_number: 6,
    resealed_flips: 3,
    cut: 1,
}
"""Every sort of damage, and how often it is chosen."""


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant: `alike`, `other data`, or the words of the refusal; and the seconds."""

    damage: str
    words: str
    seconds: float


def mutants(path: Path, count: int, seed: int) -> Iterator[Outcome]:
    """Damage the file `count` times, in place; it is sound again after each.

    Raises:
        Exception: whatever opening or reading a mutant raises, but RunFileError.
    """
    original = Original.of(path)
    expected = _everything(open_run(path))
    dice = random.Random(seed)
    for _ in range(count):
        damage = dice.choices(list(DAMAGES), list(DAMAGES.values()))[0]
        patches = damage(dice, original)
        _patch(path, patches)
        start = time.perf_counter()
        words = _opened(path, expected)
        yield Outcome(damage.__name__, words, time.perf_counter() - start)
        _restore(path, original, patches)


def _opened(path: Path, expected: list[bytes]) -> str:
    try:
        found = _everything(open_run(path))
    except RunFileError as error:
        return _kind_of(error.message.replace(str(path), ""))
    return "alike" if found == expected else "other data"


def _kind_of(message: str) -> str:
    """The sentence without the names and numbers in it."""
    assert message.isprintable()
    for pattern, place in _VARYING.items():
        message = re.sub(pattern, place, message)
    return message.strip().removeprefix("was not opened: ")


def _everything(run: Run) -> list[bytes]:
    """All that a run file holds, as bytes."""
    rows, source = len(run), run.source
    texts = [repr(item).encode() for item in (run.header, run.state, run.events, run.epochs, run.lost)]
    columns = range(len(run.header.columns))
    overviews = [source.overview(i, bucket) for i in columns for bucket in (7, 64, 1000)]
    return [
        *texts,
        *(np.ascontiguousarray(source.column(i, 0, rows)).tobytes() for i in columns),
        source.block(0, rows).tobytes(),
        source.steps(0, rows).tobytes(),
        source.times(0, rows).tobytes(),
        *(item.low.tobytes() + item.mean.tobytes() + item.nonfinite.tobytes() for item in overviews),
    ]


def _patch(path: Path, patches: list[Patch]) -> None:
    with path.open("r+b") as file:
        for offset, data in patches:
            file.seek(offset)
            file.write(data)
            if not data:
                file.truncate(offset)


def _restore(path: Path, original: Original, patches: list[Patch]) -> None:
    with path.open("r+b") as file:
        for offset, data in patches:
            places = [(offset, len(data))] if data else original.written
            for start, length in places:
                file.seek(start)
                file.write(original.data[start : start + length])
        file.truncate(len(original.data))


def main() -> None:
    """Say what becomes of each mutant."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * os.sysconf("SC_PAGESIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    path, count, seed = sys.argv[1:]
    for outcome in mutants(Path(path), int(count), int(seed)):
        print(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    main()
