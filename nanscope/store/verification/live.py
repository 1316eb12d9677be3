"""The checks of a run file in its live layout: heads, events, ring, index, blocks, summaries."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanscope.numbers import count
from nanscope.run import Floats
from nanscope.store.head import HEAD_SLOT, Head, newest_head
from nanscope.store.layout import ROW_HEAD_WORDS, row_words
from nanscope.store.pyramid import QUANTITIES
from nanscope.store.raw import RawFile
from nanscope.store.schema import EVENT_BYTES, INDEX_WORDS
from nanscope.store.verification.recount import disagreements
from nanscope.store.verification.tally import Tally

_TRIES = 5  # looks at something that a writer at work may just be changing
# so that a small file which declares a huge run cannot take forever: nobody is told more than the first ones
_ENOUGH_BLOCKS, _ENOUGH_PROBLEMS = 16, 2000


def check_live(raw: RawFile, state: str, tally: Tally) -> None:
    """Check one file; `state` is the run's."""
    head = _check_heads(raw, state, tally)
    _check_events(raw, state, tally)
    ring = raw.read("live/ring", "<u4", raw.layout.ring * row_words(raw.layout.columns))
    newest = Ring(raw, ring.reshape(raw.layout.ring, -1), head)
    newest.check(state, tally)
    _Blocks(raw, head, newest).check(state, tally)


def _check_heads(raw: RawFile, state: str, tally: Tally) -> Head:
    slots = raw.read("live/head", "u1", 2 * HEAD_SLOT).tobytes()
    for number in (0, 1):
        slot = slots[number * HEAD_SLOT : (number + 1) * HEAD_SLOT]
        tally.count("heads", int(any(slot)))
        if any(slot) and newest_head(slot) is None and not (state == "live" and _heals(raw, number)):
            tally.problem(f"slot {number} of the writer's record of its progress is damaged")
    head = newest_head(slots)
    if head is None:
        tally.problem("nothing is known of the writer's progress, so rows at the end may be missing")
    return head or Head()


def _heals(raw: RawFile, number: int) -> bool:
    """Whether a head slot was only caught while it was written."""
    looks = (raw.read("live/head", "u1", HEAD_SLOT, number * HEAD_SLOT).tobytes() for _ in range(_TRIES))
    return any(newest_head(slot) is not None for slot in looks)


def _check_events(raw: RawFile, state: str, tally: Tally) -> None:
    data = raw.read("live/events", "u1", EVENT_BYTES).tobytes().rstrip(b"\0")
    *lines, rest = data.split(b"\n")
    at = 0
    for line in lines:
        tally.count("events")
        if not _sound_event(line):
            tally.problem(
                f"the event in bytes {count(at)} to {count(at + len(line))} of the events is damaged"
            )
        at += len(line) + 1
    if rest and state in ("live", "killed"):
        tally.note("the last event was being written and is not complete")
    elif rest:
        tally.problem("the last event is damaged")


def _sound_event(line: bytes) -> bool:
    crc, space, text = line[:8], line[8:9], line[9:]
    if space != b" " or crc != b"%08x" % zlib.crc32(text):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


class Ring:
    """The rows in the ring of a file.

    Attributes:
        numbers: row number in each place.
        sound: whether a place holds a row with the right checksum that belongs there.
    """

    def __init__(self, raw: RawFile, words: NDArray[np.uint32], head: Head) -> None:
        self._raw, self._words, self._head = raw, words, head
        self.numbers = np.ascontiguousarray(words[:, :2]).view("<u8")[:, 0]
        self.sound = np.array([self._is_sound(place) for place in range(len(words))])
        self.size = len(words)

    def _is_sound(self, place: int) -> bool:
        row, number = self._words[place], int(self.numbers[place])
        written = bool(row.any())
        return written and number % len(self._words) == place and zlib.crc32(row[:-1].data) == int(row[-1])

    def check(self, state: str, tally: Tally) -> None:
        """Every place must hold the newest row that the head counted there, or a newer one."""
        places = np.arange(self.size)
        rows = self._head.rows
        expected = places + (rows - 1 - places) // self.size * self.size  # negative: nothing yet
        used = self._words.any(axis=1)
        tally.count("rows in the ring", int(np.count_nonzero(used)))
        wrong = used & ~self.sound | (expected >= 0) & ~used
        wrong |= self.sound & (self.numbers < np.maximum(expected, 0).astype(np.uint64))
        if state != "live":
            wrong |= self.sound & (self.numbers >= rows) & (state != "killed") & (self._head.sequence > 0)
        unfinished = self._unfinished(state, tally)
        for place in np.flatnonzero(wrong).tolist():
            if place in unfinished:
                tally.note("the row that was being written at the end is not complete")
            elif not (state == "live" and self._heals(place)):
                row = f"row {count(int(expected[place]))}" if expected[place] >= 0 else "no row yet"
                tally.problem(f"place {place} in the ring, where {row} should be, is damaged")

    def _unfinished(self, state: str, tally: Tally) -> set[int]:
        """Places that a kill may leave incomplete: after the newest row, and of a row that is amended."""
        amended = self._raw.read("live/amended", "<u4", self._words.shape[1])
        whole = zlib.crc32(amended[:-1].data) == int(amended[-1])
        if state not in ("live", "killed"):
            if amended.any() and not whole:
                tally.problem("the copy of the row that was amended last is damaged")
            return set()
        newest = int(self.numbers[self.sound].max(initial=0)) if self.sound.any() else -1
        places = {int(amended[:2].view("<u8")[0]) % self.size} if whole else set()
        if newest + 1 >= self._head.rows:  # one that the head counted was complete
            places.add((newest + 1) % self.size)
        return places

    def _heals(self, place: int) -> bool:
        size = 4 * self._words.shape[1]
        for _ in range(_TRIES):
            row = self._raw.read("live/ring", "<u4", self._words.shape[1], place * size)
            if zlib.crc32(row[:-1].data) == int(row[-1]):
                return True
        return False

    def rows(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Numbers and words of the sound rows within start..stop."""
        places = np.flatnonzero(self.sound & (self.numbers >= start) & (self.numbers < stop))
        return self.numbers[places].astype(np.int64), self._words[places]


class _Blocks:
    """The finished blocks of a file."""

    def __init__(self, raw: RawFile, head: Head, ring: Ring) -> None:
        self._raw, self._head, self._ring = raw, head, ring
        self._index = self._read_index()
        self._last_step = np.iinfo(np.int64).min

    def _read_index(self) -> NDArray[np.uint32]:
        words = self._raw.read("live/index", "<u4", INDEX_WORDS * self._raw.layout.blocks)
        return np.asarray(words.reshape(-1, INDEX_WORDS), np.uint32)

    def check(self, state: str, tally: Tally) -> None:
        """Every block that the index or the head knows of."""
        known = np.flatnonzero(self._index.any(axis=1))
        end = max(self._head.blocks, int(known[-1]) + 1 if len(known) else 0)
        slots = [slot for slot in self._index[:, 2].tolist() if slot]
        if len(set(slots)) < len(slots):
            tally.problem("two blocks claim the same place for their values")
        damaged = 0
        for number in range(end):
            if damaged >= _ENOUGH_BLOCKS and tally.found >= _ENOUGH_PROBLEMS:
                tally.note(f"of {count(end)} blocks only {count(number)} were looked at: too much is wrong")
                break
            before = tally.found
            if self._check_entry(number, tally):
                tally.count("blocks")
                self._check_block(number, state, tally)
            damaged += tally.found > before
            tally.advance(self._raw.layout.block)
        self._check_tail(end, tally)

    def _check_entry(self, number: int, tally: Tally) -> bool:
        rows, _, slot, crc = self._index[number].tolist()
        block = self._raw.layout.block
        where = f"rows {count(number * block)} to {count((number + 1) * block - 1)}"
        if not self._index[number].any():
            tally.problem(f"{where} are missing: their block could not be written, or its entry is damaged")
        elif rows != block or slot > self._raw.layout.slots or (crc and not slot):
            tally.problem(f"{where}: the entry of their block in the index is damaged")
        else:
            return True
        return False

    def _check_block(self, number: int, state: str, tally: Tally) -> None:
        layout, raw = self._raw.layout, self._raw
        _, crc, slot, values_crc = self._index[number].tolist()
        steps = raw.read("series/step", "<i8", layout.block, 8 * layout.block * number)
        times = raw.read("series/time", "<f8", layout.block, 8 * layout.block * number)
        summaries = {name: self._summary(name, rows, number) for name, rows in layout.levels.items()}
        where = f"steps {steps[0]} to {steps[-1]}"
        if _crc(steps, times, *summaries.values()) != crc:
            tally.problem(f"{where}: the checksum of their steps, times and summaries is wrong")
        self._check_steps(steps, times, where, tally)
        if not slot:
            tally.count("thinned blocks")
            return
        size = layout.value_bytes
        values = raw.read("series/blocks", "<f4", size // 4, (slot - 1) * size)
        if _crc(values) != values_crc:
            if state == "live" and not np.array_equal(self._read_index()[number], self._index[number]):
                return  # given up for a newer block just now
            tally.problem(f"{where}: the checksum of their values is wrong")
        table = np.ascontiguousarray(values.reshape(layout.columns, layout.block).T)
        self._check_summaries(table, steps, summaries, tally)
        self._check_against_ring(number, table, steps, times, tally)

    def _summary(self, name: str, rows: int, number: int) -> Floats:
        cells = self._raw.layout.block // rows
        shape = (self._raw.layout.columns, len(QUANTITIES), cells)
        size = int(np.prod(shape))
        return np.asarray(self._raw.read(name, "<f4", size, 4 * size * number).reshape(shape), np.float32)

    def _check_steps(self, steps: NDArray[Any], times: NDArray[Any], where: str, tally: Tally) -> None:
        if not (np.diff(steps) > 0).all() or steps[0] <= self._last_step:
            tally.problem(f"{where}: the numbers of the steps do not rise")
        if not np.isfinite(times).all():
            tally.problem(f"{where}: some of the times are no numbers")
        self._last_step = int(steps[-1])
        tally.count("steps", len(steps))

    def _check_summaries(
        self, table: Floats, steps: NDArray[Any], summaries: dict[str, Floats], tally: Tally
    ) -> None:
        for name, rows in self._raw.layout.levels.items():
            tally.count("summaries", summaries[name][:, 0].size)
            for found in disagreements(summaries[name], table, rows):
                first, last = steps[found.cell * rows], steps[(found.cell + 1) * rows - 1]
                tally.disagreement(found, f"steps {first} to {last}")

    def _check_against_ring(
        self, number: int, table: Floats, steps: NDArray[Any], times: NDArray[Any], tally: Tally
    ) -> None:
        """The rows that are in the ring as well."""
        block = self._raw.layout.block
        numbers, words = self._ring.rows(number * block, (number + 1) * block)
        rows = numbers - number * block
        both = np.ascontiguousarray(words[:, 2:ROW_HEAD_WORDS]).view("<u8")
        values = words[:, ROW_HEAD_WORDS : ROW_HEAD_WORDS + self._raw.layout.columns]
        same = (both[:, 0] == steps[rows].view("<u8")) & (both[:, 1] == times[rows].view("<u8"))
        same &= (values == table[rows].view("<u4")).all(axis=1)
        for row in rows[~same]:
            tally.problem(f"step {steps[row]}: the row in the ring is not the one in its block")

    def _check_tail(self, blocks: int, tally: Tally) -> None:
        """The rows after the last block."""
        numbers, words = self._ring.rows(blocks * self._raw.layout.block, np.iinfo(np.int64).max)
        if not len(numbers):
            return
        heads = np.ascontiguousarray(words[np.argsort(numbers), 2:ROW_HEAD_WORDS])
        steps, times = heads[:, :2].copy().view("<i8")[:, 0], heads[:, 2:].copy().view("<f8")[:, 0]
        self._check_steps(steps, times, f"steps {steps[0]} to {steps[-1]}", tally)


def _crc(*arrays: NDArray[Any]) -> int:
    crc = 0
    for array in arrays:
        crc = zlib.crc32(np.ascontiguousarray(array).data, crc)
    return crc
